//! Turns: how much work a connection may have done before all others have had theirs.
//!
//! Work is counted in steps of about four microseconds at most, so that tests can say how much it is; a clock ends a turn whose
//! steps take longer than that.

use std::time::{Duration, Instant};

use super::Shard;
use crate::metrics::DropReason;
use crate::platform;

/// Steps of a turn: about a millisecond. What cannot be cut (one message, one answer) may go beyond it.
const TURN: u32 = 256;

/// A turn ends after so long, whatever its steps.
const LONGEST: Duration = Duration::from_millis(1);

/// Work between two rounds, and of those who could not finish in their turn, before the loop looks for others: about two
/// milliseconds.
pub(super) const BETWEEN: u32 = 512;

/// What a step takes at most, in nanoseconds. What took longer than its steps weighs as many as its time is worth.
const STEP: u64 = 4_000;

/// Bytes that are read, parsed or written in a step.
const BYTES: usize = 4096;

/// Steps of a refusal, the command's own aside: whoever asks for what is not to be had gets fewer turns.
const REFUSAL: u32 = 16;

/// The thread's CPU time is asked for, by a system call, when so long has passed by the clock since it was last asked for: a
/// turn's CPU time is thus known to within this.
const WORTH_ASKING: Duration = Duration::from_micros(200);

/// The turn of a connection, and what is known of those before.
pub(super) struct Turn {
    /// Steps of this turn.
    steps: u32,
    /// When it began.
    began: Instant,
    /// When the last one ended, or the loop began.
    mark: Instant,
    /// CPU time of the thread when it was last asked for, and when that was; none: since then it did what belongs to no turn.
    cpu: Option<(Duration, Instant)>,
    /// The most steps of any turn, and the longest, in nanoseconds.
    longest: (u32, u64),
    /// Work of all turns since the last round, in steps.
    since_round: u32,
}

impl Turn {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            steps: 0,
            began: now,
            mark: now,
            cpu: None,
            longest: (0, 0),
            since_round: 0,
        }
    }

    /// The loop begins again, or goes on after a round: what the thread did before this belongs to no turn.
    pub(super) fn look(&mut self, now: Instant) {
        self.mark = now;
        self.cpu = None;
    }

    /// Live readers have been told: the next round is due after as much work again.
    pub(super) fn round_was(&mut self) {
        self.since_round = 0;
    }

    /// Was there so much work since the last round that the next is due?
    pub(super) fn wants_round(&self) -> bool {
        self.since_round >= BETWEEN
    }

    /// Counts work.
    pub(super) fn charge(&mut self, steps: u32) {
        self.steps = self.steps.saturating_add(steps);
    }

    /// Counts bytes that were read, parsed or written.
    pub(super) fn charge_bytes(&mut self, bytes: usize) {
        self.charge(u32::try_from(bytes / BYTES).unwrap_or(u32::MAX));
    }

    /// Counts things of which each is a step.
    pub(super) fn charge_each(&mut self, count: usize) {
        self.charge(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Is it others' turn? Never before something was done: on a busy machine the clock alone could keep it from that.
    pub(super) fn is_spent(&self) -> bool {
        self.steps >= TURN || self.steps > 0 && self.began.elapsed() >= LONGEST
    }
}

impl Shard {
    /// One turn of a connection; returns the work in it: its steps, or more if they took longer than steps take.
    pub(super) fn turn(&mut self, work: impl FnOnce(&mut Self)) -> u32 {
        let turn = &mut self.turn;
        turn.steps = 0;
        turn.began = turn.mark;
        if turn.cpu.is_none() {
            turn.cpu = platform::thread_time().map(|cpu| (cpu, turn.mark));
        }
        work(self);
        self.end_turn()
    }

    fn end_turn(&mut self) -> u32 {
        let turn = &mut self.turn;
        let now = Instant::now();
        let mut took = now.saturating_duration_since(turn.began);
        turn.mark = now;
        if let Some((before, asked)) = turn.cpu
            && now.saturating_duration_since(asked) >= WORTH_ASKING
            && let Some(cpu) = platform::thread_time()
        {
            // The thread may have had to wait for a processor: then it was not this turn that took long.
            took = took.min(cpu.saturating_sub(before));
            turn.cpu = Some((cpu, now));
        }
        let steps = turn.steps;
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let work = steps.max(u32::try_from(nanos / STEP).unwrap_or(u32::MAX));
        turn.since_round = turn.since_round.saturating_add(work);
        if steps > turn.longest.0 || nanos > turn.longest.1 {
            turn.longest = (steps.max(turn.longest.0), nanos.max(turn.longest.1));
            let (steps, nanos) = turn.longest;
            let metrics = self.metrics();
            metrics.turn_longest_steps.rise(u64::from(steps));
            metrics.turn_longest_nanos.rise(nanos);
        }
        work
    }

    /// Something was done for a connection, or refused. Returns whether too much was refused in a row: then it is to end.
    pub(super) fn judge(&mut self, slot: usize, refused: bool) -> bool {
        let is_sites = self.is_sites(slot);
        let connection = &mut self.connections[slot];
        if !refused {
            connection.refusals = 0;
            return false;
        }
        self.turn.charge(REFUSAL);
        connection.refusals = connection.refusals.saturating_add(1);
        // The site's own code is told of its mistakes as often as it makes them.
        let ends = !is_sites && connection.refusals as usize > self.settings.config.limits.refusals;
        if ends {
            connection.refusals = 0;
            self.metrics().drops.of(DropReason::Limit).add(1);
        }
        ends
    }
}
