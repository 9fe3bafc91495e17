//! What keeps publications for longer than the process lives: the brokers behind the core's trait.

pub mod disk;
