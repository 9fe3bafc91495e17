//! The counters as text for Prometheus and as JSON for people: one list of families, two ways to write it.

use std::fmt::Write;

use cometserver_core::quota::Usage;
use serde_json::{Map, Value, json};

use crate::broker::disk::DiskStats;

use super::{BUCKETS_MICROS, Count, Family, Histogram, Label, Metrics, ShardMetrics};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What every name of ours begins with.
const PREFIX: &str = "cometserver_";

/// What shards do not count, as it is at the moment of asking.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    /// Channels that exist.
    pub channels: u64,
    /// Bytes that all logs keep.
    pub log_bytes: u64,
    /// Bytes of them that the live window protects.
    pub window_bytes: u64,
    /// By table: what visitors have of it, and how often one was refused more.
    pub visitors: Vec<(&'static str, Usage)>,
    /// Bytes that visitors make the server hold.
    pub memory_held: u64,
    /// How much that may be.
    pub memory_limit: u64,
    /// Requests that wait behind gateways which proved that they are the site's own, and behind others.
    pub gateway_holds: [u64; 2],
    /// The longest that the hub's lock was held since the start, in steps and in seconds of processor time.
    pub longest_hold: (u64, f64),
    /// By table of the server: entries in it.
    pub tables: Vec<(&'static str, u64)>,
    /// By realm: publications that a ceiling took out of a log before their time, since the start.
    pub trimmed: Vec<(String, u64)>,
    /// The log on disk, if there is one.
    pub storage: Option<DiskStats>,
    /// The number of connections at which visitors are turned away.
    pub connections_limit: u64,
    /// Lines of the log that could not be written, since the start.
    pub log_lines_lost: u64,
    /// Open file descriptors, where the system tells.
    pub open_fds: Option<u64>,
    /// The most file descriptors that may be open, where there is a limit.
    pub max_fds: Option<u64>,
    /// Memory in RAM, in bytes, where the system tells.
    pub resident_bytes: Option<u64>,
}

impl Metrics {
    /// The text exposition format 0.0.4 of Prometheus.
    pub fn render(&self, gauges: &Gauges) -> String {
        let mut out = String::with_capacity(8 * 1024);
        for family in self.families(gauges) {
            family.write(&mut out);
        }
        out
    }

    /// The same as one JSON object: names without `cometserver_`, families with a label as objects by its values, the
    /// histogram as `count`, `sum` and cumulative `buckets` (pairs of upper bound in seconds and count). `version` is
    /// a string.
    pub fn to_json(&self, gauges: &Gauges) -> Value {
        let families = self
            .families(gauges)
            .into_iter()
            .filter(|family| family.name != "build_info");
        let mut object: Map<_, _> = families
            .map(|f| (f.name.to_owned(), f.samples.to_json()))
            .collect();
        object.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        Value::Object(object)
    }

    fn families(&self, gauges: &Gauges) -> Vec<Described> {
        let mut families = self.state(gauges);
        families.extend(self.traffic(gauges));
        families.extend(gauges.storage.iter().flat_map(storage));
        families
    }

    /// What is.
    fn state(&self, gauges: &Gauges) -> Vec<Described> {
        let version = Samples::By("version", vec![(env!("CARGO_PKG_VERSION").to_owned(), 1)]);
        let started = Samples::Plain(self.started_ms as f64 / 1000.0);
        let tables = gauges
            .tables
            .iter()
            .map(|(name, entries)| ((*name).to_owned(), *entries));
        let tables = tables.collect();
        let mut families = vec![
            gauge("build_info", "Always 1; the version that runs.", version),
            gauge(
                "start_time_seconds",
                "When the server started, since 1970.",
                started,
            ),
            gauge(
                "connections",
                "Open connections.",
                self.by("transport", |s| &s.connections),
            ),
            gauge(
                "connections_limit",
                "Connections at which visitors are turned away.",
                plain(gauges.connections_limit),
            ),
            gauge(
                "subscriptions",
                "Subscriptions that stand.",
                self.by("kind", |s| &s.subscriptions),
            ),
            gauge(
                "holds",
                "Requests held: long polls, SSE, streams.",
                self.sum(|s| &s.holds),
            ),
            gauge(
                "gateway_holds",
                "Of them those with a route; proved: whether the gateway showed its key.",
                Samples::By(
                    "proved",
                    ["yes", "no"]
                        .into_iter()
                        .map(str::to_owned)
                        .zip(gauges.gateway_holds)
                        .collect(),
                ),
            ),
            gauge(
                "pending_bytes",
                "Bytes that wait for peers that take no more now.",
                self.sum(|s| &s.pending_bytes),
            ),
            gauge(
                "memory_held_bytes",
                "Bytes that visitors make the server hold.",
                plain(gauges.memory_held),
            ),
            gauge(
                "memory_limit_bytes",
                "How much that may be: limits.memory.",
                plain(gauges.memory_limit),
            ),
            gauge(
                "turn_longest_steps",
                "Most steps of work in one turn of a connection since the start.",
                plain(self.most(|s| &s.turn_longest_steps)),
            ),
            gauge(
                "turn_longest_seconds",
                "Longest turn of a connection since the start, in CPU time.",
                Samples::Plain(self.most(|s| &s.turn_longest_nanos) as f64 / 1e9),
            ),
            gauge(
                "table_entries",
                "Entries in the server's tables: each falls again with what it grew with.",
                Samples::By("table", tables),
            ),
            gauge("channels", "Channels that exist.", plain(gauges.channels)),
            gauge("log_bytes", "Bytes kept in all logs.", plain(gauges.log_bytes)),
            gauge(
                "window_bytes",
                "Bytes the live window protects.",
                plain(gauges.window_bytes),
            ),
            gauge(
                "visitor_entries",
                "What visitors have of the tables that all share.",
                by_table(gauges, |usage| usage.taken as u64),
            ),
            gauge(
                "hub_hold_longest_steps",
                "The most steps in one hold of the hub's lock.",
                plain(gauges.longest_hold.0),
            ),
            gauge(
                "hub_hold_longest_seconds",
                "The most processor time in one hold of the hub's lock.",
                Samples::Plain(gauges.longest_hold.1),
            ),
        ];
        // Without our prefix: Prometheus' own names, the same for every program.
        let process = [
            ("process_open_fds", "Open file descriptors.", gauges.open_fds),
            ("process_max_fds", "Most open file descriptors.", gauges.max_fds),
            (
                "process_resident_memory_bytes",
                "Memory in RAM.",
                gauges.resident_bytes,
            ),
        ];
        families.extend(process.into_iter().filter_map(|(name, help, value)| {
            Some(Described {
                prefix: "",
                ..gauge(name, help, plain(value?))
            })
        }));
        families
    }

    /// What has been since the start.
    fn traffic(&self, gauges: &Gauges) -> Vec<Described> {
        let trimmed = Samples::By("realm", gauges.trimmed.clone());
        let took = self.buckets(|s| &s.publish_to_write);
        vec![
            counter(
                "connections_total",
                "Connections accepted.",
                self.sum(|s| &s.connections_total),
            ),
            counter(
                "publications_total",
                "Publications accepted.",
                self.by("door", |s| &s.publications),
            ),
            counter(
                "deliveries_total",
                "Publications written.",
                self.by("transport", |s| &s.deliveries),
            ),
            counter(
                "gaps_total",
                "Gaps that clients were told of.",
                self.sum(|s| &s.gaps),
            ),
            counter(
                "recoveries_total",
                "Returns with a cursor.",
                self.by("result", |s| &s.recoveries),
            ),
            counter(
                "drops_total",
                "Connections the server ended.",
                self.by("reason", |s| &s.drops),
            ),
            counter(
                "refused_total",
                "Requests answered with an error.",
                self.by("reason", |s| &s.refused),
            ),
            counter(
                "visitor_refused_total",
                "Times that a visitor could have no more of a table; idempotency keys: forgotten before their time.",
                by_table(gauges, |usage| usage.refused),
            ),
            counter(
                "trimmed_total",
                "Publications a ceiling took out before their time.",
                trimmed,
            ),
            counter(
                "log_lines_lost_total",
                "Lines of the log that could not be written.",
                plain(gauges.log_lines_lost),
            ),
            counter(
                "cold_reads_total",
                "Pages that readers had fetched from disk.",
                self.sum(|s| &s.cold_reads),
            ),
            counter(
                "bytes_received_total",
                "Bytes read from sockets.",
                self.sum(|s| &s.bytes_received),
            ),
            counter(
                "bytes_sent_total",
                "Bytes written to sockets.",
                self.sum(|s| &s.bytes_sent),
            ),
            described(
                Kind::Histogram,
                "publish_to_write_seconds",
                "From visible to written.",
                took,
            ),
        ]
    }

    fn sum(&self, pick: impl Fn(&ShardMetrics) -> &Count) -> Samples {
        plain(self.total(pick))
    }

    fn by<L: Label, const N: usize>(
        &self,
        label: &'static str,
        pick: impl Fn(&ShardMetrics) -> &Family<L, N>,
    ) -> Samples {
        let sample =
            |&(value, name): &(L, &str)| (name.to_owned(), self.total(|shard| pick(shard).of(value)));
        Samples::By(label, L::ALL.iter().map(sample).collect())
    }

    fn buckets(&self, pick: impl Fn(&ShardMetrics) -> &Histogram) -> Samples {
        let mut count = 0;
        let cumulative = (0..=BUCKETS_MICROS.len())
            .map(|bucket| {
                count += self.total(|shard| &pick(shard).buckets[bucket]);
                count
            })
            .collect();
        Samples::Histogram {
            cumulative,
            sum: seconds(self.total(|shard| &pick(shard).sum_micros)),
        }
    }
}

fn by_table(gauges: &Gauges, pick: impl Fn(&Usage) -> u64) -> Samples {
    let sample = |(table, usage): &(&'static str, Usage)| ((*table).to_owned(), pick(usage));
    Samples::By("table", gauges.visitors.iter().map(sample).collect())
}

/// The log on disk.
fn storage(stats: &DiskStats) -> Vec<Described> {
    let gauges = [
        ("storage_bytes", "Bytes of the log on disk.", stats.bytes),
        (
            "storage_live_bytes",
            "Bytes in it of what is kept; the rest is cleared away in time.",
            stats.live_bytes,
        ),
        ("storage_segments", "Files of the log.", stats.segments as u64),
        (
            "storage_channels",
            "Channels that the log knows.",
            stats.channels as u64,
        ),
        (
            "storage_publications",
            "Publications kept on disk, counted once for each of their channels.",
            stats.publications as u64,
        ),
        (
            "storage_queued_bytes",
            "Bytes that wait to be written.",
            stats.queued_bytes as u64,
        ),
        (
            "storage_queued_reads",
            "Reads that wait for the disk.",
            stats.queued_reads as u64,
        ),
    ];
    let counters = [
        ("storage_batches_total", "Batches written.", stats.batches),
        (
            "storage_fsyncs_total",
            "Times the disk was asked to make something safe.",
            stats.syncs,
        ),
        (
            "storage_fsync_failures_total",
            "Times it could not.",
            stats.sync_failures,
        ),
        (
            "storage_write_failures_total",
            "Batches that were not stored.",
            stats.write_failures,
        ),
        (
            "storage_damaged_total",
            "Parts of the log found damaged.",
            stats.damaged,
        ),
        (
            "storage_trimmed_total",
            "Publications that storage.max_size took before their time.",
            stats.trimmed_for_ceiling,
        ),
        (
            "storage_copied_bytes_total",
            "Bytes copied forward, so that files could go.",
            stats.copied_bytes,
        ),
        (
            "storage_removed_segments_total",
            "Files of the log removed.",
            stats.removed_segments,
        ),
    ];
    let gauges = gauges.map(|(name, help, value)| gauge(name, help, plain(value)));
    let counters = counters.map(|(name, help, value)| counter(name, help, plain(value)));
    gauges.into_iter().chain(counters).collect()
}

/// A family of samples with what is told about it.
struct Described {
    prefix: &'static str,
    name: &'static str,
    kind: Kind,
    help: &'static str,
    samples: Samples,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

enum Samples {
    Plain(f64),
    /// A label's name, and a count for each of its values.
    By(&'static str, Vec<(String, u64)>),
    /// Counts up to each bound, the last up to infinity: their number is that of all, whatever shards do meanwhile.
    Histogram {
        cumulative: Vec<u64>,
        sum: f64,
    },
}

fn gauge(name: &'static str, help: &'static str, samples: Samples) -> Described {
    described(Kind::Gauge, name, help, samples)
}

fn counter(name: &'static str, help: &'static str, samples: Samples) -> Described {
    described(Kind::Counter, name, help, samples)
}

fn described(kind: Kind, name: &'static str, help: &'static str, samples: Samples) -> Described {
    Described {
        prefix: PREFIX,
        name,
        kind,
        help,
        samples,
    }
}

fn plain(value: u64) -> Samples {
    Samples::Plain(value as f64)
}

impl Described {
    fn write(&self, out: &mut String) {
        let name = format!("{}{}", self.prefix, self.name);
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        line(out, format_args!("# HELP {name} {}", self.help));
        line(out, format_args!("# TYPE {name} {kind}"));
        match &self.samples {
            Samples::Plain(value) => line(out, format_args!("{name} {value}")),
            Samples::By(label, samples) => {
                for (value, n) in samples {
                    line(out, format_args!("{name}{{{label}=\"{}\"}} {n}", escape(value)));
                }
            }
            Samples::Histogram { cumulative, sum } => {
                for (bucket, n) in cumulative.iter().enumerate() {
                    match BUCKETS_MICROS.get(bucket) {
                        Some(&bound) => line(
                            out,
                            format_args!("{name}_bucket{{le=\"{}\"}} {n}", seconds(bound)),
                        ),
                        None => line(
                            out,
                            format_args!("{name}_bucket{{le=\"+Inf\"}} {n}\n{name}_count {n}"),
                        ),
                    }
                }
                line(out, format_args!("{name}_sum {sum}"));
            }
        }
    }
}

impl Samples {
    fn to_json(&self) -> Value {
        match self {
            Samples::Plain(value) if value.fract() == 0.0 => json!(*value as u64),
            Samples::Plain(value) => json!(value),
            Samples::By(_, samples) => Value::Object(
                samples
                    .iter()
                    .map(|(name, n)| (name.clone(), json!(n)))
                    .collect::<Map<_, _>>(),
            ),
            Samples::Histogram { cumulative, sum } => {
                let bounded = BUCKETS_MICROS.iter().zip(cumulative);
                let buckets: Vec<Value> = bounded.map(|(&bound, n)| json!([seconds(bound), n])).collect();
                json!({ "count": cumulative.last(), "sum": sum, "buckets": buckets })
            }
        }
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = out.write_fmt(text);
    out.push('\n');
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn escape(value: &str) -> String {
    value
        .replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n")
}

#[cfg(test)]
mod tests;
