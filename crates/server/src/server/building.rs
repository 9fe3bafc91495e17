//! What a configuration means to the hub and the shards; a reload.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cometserver_core::hub::{self};
use cometserver_core::namespace::{Bounds, Durability, Namespace, Namespaces};
use cometserver_core::pattern::Pattern;
use cometserver_core::quota::Parts;

use crate::access::Access;
use crate::config::{self, Config};
use crate::listener::Door;
use crate::shared::{self, Reloaded, Settings};

use super::{Reload, StartError, binding, opening};

/// Reads the configuration again, and puts in force what can be without a restart. A bad one changes nothing. What cannot
/// stays as it runs, so that the next reload is compared with that, not with a file that nobody has put in force.
pub(super) fn reload_with(read: Option<Reload>) -> shared::Reload {
    Box::new(move |shared| {
        let Some(read) = &read else {
            return Ok(Reloaded::default());
        };
        let loaded = read().map_err(|error| error.to_string())?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        check(&loaded.config, &shared.doors)?;
        let running = shared.settings();
        let (config, needs_restart) = running.config.followed_by(loaded.config, shared.hub.has_store());
        let namespaces = namespaces(&config)?;
        let access = running
            .access
            .followed_by(&config)
            .map_err(|error| error.to_string())?;
        let ended = running.access.ended_by(&access);
        shared.hub.set_namespaces(namespaces);
        shared.set_settings(Settings { config, access });
        Ok(Reloaded { needs_restart, ended })
    })
}

/// What only a server that starts would find: what the settings mean together, and what origins and patterns have to be.
/// `bound`: doors that are open already.
///
/// # Errors
/// The first mistake found, with the setting and the way out.
pub fn check(config: &Config, bound: &[Door]) -> Result<(), String> {
    Access::new(config).map_err(|error| error.to_string())?;
    namespaces(config)?;
    binding::check_proxied(config, bound.iter())
}

pub(super) fn settings(config: Config) -> Result<Settings, String> {
    let access = Access::new(&config).map_err(|error| error.to_string())?;
    Ok(Settings { config, access })
}

pub(super) fn hub_options(config: &Config) -> Result<hub::Options, StartError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let limits = &config.limits;
    let incarnation = getrandom::u32().map_err(|error| StartError::System {
        what: "random numbers",
        source: io::Error::other(error.to_string()),
    })?;
    Ok(hub::Options {
        namespaces: namespaces(config).map_err(StartError::Config)?,
        window: millis(limits.window),
        window_bytes: limits.window_bytes,
        log_memory: limits.log_memory,
        buffered: config.storage.buffered,
        queue: opening::queue(config),
        channels: limits.channels,
        patterns: limits.patterns_total,
        idempotency_window: millis(limits.idempotency_window),
        idempotency_keys: limits.idempotency_keys,
        presence: cometserver_core::presence::Limits {
            grace: millis(config.presence.grace),
            announce: config.presence.announce_limit,
            members: config.presence.members,
        },
        parts: Parts {
            one: limits.one_visitor,
            all: limits.all_visitors,
        },
        incarnation,
        ..hub::Options::default()
    })
}

/// What a configuration says of channels.
///
/// # Errors
/// A pattern that is none.
pub fn namespaces(config: &Config) -> Result<Namespaces, String> {
    let listed = config.namespaces.iter().map(|rule| {
        let pattern = Pattern::new(&rule.pattern, config.limits.pattern_length)
            .map_err(|error| format!("[[namespaces]] match {:?}: {error}", rule.pattern))?;
        Ok((pattern, Arc::new(namespace(&rule.namespace))))
    });
    Ok(Namespaces {
        listed: listed.collect::<Result<_, String>>()?,
        fallback: Arc::new(namespace(&config.namespace_default)),
    })
}

pub(super) fn namespace(config: &config::Namespace) -> Namespace {
    Namespace {
        public: config.public,
        anonymous_publish: config.anonymous_publish,
        presence: config.presence,
        anonymous_presence: config.anonymous_presence,
        history: Bounds {
            count: config.history_count,
            bytes: config.history_bytes,
            age: u64::try_from(config.history_age.as_millis()).unwrap_or(u64::MAX),
        },
        durability: match config.durability {
            config::Durability::Memory => Durability::Memory,
            config::Durability::Buffered => Durability::Buffered,
            config::Durability::Fsync => Durability::Committed,
        },
    }
}
