//! The hub of CometServer: it decides everything and does no I/O.
//!
//! A publication is stored once, in its channel's log; every subscriber is a cursor. Modules in reading order:
//!
//! - [`channel`], [`pattern`]: names, validated once at the door, and patterns over names;
//! - [`position`], [`cursor`]: a place in the hub's order, and the same as a client carries it;
//! - [`json`]: JSON that every reader takes, checked once where it comes in;
//! - [`publication`]: a [`Message`] comes in; with its places it is a [`Publication`];
//! - [`namespace`]: what holds for a channel: bounds, rights, durability;
//! - [`log`], [`order`], [`shares`]: where publications wait, in which order, and who gives way at a ceiling;
//! - [`broker`]: who orders and keeps what must survive a restart;
//! - [`action`], [`token`], [`grant`]: what a client may do, until when;
//! - [`quota`]: what visitors may take of the tables that all share;
//! - [`idempotency`], [`presence`], [`registry`]: repeated requests, members, who listens to what;
//! - [`kept`]: what is handed over at a stop in good order, for the next start;
//! - `names`, `few`: tables by name and short lists, for what many idle things cost;
//! - [`hub`]: the door to all of it;
//! - [`protocol`]: what the hub's items look like on a wire.
//!
//! ```
//! use std::sync::Arc;
//! use cometserver_core::{hub::{Answer, Hub, Options, Published}, channel::ChannelName, publication::Message};
//!
//! let hub = Arc::new(Hub::new(Options::default()));
//! let news = ChannelName::new(b"news").unwrap();
//! let now = 1_700_000_000_000;
//! let Published::Visible(receipt) = hub.publish(Message::text(news.clone(), "hello"), now, &mut || unreachable!()).unwrap()
//! else { panic!("memory publications are visible at once") };
//! assert_eq!(receipt.places[0].offset, 1);
//! let Answer::Ready(Some(history)) = hub.history(&news, Default::default(), now, &mut || unreachable!())
//! else { panic!("what is in memory is answered at once") };
//! assert_eq!(history.publications.len(), 1);
//! ```

pub mod action;
pub mod broker;
pub mod channel;
pub mod cursor;
pub mod fanout;
mod few;
pub mod grant;
pub mod hub;
pub mod idempotency;
pub mod json;
pub mod kept;
pub mod log;
mod names;
pub mod namespace;
pub mod order;
mod paged;
pub mod pattern;
pub mod position;
pub mod presence;
pub mod protocol;
pub mod publication;
pub mod quota;
pub mod registry;
pub mod shares;
pub mod tidy;
pub mod token;

pub use channel::{Channel, ChannelId, ChannelName};
pub use cursor::Cursor;
pub use position::{Position, Source};
pub use publication::{Message, Publication};

/// Milliseconds since 1970, handed in by whoever calls: the core never asks a clock.
///
/// It is for age and display and never orders anything.
pub type Time = u64;
