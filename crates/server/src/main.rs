//! The `comet` command.
fn main() {}
