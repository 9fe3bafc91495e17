//! The server around the hub: sockets, files, clocks, commands. Decides nothing that the core can decide.
#![allow(missing_docs)] // removed when the map stands

pub mod config;
pub mod data_folder;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod openapi;
pub mod platform;
pub mod timer;
pub mod websocket;
