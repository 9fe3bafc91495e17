//! The server around the hub: sockets, files, clocks, commands. Decides nothing that the core can decide.
//!
//! `comet` is a thin program over this library; the tests start servers from it. In reading order:
//!
//! - [`server`]: the composition root; [`shared`]: what its threads share; [`listener`]: doors with roles;
//! - [`room`]: how many connections the host allows; [`visitor`]: who sends a request; [`gateway_key`]: how a gateway proves
//!   itself; [`budget`]: who may wait behind one; [`static_files`]: what a web server answers by itself;
//! - [`shard`]: one core's connections, THE loop; [`connection`], [`round`], [`wire`], [`timer`]: what it works with;
//! - [`endpoint`]: path to what answers; [`api`]: the answers; [`question`]: those that may have to come from the store;
//!   [`access`]: who may ask;
//! - [`http`], [`websocket`], [`seed`]: bytes on a wire, no I/O;
//! - [`config`], [`data_folder`], [`platform`], [`logging`], [`metrics`], [`openapi`]: ground;
//! - [`kept`]: what memory kept, from a stop in good order to the next start;
//! - [`gateway`]: a browser's request on its way through a web server that only runs programs;
//! - [`cli`], [`client`], [`mod@bench`]: the commands.

// They panic where nobody reads: a line that is not read must not end anything.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod access;
pub mod api;
pub mod bench;
pub mod broker;
pub mod budget;
pub mod cli;
pub mod client;
pub mod config;
pub mod connection;
pub mod data_folder;
pub mod endpoint;
pub mod gateway;
pub mod gateway_key;
pub mod http;
pub mod kept;
pub mod listener;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod openapi;
pub mod plain_file;
pub mod platform;
pub mod question;
pub mod room;
pub mod round;
pub mod seed;
pub mod server;
pub mod shard;
pub mod shared;
pub mod static_files;
pub mod timer;
pub mod visitor;
pub mod websocket;
pub mod wire;
