//! What a load has shown: as a table for people, as JSON for scripts.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Load, Options, Target, Transport};

/// The longest time a histogram tells apart; longer ones count as this one.
const LONGEST: Duration = Duration::from_secs(600);

/// A histogram of nanoseconds, exact to 0.1 %.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST.as_nanos() as u64, 3)
        .expect("the bounds are constants in the valid order")
}

/// A distribution of times, in microseconds.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Latency {
    /// How many times were recorded; 0: the others mean nothing.
    pub count: u64,
    /// The shortest.
    pub min_us: f64,
    /// Half were at most this.
    pub p50_us: f64,
    /// Nine in ten were at most this.
    pub p90_us: f64,
    /// 99 in 100 were at most this.
    pub p99_us: f64,
    /// 999 in 1,000 were at most this.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Latency {
    pub(super) fn of(times: &Histogram<u64>) -> Self {
        let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
        Latency {
            count: times.len(),
            min_us: times.min() as f64 / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: times.max() as f64 / 1e3,
        }
    }
}

/// The server's user and system time while it was measured.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Cpu {
    /// Altogether, in seconds.
    pub seconds: f64,
    /// Per delivery, publication or connection, whichever the load is about, in microseconds.
    pub each_us: f64,
}

/// Memory per connection, in bytes: the difference to before, shared out.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Memory {
    /// The server's resident set.
    pub resident: f64,
    /// The server's private, written pages: its heap and stacks.
    pub private_dirty: f64,
    /// The kernel's slab, system-wide. Both ends of a loopback connection are in it.
    pub kernel_slab: Option<f64>,
    /// The kernel's TCP buffers, system-wide.
    pub kernel_buffers: Option<f64>,
}

/// What one load has shown.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// What was measured.
    pub load: Load,
    /// Whose dialect was spoken.
    pub target: Target,
    /// How subscribers listened.
    pub transport: Transport,
    /// Where to.
    pub address: String,
    /// Connections that listened (or were opened).
    pub subscribers: usize,
    /// Connections opened and never read from.
    pub slow_readers: usize,
    /// Channels published to.
    pub channels: usize,
    /// Bytes of a payload.
    pub payload: usize,
    /// Publications under way at once.
    pub in_flight: usize,
    /// Publications a second asked for.
    pub rate: Option<f64>,
    /// Publications a request.
    pub batch: usize,
    /// Publications made while measuring.
    pub publications: u64,
    /// Deliveries they should have caused.
    pub expected: u64,
    /// Deliveries seen. More than expected: something came twice.
    pub delivered: u64,
    /// Time measured, in seconds.
    pub seconds: f64,
    /// Bytes of one delivery on the wire, framing included; 0 without deliveries.
    pub wire_bytes: f64,
    /// From publishing to reading.
    pub latency: Latency,
    /// From publishing to the server's answer.
    pub answer: Latency,
    /// From connecting to being subscribed (before measuring, except for [`Load::Connect`]).
    pub opening: Latency,
    /// The share of the time in which this load generator was busy. Near 1: it measures itself, not the server.
    pub generator_busy: Option<f64>,
    /// What the server spent, if its pid was given.
    pub cpu: Option<Cpu>,
    /// What a connection costs, for [`Load::Idle`].
    pub memory: Option<Memory>,
}

impl Report {
    pub(super) fn new(options: &Options) -> Self {
        Report {
            load: options.load,
            target: options.target,
            transport: options.transport,
            address: options.address.to_string(),
            subscribers: options.subscribers,
            slow_readers: options.slow_readers,
            channels: options.channels,
            payload: options.payload,
            in_flight: options.in_flight,
            rate: options.rate,
            batch: options.batch,
            publications: 0,
            expected: 0,
            delivered: 0,
            seconds: 0.0,
            wire_bytes: 0.0,
            latency: Latency::default(),
            answer: Latency::default(),
            opening: Latency::default(),
            generator_busy: None,
            cpu: None,
            memory: None,
        }
    }

    /// Everything that was published arrived, once.
    pub fn complete(&self) -> bool {
        self.delivered == self.expected
    }

    /// Deliveries (or publications, or connections) a second.
    pub fn per_second(&self) -> f64 {
        if self.seconds > 0.0 {
            self.counted() as f64 / self.seconds
        } else {
            0.0
        }
    }

    /// What this load is about: how many of them there were.
    pub(super) fn counted(&self) -> u64 {
        match self.load {
            Load::FanOut => self.delivered,
            Load::Publish => self.publications,
            Load::Connect | Load::Idle => self.subscribers as u64,
        }
    }

    /// The same as JSON, with the fields' own names.
    pub fn to_json(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        value["complete"] = self.complete().into();
        value["per_second"] = self.per_second().into();
        value
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = match self.load {
            Load::FanOut => "deliveries",
            Load::Publish => "publications",
            Load::Connect | Load::Idle => "connections",
        };
        line(f, "server", format_args!("{} at {}", self.target, self.address))?;
        if self.load == Load::FanOut {
            let verdict = if self.complete() {
                "all arrived, once"
            } else {
                "NOT WHAT WAS EXPECTED"
            };
            line(f, "publications", format_args!("{}", self.publications))?;
            line(
                f,
                "delivered",
                format_args!("{} of {}: {verdict}", self.delivered, self.expected),
            )?;
            line(
                f,
                "on the wire",
                format_args!("{:.0} bytes a delivery", self.wire_bytes),
            )?;
        }
        if self.load != Load::Idle {
            line(
                f,
                "throughput",
                format_args!("{:.0} {each}/s in {:.2} s", self.per_second(), self.seconds),
            )?;
        }
        for (name, times) in [
            ("publish to read", &self.latency),
            ("publish to answer", &self.answer),
            ("opening", &self.opening),
        ] {
            if times.count > 0 {
                let Latency {
                    p50_us,
                    p90_us,
                    p99_us,
                    p999_us,
                    max_us,
                    ..
                } = times;
                let row = format!(
                    "p50 {p50_us:.0}  p90 {p90_us:.0}  p99 {p99_us:.0}  p99.9 {p999_us:.0}  max {max_us:.0} µs"
                );
                line(f, name, format_args!("{row}"))?;
            }
        }
        if let Some(cpu) = &self.cpu {
            line(
                f,
                "server's CPU",
                format_args!("{:.2} µs each, {:.2} s in all", cpu.each_us, cpu.seconds),
            )?;
        }
        if let Some(memory) = &self.memory {
            let Memory {
                resident,
                private_dirty,
                ..
            } = memory;
            line(
                f,
                "server's memory",
                format_args!("{resident:.0} B resident, {private_dirty:.0} B private, a connection"),
            )?;
            if let (Some(slab), Some(buffers)) = (memory.kernel_slab, memory.kernel_buffers) {
                line(
                    f,
                    "kernel's memory",
                    format_args!("{slab:.0} B slab, {buffers:.0} B buffers, both ends"),
                )?;
            }
        }
        if let Some(busy) = self.generator_busy {
            line(
                f,
                "load generator",
                format_args!("busy {:.0} % of the time", busy * 100.0),
            )?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, value: fmt::Arguments<'_>) -> fmt::Result {
    writeln!(f, "{name:<18} {value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_whether_everything_arrived() {
        let mut report = Report::new(&Options::new("127.0.0.1:1".parse().unwrap()));
        (
            report.publications,
            report.expected,
            report.delivered,
            report.seconds,
        ) = (2, 2_000, 2_000, 0.5);
        assert!(report.to_string().contains("2000 of 2000: all arrived, once"));
        assert_eq!(report.to_json()["complete"], true);
        assert_eq!(report.to_json()["per_second"], 4_000.0);
        report.delivered = 1_999;
        assert!(report.to_string().contains("NOT WHAT WAS EXPECTED"));
        assert_eq!(report.to_json()["complete"], false);
    }
}
