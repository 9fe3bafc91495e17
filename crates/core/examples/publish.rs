//! Publishes to new channels beside patterns that do not match them, for counting instructions: what a publication costs must
//! grow with those who get it, not with those who exist.
//!
//! `publish PATTERNS PUBLICATIONS [searched|common|matching]`, see `scripts/bench-instructions`. With a shape, names of 8 KiB, and
//! patterns made for them, as many as `PATTERNS` weigh: they have to be searched for and nearly match, or cannot be told apart
//! by their beginnings, or all match.

use std::error::Error;
use std::sync::Arc;

use cometserver_core::channel::{ChannelName, MAX_NAME};
use cometserver_core::hub::{Hub, Options};
use cometserver_core::pattern::Pattern;
use cometserver_core::publication::Message;

/// The longest pattern.
const LENGTH: usize = 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let shape = std::env::args().nth(3);
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let (patterns, publications) = (
        arguments.next().unwrap_or(Ok(10_000))?,
        arguments.next().unwrap_or(Ok(1_000))?,
    );
    let hub = Hub::new(Options {
        patterns,
        ..Options::default()
    });
    hub.attach(0, Box::new(|| {}));
    for number in 0..patterns {
        if let Some(shape) = &shape {
            let text = match shape.as_str() {
                "searched" => format!("**a*b{number}*"),
                "common" => format!("news/**{number}"),
                _ => format!(
                    "{}**{}",
                    &"news/of/"[..number % 8 + 1],
                    "a".repeat(number / 8 % 1_000)
                ),
            };
            if hub
                .listen_pattern(0, &Arc::new(Pattern::new(text, LENGTH)?))
                .is_err()
            {
                break;
            }
            continue;
        }
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
        let mut name = format!("news/of/{number}");
        if shape.is_some() {
            name.push_str(&"a".repeat(MAX_NAME - name.len()));
        }
        let channel = ChannelName::new(name)?;
        hub.publish(Message::text(channel, "a"), 1, &mut || {
            unreachable!("nothing is durable")
        })?;
    }
    if shape.is_some() {
        println!("longest hold of the lock: {} steps", hub.longest_hold().steps);
    }
    Ok(())
}
