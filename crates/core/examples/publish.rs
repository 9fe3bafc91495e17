//! Publishes to new channels beside patterns that do not match them, for counting instructions: what a publication costs must
//! grow with those who get it, not with those who exist.
//!
//! `publish PATTERNS PUBLICATIONS`, see `scripts/bench-instructions patterns`.

use std::error::Error;
use std::sync::Arc;

use cometserver_core::channel::ChannelName;
use cometserver_core::hub::{Hub, Options};
use cometserver_core::pattern::Pattern;
use cometserver_core::publication::Message;

/// The longest pattern.
const LENGTH: usize = 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let (patterns, publications) = (
        arguments.next().unwrap_or(Ok(10_000))?,
        arguments.next().unwrap_or(Ok(1_000))?,
    );
    let hub = Hub::new(Options::default());
    hub.attach(0, Box::new(|| {}));
    for number in 0..patterns {
        // Beginnings of several lengths, and some ends.
        let text = match number % 4 {
            0 => format!("user-{number}/*"),
            1 => format!("team/{number}/**"),
            2 => format!("*/room-{number}"),
            _ => format!("{number}/**/end"),
        };
        hub.listen_pattern(0, &Arc::new(Pattern::new(text, LENGTH)?))?;
    }
    for number in 0..publications {
        let channel = ChannelName::new(format!("news/of/{number}"))?;
        hub.publish(Message::text(channel, "a"), 1, &mut || {
            unreachable!("nothing is durable")
        })?;
    }
    Ok(())
}
