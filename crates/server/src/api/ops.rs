//! For the operator: readiness, figures, reload.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::logging;
use crate::metrics::Gauges;
use crate::platform;
use crate::shared::Shared;

use super::{Answer, Refused};

/// Does it work at all? Once its log has failed it only waits to be started again.
pub(super) fn live(answer: Answer<'_>) {
    match answer.shared.trouble.is_final() {
        true => answer.json(503, b"{\"status\":\"failed\"}"),
        false => answer.json(200, b"{\"status\":\"ok\"}"),
    }
}

/// Ready for clients? In detail only where monitoring may look.
pub(super) fn ready(answer: Answer<'_>) {
    let shared = answer.shared;
    let draining = shared.draining.load(Ordering::Relaxed);
    let lacks_folder = shared.trouble.lacks_folder();
    // It serves whatever is in memory, and reads what is on disk: that its log takes nothing is for the operator to know.
    let trouble = shared.trouble.now().filter(|_| answer.ops);
    let (status, word) = match (shared.trouble.is_final(), draining, lacks_folder, &trouble) {
        (true, ..) => (503, "failed"),
        (_, true, ..) => (503, "draining"),
        // No command finds it, and a restart is the only way out.
        (_, _, true, _) => (503, "gone"),
        (.., Some(_)) => (200, "degraded"),
        (.., None) => (200, "ready"),
    };
    let mut body = serde_json::json!({"status": word});
    if answer.ops {
        body["storage"] = match (&shared.log, trouble) {
            (_, Some(trouble)) => trouble.into(),
            (None, None) => "off".into(),
            (Some(_), None) => "ok".into(),
        };
        let stats = shared.hub.stats();
        body["version"] = env!("CARGO_PKG_VERSION").into();
        body["uptime_ms"] = answer.now.saturating_sub(shared.started).into();
        body["connections"] = shared.connections.load(Ordering::Relaxed).into();
        body["connections_limit"] = connections_limit(shared).into();
        body["held"] = shared.held().into();
        body["channels"] = stats.channels.into();
        body["publications"] = stats.publications.into();
        body["log_bytes"] = stats.log_bytes.into();
    }
    answer.json(status, body.to_string().as_bytes());
}

pub(super) fn reload(answer: Answer<'_>) -> Result<(), Refused> {
    let reloaded = answer
        .shared
        .reload()
        .map_err(|error| Refused::new(422, "bad_configuration", error))?;
    let body = serde_json::json!({
        "reloaded": true,
        "needs_restart": reloaded.needs_restart,
        "ended": reloaded.ended,
    });
    answer.json(200, body.to_string().as_bytes());
    Ok(())
}

pub(super) fn gauges(shared: &Shared) -> Gauges {
    let stats = shared.hub.stats();
    let longest = shared.hub.longest_hold();
    let mut realms = shared.hub.trimmed_early();
    // A counter that is there from the start can be watched before it first moves.
    realms.entry(0).or_default();
    Gauges {
        channels: stats.channels as u64,
        log_bytes: stats.log_bytes as u64,
        window_bytes: stats.window_bytes as u64,
        visitors: vec![
            ("channels", stats.visitors.channels),
            ("name_bytes", stats.visitors.name_bytes),
            ("patterns", stats.visitors.patterns),
            ("members", stats.visitors.members),
            ("queued_bytes", stats.visitors.queued_bytes),
            ("idempotency_keys", stats.visitors.keys),
            ("held", shared.held_usage()),
            ("static_files", shared.static_files.usage()),
        ],
        memory_held: shared.memory.held() as u64,
        memory_limit: shared.memory.limit() as u64,
        gateway_holds: [true, false].map(|is_proved| shared.gateways.held_by(is_proved) as u64),
        longest_hold: (
            longest.steps as u64,
            Duration::from_nanos(longest.nanoseconds).as_secs_f64(),
        ),
        tables: shared
            .tables()
            .into_iter()
            .map(|table| (table.name, table.entries as u64))
            .collect(),
        trimmed: realms
            .into_iter()
            .map(|(realm, count)| (realm_name(realm), count))
            .collect(),
        storage: shared.log.as_ref().map(|log| log.stats()),
        connections_limit: connections_limit(shared) as u64,
        log_lines_lost: logging::lines_lost(),
        open_fds: platform::open_descriptors(),
        max_fds: Some(shared.room.descriptors).filter(|most| *most < u64::MAX),
        resident_bytes: platform::process_usage(std::process::id())
            .ok()
            .map(|usage| usage.resident),
    }
}

/// The number of connections at which visitors are turned away: what the settings allow and the host has room for.
fn connections_limit(shared: &Shared) -> usize {
    shared.room.visitors(shared.settings().config.limits.connections)
}

/// Realms get names with the dialects that make them; until then there is one.
pub(super) fn realm_name(realm: u16) -> String {
    if realm == 0 {
        "default".to_owned()
    } else {
        realm.to_string()
    }
}
