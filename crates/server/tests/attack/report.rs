//! What was measured, as a table, and what of it is a fault.

use std::fmt;

use crate::crowd::Seen;
use crate::flood::Outcome;
use crate::stage::{BESIDES, Figures, MEMORY};

/// The longest turn of a connection, and the longest hold of the hub's lock, in steps: what their bounds are, and the largest
/// thing that is not cut.
const TURN_STEPS: f64 = 1_024.0;
const HOLD_STEPS: f64 = 10_000.0;

/// The same in seconds of a thread's time; a turn may parse and encode one message besides.
const TURN_SECONDS: f64 = 0.002;
const HOLD_SECONDS: f64 = 0.000_5;

/// p99 beside a flood, as a multiple of that beside as many harmless bytes.
const RATIO: f64 = 2.0;

/// The head of the table.
pub(crate) const HEAD: &str = "\
flood                    ended    MiB in    p50 ms    p99 ms  harmless   lost doubled dropped  turn ms  steps   hold ms  steps  peak MiB";

/// What one flood did.
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) seen: Seen,
    pub(crate) harmless: Option<Seen>,
    pub(crate) figures: Figures,
    /// What the site's own code was told that it should not have been.
    pub(crate) site: Option<String>,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Report {
    measured: Vec<Measured>,
}

impl Report {
    pub(crate) fn add(&mut self, measured: Measured) {
        self.measured.push(measured);
    }

    /// What counters show: they are the same on a busy machine.
    pub(crate) fn faults_in_counters(&self) -> Vec<String> {
        self.measured
            .iter()
            .flat_map(Measured::faults_in_counters)
            .collect()
    }

    /// What clocks show, where the turn of one message takes so many seconds.
    pub(crate) fn faults_in_time(&self, message: f64) -> Vec<String> {
        self.measured
            .iter()
            .flat_map(|measured| measured.faults_in_time(message))
            .collect()
    }
}

impl Measured {
    fn faults_in_counters(&self) -> Vec<String> {
        let name = self.name;
        let seen = &self.seen;
        let mut faults = Vec::new();
        let mut none = |what: &str, count: u64| {
            if count > 0 {
                faults.push(format!("{name}: {count} {what}"));
            }
        };
        none("messages lost", seen.lost);
        none("messages doubled", seen.doubled);
        none("subscribers dropped", seen.dropped);
        none("publications of the site refused", seen.refused);
        if let Some(told) = &self.site {
            faults.push(format!("{name}: the site was told: {told}"));
        }
        let most = (2 * MEMORY + BESIDES) << 20;
        if self.figures.peak > most {
            faults.push(format!(
                "{name}: {} MiB in RAM, at most {} MiB",
                self.figures.peak >> 20,
                most >> 20
            ));
        }
        faults.extend(self.over("turn_longest_steps", TURN_STEPS));
        faults.extend(self.over("hub_hold_longest_steps", HOLD_STEPS));
        faults
    }

    /// The longest turn of a connection, in seconds.
    pub(crate) fn longest_turn(&self) -> f64 {
        self.figures.metric("turn_longest_seconds").unwrap_or(f64::NAN)
    }

    fn faults_in_time(&self, message: f64) -> Vec<String> {
        let mut faults: Vec<String> = self
            .over("turn_longest_seconds", TURN_SECONDS + message)
            .into_iter()
            .chain(self.over("hub_hold_longest_seconds", HOLD_SECONDS))
            .collect();
        if let Some(harmless) = &self.harmless {
            let (flooded, quiet) = (self.seen.quantile(0.99), harmless.quantile(0.99));
            if flooded > RATIO * quiet {
                faults.push(format!(
                    "{}: p99 {flooded:.1} ms, beside harmless bytes {quiet:.1} ms",
                    self.name
                ));
            }
        }
        faults
    }

    fn over(&self, metric: &str, most: f64) -> Option<String> {
        let name = self.name;
        match self.figures.metric(metric) {
            None => Some(format!("{name}: the server does not tell {metric}")),
            Some(value) if value > most => Some(format!("{name}: {metric} {value}, at most {most}")),
            Some(_) => None,
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = |metric: &str| self.figures.metric(metric).unwrap_or(f64::NAN);
        let milliseconds = |metric: &str| self.figures.metric(metric).unwrap_or(f64::NAN) * 1000.0;
        let harmless = self
            .harmless
            .as_ref()
            .map_or(f64::NAN, |seen| seen.quantile(0.99));
        write!(
            out,
            "{:<24} {:>5} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>6} {:>7} {:>7} {:>8.3} {:>6} {:>9.3} {:>6} {:>9}",
            self.name,
            self.outcome.ended,
            self.outcome.bytes as f64 / f64::from(1 << 20),
            self.seen.quantile(0.5),
            self.seen.quantile(0.99),
            harmless,
            self.seen.lost,
            self.seen.doubled,
            self.seen.dropped,
            milliseconds("turn_longest_seconds"),
            steps("turn_longest_steps"),
            milliseconds("hub_hold_longest_seconds"),
            steps("hub_hold_longest_steps"),
            self.figures.peak >> 20,
        )
    }
}
