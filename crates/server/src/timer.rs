//! A hashed timer wheel: the deadlines of one single-threaded shard.
//!
//! Nothing is ever cancelled. The owner of a timer keeps its true deadline and at most one entry here; when the entry
//! comes up, the owner looks whether it still exists (the generation) and whether its deadline has really come, and if
//! not, says when to ask again. So pushing a deadline back, which a busy connection does with every frame, costs nothing.

/// How coarse time is here, in milliseconds. An expiry is never early and, if the caller is on time, less than this late.
///
/// Heartbeats and poll limits are seconds long; waking at most 16 times a second for them, with everything due in one
/// go, is worth more than precision. A power of two, so that dividing is a shift.
pub const TICK_MS: u64 = 64;

/// Slots of the wheel; one turn is 65 s, so that heartbeats, polls and time-outs all lie within one turn. A deadline
/// further away stays in its slot and is only looked at when something else in that slot is due.
const SLOTS: u64 = 1024;

/// The furthest deadline in ticks (2.1 years). What lies beyond comes up then, and its owner asks again.
///
/// Entries keep 32 bits of their tick; within a quarter of that range the rest can be told from the present tick.
const HORIZON: u64 = 1 << 30;

/// The tick of what never happens.
const NEVER: u64 = u64::MAX;

/// The end of a chain of entries.
const END: u32 = u32::MAX;

/// Entries for which memory is kept when the wheel runs empty (16 KiB).
const KEPT_ENTRIES: usize = 1024;

/// Whose deadline it is: a place in the owner's table, and which tenant of that place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    /// The place in the table.
    pub slot: u32,
    /// Counts the tenants of that place, so that an entry of a past one is known as such.
    pub generation: u32,
}

/// The deadlines of one shard. 16 bytes for each; scheduling and expiring one are O(1).
///
/// All times are milliseconds of one monotonic clock of the caller's choice.
#[derive(Debug)]
pub struct Wheel {
    /// The time of tick 0.
    origin_ms: u64,
    /// The last tick that was expired. Every entry lies after it.
    current: u64,
    /// The earliest tick of any entry, or [`NEVER`].
    next: u64,
    slots: Vec<Slot>,
    entries: Vec<Entry>,
    /// The first of the chain of unused entries.
    free: u32,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The earliest tick in the chain, or [`NEVER`].
    earliest: u64,
    first: u32,
}

/// A link in the chain of its slot. All entries live in one vector, since a vector per slot would keep the memory of
/// the greatest crowd it ever held, 1024 times.
#[derive(Debug, Clone, Copy)]
struct Entry {
    token: Token,
    /// The low half of the tick.
    tick: u32,
    following: u32,
}

const EMPTY: Slot = Slot {
    earliest: NEVER,
    first: END,
};

impl Wheel {
    /// An empty wheel that starts at `now_ms`.
    pub fn new(now_ms: u64) -> Wheel {
        Wheel {
            origin_ms: now_ms,
            current: 0,
            next: NEVER,
            slots: vec![EMPTY; SLOTS as usize],
            entries: Vec::new(),
            free: END,
            len: 0,
        }
    }

    /// How many entries wait, those of past tenants included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Has `token` come up at `at_ms`, or with the next tick if that is past.
    ///
    /// The same token may be in here several times and comes up each time; an owner that only moves its deadline
    /// *back* need not call this (see the module), one that moves it forward must.
    pub fn schedule(&mut self, token: Token, at_ms: u64) {
        let tick = at_ms
            .saturating_sub(self.origin_ms)
            .div_ceil(TICK_MS)
            .clamp(self.current + 1, self.current + HORIZON);
        let entry = self.take_free();
        self.entries[entry as usize].token = token;
        self.link(entry, tick);
        self.next = self.next.min(tick);
        self.len += 1;
    }

    /// When to call [`expire`](Wheel::expire) next: earlier finds nothing, at that time something comes up. `None`
    /// when nothing waits: sleep until the world calls.
    pub fn next_deadline(&self) -> Option<u64> {
        (self.next != NEVER).then(|| self.origin_ms + self.next * TICK_MS)
    }

    /// Hands every token whose time has come by `now_ms` to `come_up`, in no particular order.
    ///
    /// If `come_up` answers `Some(at_ms)`, the token is scheduled again for then (at the earliest for the next tick):
    /// the way to say "my deadline has moved". A `now_ms` before that of the last call finds nothing.
    pub fn expire(&mut self, now_ms: u64, mut come_up: impl FnMut(Token) -> Option<u64>) {
        let now = now_ms.saturating_sub(self.origin_ms) / TICK_MS;
        if now < self.next {
            self.current = self.current.max(now);
            return;
        }
        // From here on `now` lies after the old `current`, since `next` does.
        let before = std::mem::replace(&mut self.current, now);
        let end = now.min(self.next + SLOTS - 1);
        for tick in self.next..=end {
            if self.slots[slot_of(tick)].earliest <= now {
                self.expire_slot(slot_of(tick), before, &mut come_up);
            }
        }
        self.next = self.earliest();
        if self.is_empty() {
            self.entries.clear();
            self.entries.shrink_to(KEPT_ENTRIES);
            self.free = END;
        }
    }

    /// `before` is a tick that all entries of the slot lie after.
    fn expire_slot(&mut self, slot: usize, before: u64, come_up: &mut impl FnMut(Token) -> Option<u64>) {
        // The chain is taken off first: whatever is put back goes to the new one.
        let mut entry = std::mem::replace(&mut self.slots[slot], EMPTY).first;
        while entry != END {
            let Entry {
                token,
                tick,
                following,
            } = self.entries[entry as usize];
            let tick = before + u64::from(tick.wrapping_sub(before as u32));
            if tick > self.current {
                self.link(entry, tick);
            } else {
                self.give_back(entry);
                if let Some(at_ms) = come_up(token) {
                    self.schedule(token, at_ms);
                }
            }
            entry = following;
        }
    }

    /// The earliest tick of all. Slots lie in the order of their ticks for the coming turn, so the first slot that
    /// is due within it ends the search.
    fn earliest(&self) -> u64 {
        let mut earliest = NEVER;
        if self.is_empty() {
            return earliest;
        }
        for tick in self.current + 1..=self.current + SLOTS {
            earliest = earliest.min(self.slots[slot_of(tick)].earliest);
            if earliest == tick {
                break;
            }
        }
        earliest
    }

    fn link(&mut self, entry: u32, tick: u64) {
        let slot = &mut self.slots[slot_of(tick)];
        let link = &mut self.entries[entry as usize];
        link.tick = tick as u32;
        link.following = slot.first;
        slot.first = entry;
        slot.earliest = slot.earliest.min(tick);
    }

    fn take_free(&mut self) -> u32 {
        if self.free != END {
            let entry = self.free;
            self.free = self.entries[entry as usize].following;
            return entry;
        }
        let entry =
            u32::try_from(self.entries.len()).expect("2^32 entries are 64 GiB, more than a shard can hold");
        self.entries.push(Entry {
            token: Token {
                slot: 0,
                generation: 0,
            },
            tick: 0,
            following: END,
        });
        entry
    }

    fn give_back(&mut self, entry: u32) {
        self.entries[entry as usize].following = self.free;
        self.free = entry;
        self.len -= 1;
    }
}

fn slot_of(tick: u64) -> usize {
    (tick % SLOTS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: u64 = 1_000_003;

    fn token(slot: u32) -> Token {
        Token {
            slot,
            generation: slot ^ 7,
        }
    }

    fn expired(wheel: &mut Wheel, now_ms: u64) -> Vec<u32> {
        let mut found = Vec::new();
        wheel.expire(now_ms, |token| {
            assert_eq!(token.generation, token.slot ^ 7);
            found.push(token.slot);
            None
        });
        found.sort_unstable();
        found
    }

    #[test]
    fn an_entry_takes_sixteen_bytes() {
        assert_eq!(size_of::<Entry>(), 16);
    }

    #[test]
    fn an_empty_wheel_never_wakes_anybody() {
        let mut wheel = Wheel::new(START);
        assert_eq!(wheel.next_deadline(), None);
        assert!(expired(&mut wheel, START + 1_000_000_000).is_empty());
        wheel.schedule(token(1), START);
        expired(&mut wheel, START + 2_000_000_000);
        assert_eq!(wheel.next_deadline(), None);
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_deadline_comes_up_at_its_tick_and_not_before() {
        let mut wheel = Wheel::new(START);
        wheel.schedule(token(1), START + 1000);
        let due = wheel.next_deadline().unwrap();
        assert!((START + 1000..START + 1000 + TICK_MS).contains(&due));
        assert!(expired(&mut wheel, due - 1).is_empty());
        assert_eq!(expired(&mut wheel, due), [1]);
        assert!(expired(&mut wheel, due + TICK_MS).is_empty());
    }

    #[test]
    fn a_deadline_many_turns_away_causes_no_wake_up_in_between() {
        let mut wheel = Wheel::new(START);
        let far = START + 50 * SLOTS * TICK_MS;
        wheel.schedule(token(1), far);
        assert_eq!(wheel.next_deadline(), Some(far));
        // Another in the same slot comes up on its own.
        wheel.schedule(token(2), START + SLOTS * TICK_MS);
        assert_eq!(expired(&mut wheel, START + SLOTS * TICK_MS), [2]);
        assert_eq!(wheel.next_deadline(), Some(far));
        assert_eq!(expired(&mut wheel, far), [1]);
    }

    #[test]
    fn a_deadline_that_is_past_comes_up_with_the_next_tick() {
        let mut wheel = Wheel::new(START);
        expired(&mut wheel, START + 10 * TICK_MS);
        wheel.schedule(token(1), 0);
        assert_eq!(wheel.next_deadline(), Some(START + 11 * TICK_MS));
        assert_eq!(expired(&mut wheel, START + 11 * TICK_MS), [1]);
    }

    #[test]
    fn a_moved_deadline_asks_again_and_cannot_spin() {
        let mut wheel = Wheel::new(START);
        wheel.schedule(token(1), START + TICK_MS);
        let mut asked = 0;
        let later = START + 2 * SLOTS * TICK_MS;
        for (now, answer) in [
            (START + TICK_MS, Some(0)),
            (START + 2 * TICK_MS, Some(later)),
            (later, None),
        ] {
            assert_eq!(wheel.next_deadline(), Some(now));
            wheel.expire(now, |_| {
                asked += 1;
                answer
            });
        }
        assert_eq!(asked, 3);
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_deadline_beyond_the_horizon_comes_up_at_the_horizon() {
        let mut wheel = Wheel::new(START);
        wheel.schedule(token(1), u64::MAX);
        assert_eq!(wheel.next_deadline(), Some(START + HORIZON * TICK_MS));
        // The low half of the tick wraps around on the way.
        let mut now = START;
        for turn in 1..=5 {
            now += HORIZON * TICK_MS;
            let mut asked = 0;
            wheel.expire(now, |_| {
                asked += 1;
                Some(u64::MAX)
            });
            assert_eq!(asked, 1, "turn {turn}");
            // In the same slot.
            let soon = now + SLOTS * TICK_MS;
            wheel.schedule(token(2), soon);
            assert_eq!(wheel.next_deadline(), Some(soon));
            assert_eq!(expired(&mut wheel, soon), [2]);
        }
    }

    #[test]
    fn a_clock_that_steps_back_finds_nothing() {
        let mut wheel = Wheel::new(START);
        wheel.schedule(token(1), START + 200);
        assert!(expired(&mut wheel, 0).is_empty());
        assert_eq!(expired(&mut wheel, START + 1000), [1]);
        wheel.schedule(token(2), START + 2000);
        assert!(expired(&mut wheel, START).is_empty());
        wheel.schedule(token(3), 0);
        assert!(wheel.next_deadline() > Some(START + 1000 - TICK_MS));
        assert_eq!(expired(&mut wheel, START + 2100), [2, 3]);
    }

    #[test]
    fn memory_follows_the_crowd_and_is_given_back_after_it() {
        let mut wheel = Wheel::new(START);
        let mut now = START;
        // The crowd walks through all slots without leaving its memory in each.
        for _ in 0..200 {
            (0..10_000).for_each(|i| wheel.schedule(token(i), now + 25_000));
            now += 26_000;
            assert_eq!(expired(&mut wheel, now).len(), 10_000);
            assert!(wheel.entries.capacity() <= KEPT_ENTRIES);
        }
        for i in 0..100 {
            wheel.schedule(token(i), now + 60_000);
        }
        for _ in 0..100 {
            (0..1000).for_each(|i| wheel.schedule(token(i), now));
            now += TICK_MS;
            assert_eq!(expired(&mut wheel, now).len(), 1000);
        }
        assert_eq!(wheel.len(), 100);
        assert!(wheel.entries.len() <= 1100);
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Schedule for the model's time, plus this, minus this.
        Schedule(u64, u64),
        /// Let time pass; everything with an even number asks to come again after this.
        Expire(u64, u64),
        /// Do as the event loop does: sleep until the next deadline.
        Sleep,
    }

    fn spans() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..3 * TICK_MS,
            0..40_000u64,
            0..SLOTS * TICK_MS * 5,
            Just(SLOTS * TICK_MS)
        ]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (spans(), prop_oneof![Just(0), 0..500u64]).prop_map(|(after, before)| Step::Schedule(after, before)),
            2 => (spans(), spans()).prop_map(|(pass, again)| Step::Expire(pass, again)),
            1 => Just(Step::Sleep),
        ];
        prop::collection::vec(step, 1..200)
    }

    /// The naive wheel: a list. Each entry has the time before which it must not, and by which it must come up.
    #[derive(Default)]
    struct Model {
        waiting: Vec<(u32, u64, u64)>,
        number: u32,
    }

    impl Model {
        fn add(&mut self, number: u32, at: u64, last_expire: u64) {
            self.waiting.push((number, at, at.max(last_expire) + TICK_MS));
        }

        /// Compares one expiry and applies it; says how many came up. What has an even number comes again if asked to.
        fn expire(&mut self, wheel: &mut Wheel, now: u64, again: Option<u64>) -> usize {
            let answer = |number: u32| {
                again
                    .filter(|_| number.is_multiple_of(2))
                    .map(|again| now + again)
            };
            let mut found = Vec::new();
            wheel.expire(now, |token| {
                found.push(token.slot);
                answer(token.slot)
            });
            for number in &found {
                let place = self
                    .waiting
                    .iter()
                    .position(|entry| entry.0 == *number)
                    .expect("comes up once only");
                let (_, at, _) = self.waiting.swap_remove(place);
                assert!(at <= now, "{number} came up {} ms early", at - now);
            }
            assert!(
                self.waiting.iter().all(|&(_, _, by)| by > now),
                "late at {now}: {:?}",
                self.waiting
            );
            for &number in &found {
                if let Some(at) = answer(number) {
                    self.add(number, at, now);
                }
            }
            found.len()
        }
    }

    proptest! {
        #[test]
        fn the_wheel_does_as_a_list_does(steps in steps()) {
            let (mut wheel, mut model) = (Wheel::new(START), Model::default());
            let mut now = START;
            for step in steps {
                match step {
                    Step::Schedule(after, before) => {
                        wheel.schedule(token(model.number), now + after - before);
                        model.add(model.number, now + after - before, now);
                        model.number += 1;
                    }
                    Step::Expire(pass, again) => {
                        now += pass;
                        model.expire(&mut wheel, now, Some(again));
                    }
                    Step::Sleep => if let Some(at) = wheel.next_deadline() {
                        prop_assert!(at > now);
                        prop_assert_eq!(model.expire(&mut wheel, at - 1, None), 0, "woken too late");
                        prop_assert!(model.expire(&mut wheel, at, None) > 0, "woken for nothing");
                        now = at;
                    }
                }
                prop_assert_eq!(wheel.len(), model.waiting.len());
                prop_assert_eq!(wheel.next_deadline().is_none(), model.waiting.is_empty());
                let by = model.waiting.iter().map(|entry| entry.2).min().unwrap_or(u64::MAX);
                prop_assert!(wheel.next_deadline() <= Some(by));
            }
        }
    }
}
