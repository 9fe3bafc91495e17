//! The hub of CometServer.
