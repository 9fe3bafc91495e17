//! The exposition is read back by a parser that is stricter than Prometheus.

use std::collections::BTreeMap;

use crate::broker::disk::DiskStats;

use super::*;
use crate::metrics::{Door, DropReason, Recovery, Refusal, Subscription, Transport};

/// The only labels there may be: none of them can hold a channel, a user or an address.
const LABELS: [&str; 10] = [
    "transport",
    "kind",
    "proved",
    "door",
    "result",
    "reason",
    "realm",
    "table",
    "version",
    "le",
];

type Sample = (String, Vec<(String, String)>, f64);

#[derive(Debug)]
struct Parsed {
    kind: String,
    samples: Vec<Sample>,
}

impl Parsed {
    fn value(&self, label: &str) -> f64 {
        let find = |sample: &&Sample| sample.1.iter().any(|(_, value)| value == label);
        self.samples
            .iter()
            .find(find)
            .unwrap_or_else(|| panic!("no {label}"))
            .2
    }
}

/// Panics at whatever the format does not allow.
fn parse(text: &str) -> BTreeMap<String, Parsed> {
    let mut families: BTreeMap<String, Parsed> = BTreeMap::new();
    let body = text.strip_suffix('\n').expect("ends with a line feed");
    let mut lines = body.split('\n').peekable();
    while let Some(line) = lines.next() {
        let (name, help) = line
            .strip_prefix("# HELP ")
            .expect("a family begins with HELP")
            .split_once(' ')
            .unwrap();
        assert!(is_name(name) && !help.trim().is_empty(), "{line}");
        let line = lines.next().unwrap();
        let (same, kind) = line
            .strip_prefix("# TYPE ")
            .expect("TYPE follows HELP")
            .split_once(' ')
            .unwrap();
        assert_eq!(same, name);
        assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        let mut samples: Vec<Sample> = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let (sample, labels, value) = parse_sample(line);
            let suffixes = if kind == "histogram" {
                &["_bucket", "_sum", "_count"][..]
            } else {
                &[""]
            };
            assert!(
                suffixes.iter().any(|suffix| sample == format!("{name}{suffix}")),
                "{line}"
            );
            assert!(
                !samples.iter().any(|known| known.0 == sample && known.1 == labels),
                "twice: {line}"
            );
            samples.push((sample, labels, value));
        }
        if kind == "histogram" {
            check_histogram(&samples);
        }
        let before = families.insert(
            name.to_owned(),
            Parsed {
                kind: kind.to_owned(),
                samples,
            },
        );
        assert!(before.is_none(), "{name} comes twice");
    }
    families
}

fn parse_sample(line: &str) -> Sample {
    let name_end = line.find(['{', ' ']).expect("a value");
    let (name, mut rest) = line.split_at(name_end);
    assert!(is_name(name), "{line}");
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").expect("a label's value");
            assert!(
                LABELS.contains(&label),
                "a label that could hold anything: {line}"
            );
            let (value, after) = parse_quoted(after);
            labels.push((label.to_owned(), value));
            match after.strip_prefix(',') {
                Some(more) => rest = more,
                None => break rest = after.strip_prefix('}').expect("a closing brace"),
            }
        }
    }
    let value = rest
        .strip_prefix(' ')
        .expect("one blank")
        .parse::<f64>()
        .expect("a number");
    assert!(value >= 0.0 && value.is_finite(), "{line}");
    (name.to_owned(), labels, value)
}

fn parse_quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match chars.next().expect("an escape").1 {
                'n' => '\n',
                other @ ('\\' | '"') => other,
                other => panic!("unknown escape {other}"),
            }),
            other => value.push(other),
        }
    }
    panic!("no closing quote: {text}")
}

fn is_name(name: &str) -> bool {
    let known = name.starts_with("cometserver_") || name.starts_with("process_");
    known && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

fn check_histogram(samples: &[Sample]) {
    let buckets: Vec<&Sample> = samples
        .iter()
        .filter(|sample| sample.0.ends_with("_bucket"))
        .collect();
    let bound = |sample: &Sample| sample.1[0].1.parse::<f64>().unwrap();
    assert!(
        buckets
            .windows(2)
            .all(|pair| bound(pair[0]) < bound(pair[1]) && pair[0].2 <= pair[1].2)
    );
    assert_eq!(buckets.last().unwrap().1[0].1, "+Inf");
    let count = samples
        .iter()
        .find(|sample| sample.0.ends_with("_count"))
        .expect("a count");
    assert_eq!(count.2, buckets.last().unwrap().2);
    assert!(samples.iter().any(|sample| sample.0.ends_with("_sum")));
}

fn gauges() -> Gauges {
    Gauges {
        channels: 3,
        log_bytes: 4096,
        window_bytes: 2048,
        visitors: vec![("patterns", Usage { taken: 5, refused: 6 })],
        memory_held: 5,
        memory_limit: 64 << 20,
        gateway_holds: [12, 13],
        longest_hold: (1234, 0.000_25),
        tables: vec![("channels", 3), ("order", 2)],
        trimmed: vec![("default".to_owned(), 7), ("we\"ird\\\nrealm".to_owned(), 8)],
        storage: Some(DiskStats {
            bytes: 5000,
            syncs: 7,
            ..DiskStats::default()
        }),
        connections_limit: 900,
        log_lines_lost: 3,
        open_fds: Some(12),
        max_fds: Some(1024),
        resident_bytes: Some(5 << 40),
    }
}

#[test]
fn every_family_comes_once_with_help_and_type() {
    let families = parse(&Metrics::new(2, 1_700_000_000_250).render(&gauges()));
    let names: Vec<&str> = families
        .keys()
        .map(|name| name.trim_start_matches("cometserver_"))
        .collect();
    let mut wanted = [
        "build_info",
        "start_time_seconds",
        "connections",
        "connections_limit",
        "connections_total",
        "subscriptions",
        "publications_total",
        "deliveries_total",
        "gaps_total",
        "drops_total",
        "recoveries_total",
        "bytes_received_total",
        "bytes_sent_total",
        "refused_total",
        "holds",
        "gateway_holds",
        "pending_bytes",
        "memory_held_bytes",
        "table_entries",
        "memory_limit_bytes",
        "publish_to_write_seconds",
        "turn_longest_steps",
        "turn_longest_seconds",
        "channels",
        "log_bytes",
        "log_lines_lost_total",
        "window_bytes",
        "visitor_entries",
        "visitor_refused_total",
        "hub_hold_longest_steps",
        "hub_hold_longest_seconds",
        "trimmed_total",
        "cold_reads_total",
        "storage_bytes",
        "storage_live_bytes",
        "storage_segments",
        "storage_channels",
        "storage_publications",
        "storage_queued_bytes",
        "storage_queued_reads",
        "storage_batches_total",
        "storage_fsyncs_total",
        "storage_fsync_failures_total",
        "storage_write_failures_total",
        "storage_damaged_total",
        "storage_trimmed_total",
        "storage_copied_bytes_total",
        "storage_removed_segments_total",
        "process_max_fds",
        "process_open_fds",
        "process_resident_memory_bytes",
    ];
    wanted.sort_by_key(|name| match name.strip_prefix("process_") {
        Some(_) => format!("~{name}"),
        None => (*name).to_owned(),
    });
    assert_eq!(names, wanted);
    assert_eq!(families["cometserver_publish_to_write_seconds"].kind, "histogram");
    assert_eq!(
        families["cometserver_start_time_seconds"].samples[0].2,
        1_700_000_000.25
    );
    assert_eq!(
        families["process_resident_memory_bytes"].samples[0].2,
        (5u64 << 40) as f64
    );
}

#[test]
fn what_the_system_does_not_tell_is_left_out() {
    let silent = Gauges {
        open_fds: None,
        max_fds: None,
        resident_bytes: None,
        ..gauges()
    };
    let families = parse(&Metrics::new(1, 0).render(&silent));
    assert!(families.keys().all(|name| name.starts_with("cometserver_")));
}

#[test]
fn a_sample_is_there_before_it_first_counts() {
    let families = parse(&Metrics::new(1, 0).render(&Gauges::default()));
    assert_eq!(families["cometserver_refused_total"].samples.len(), 14);
    assert_eq!(families["cometserver_connections"].samples.len(), 6);
    assert_eq!(families["cometserver_deliveries_total"].value("websocket"), 0.0);
}

#[test]
fn shards_are_added_up_under_the_right_names() {
    let metrics = Metrics::new(3, 0);
    for shard in 0..3 {
        let own = metrics.shard(shard);
        own.connections_total.add(1);
        own.publications.of(Door::Seed).add(2);
        own.deliveries.of(Transport::WebSocket).add(3);
        own.gaps.add(4);
        own.drops.of(DropReason::Slow).add(5);
        own.recoveries.of(Recovery::Complete).add(6);
        own.bytes_received.add(7);
        own.bytes_sent.add(8);
        own.refused.of(Refusal::TooLarge).add(9);
        own.subscriptions.of(Subscription::Pattern).add(10);
        own.holds.add(11);
    }
    let families = parse(&metrics.render(&gauges()));
    let labelled = |name: &str, label| families[&format!("cometserver_{name}")].value(label);
    let plain = |name: &str| families[&format!("cometserver_{name}")].samples[0].2;
    assert_eq!(plain("connections_total"), 3.0);
    assert_eq!(labelled("publications_total", "seed"), 6.0);
    assert_eq!(labelled("publications_total", "http"), 0.0);
    assert_eq!(labelled("deliveries_total", "websocket"), 9.0);
    assert_eq!(plain("gaps_total"), 12.0);
    assert_eq!(labelled("drops_total", "slow"), 15.0);
    assert_eq!(labelled("recoveries_total", "complete"), 18.0);
    assert_eq!(plain("bytes_received_total"), 21.0);
    assert_eq!(plain("bytes_sent_total"), 24.0);
    assert_eq!(labelled("refused_total", "too_large"), 27.0);
    assert_eq!(labelled("subscriptions", "pattern"), 30.0);
    assert_eq!(plain("holds"), 33.0);
    assert_eq!(labelled("visitor_entries", "patterns"), 5.0);
    assert_eq!(labelled("visitor_refused_total", "patterns"), 6.0);
    assert_eq!(labelled("gateway_holds", "yes"), 12.0);
    assert_eq!(labelled("gateway_holds", "no"), 13.0);
    assert_eq!(labelled("trimmed_total", "we\"ird\\\nrealm"), 8.0);
}

#[test]
fn a_connection_may_move_to_another_shard_and_transport() {
    let metrics = Metrics::new(2, 0);
    metrics.shard(0).connections.of(Transport::Http).add(1);
    metrics.shard(1).connections.of(Transport::Http).sub(1);
    metrics.shard(1).connections.of(Transport::Sse).add(1);
    // Taken away before it was added: what a reader may see in between.
    metrics.shard(1).connections.of(Transport::Poll).sub(1);
    let families = parse(&metrics.render(&gauges()));
    let open = &families["cometserver_connections"];
    assert_eq!(
        [open.value("http"), open.value("sse"), open.value("poll")],
        [0.0, 1.0, 0.0]
    );
}

#[test]
fn the_histogram_sorts_into_the_right_buckets() {
    let metrics = Metrics::new(2, 0);
    let took = |shard: usize, micros, n| metrics.shard(shard).publish_to_write.observe(micros, n);
    took(0, 0, 1);
    took(0, 50, 1);
    took(1, 51, 10);
    took(1, 10_000_000, 100);
    took(1, 10_000_001, 1000);
    let families = parse(&metrics.render(&gauges()));
    let histogram = &families["cometserver_publish_to_write_seconds"];
    assert_eq!(histogram.value("0.00005"), 2.0);
    assert_eq!(histogram.value("0.0001"), 12.0);
    assert_eq!(histogram.value("5"), 12.0);
    assert_eq!(histogram.value("10"), 112.0);
    assert_eq!(histogram.value("+Inf"), 1112.0);
    let sum = histogram
        .samples
        .iter()
        .find(|sample| sample.0.ends_with("_sum"))
        .unwrap()
        .2;
    assert!((sum - 11_000.001_56).abs() < 1e-9, "{sum}");
}

#[test]
fn the_statistics_say_the_same_as_json() {
    let metrics = Metrics::new(1, 1_700_000_000_250);
    metrics.shard(0).deliveries.of(Transport::Sse).add(5);
    metrics.shard(0).publish_to_write.observe(70, 2);
    let stats = metrics.to_json(&gauges());
    assert_eq!(stats["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(stats["start_time_seconds"], 1_700_000_000.25);
    assert_eq!(stats["deliveries_total"]["sse"], 5);
    assert_eq!(stats["channels"], 3);
    assert_eq!(stats["trimmed_total"]["default"], 7);
    assert_eq!(stats["publish_to_write_seconds"]["count"], 2);
    assert_eq!(
        stats["publish_to_write_seconds"]["buckets"][1],
        json!([0.0001, 2])
    );
    let families = parse(&metrics.render(&gauges())).len();
    assert_eq!(
        stats.as_object().unwrap().len(),
        families,
        "one field for each family"
    );
}

#[test]
fn every_error_code_of_the_protocol_is_a_refusal() {
    let protocol = include_str!("../../../../../docs/protocol.md");
    let errors = protocol.split("## Errors").nth(1).unwrap();
    let codes: Vec<&str> = errors
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    assert_eq!(codes.len(), Refusal::ALL.len());
    for code in codes {
        assert!(Refusal::from_code(code).is_some(), "{code}");
    }
    assert_eq!(Refusal::from_code("nonsense"), None);
}

#[test]
fn shards_do_not_share_cache_lines() {
    let metrics = Metrics::new(2, 0);
    let place = |shard| std::ptr::from_ref(metrics.shard(shard)).addr();
    assert_eq!(place(0) % 128, 0);
    assert_eq!(place(1) % 128, 0);
}
