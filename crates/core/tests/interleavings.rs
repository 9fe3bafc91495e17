//! Every subscriber sees every publication of its channels once and in order, or is told of a gap, however things interleave.
//!
//! More cases: `PROPTEST_CASES=100000 cargo test -p cometserver-core --test interleavings`.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/client.rs"]
mod client;
#[path = "support/ledger.rs"]
mod ledger;
#[path = "interleavings/questions.rs"]
mod questions;
#[path = "interleavings/world.rs"]
mod world;

use proptest::prelude::*;
use world::{SESSIONS, World};

/// What may happen.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Publish {
        channels: u8,
        retain: bool,
        exclude: bool,
        size: u8,
        keyed: bool,
    },
    Repeat {
        which: usize,
    },
    Expire {
        channel: usize,
        count: usize,
    },
    History {
        channel: usize,
        client: usize,
        since: u8,
        limit: usize,
        reverse: bool,
    },
    Value {
        channel: usize,
    },
    Restart,
    Commit {
        count: usize,
        failing: u32,
        reorder: usize,
    },
    Answer {
        which: usize,
    },
    Connect {
        client: usize,
        targets: u8,
        since: u8,
        wants: u8,
        shard: usize,
    },
    Subscribe {
        client: usize,
        target: usize,
        since: u8,
        wants: u8,
    },
    Unsubscribe {
        client: usize,
        target: usize,
    },
    Round {
        shard: usize,
        budgets: u32,
    },
    Deliver {
        client: usize,
        count: usize,
    },
    ReadOn {
        client: usize,
        items: usize,
    },
    Cut {
        client: usize,
    },
    Pass {
        time: u16,
    },
    Delete {
        channel: usize,
        all: bool,
    },
    Join {
        user: u8,
    },
    Leave {
        user: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let client = || 0..SESSIONS.len();
    prop_oneof![
        10 => (1u8..64, 0u8..8, 0u8..10, 0u8..200, 0u8..4).prop_map(|(channels, retain, exclude, size, keyed)| {
            // Mostly one channel.
            let channels = if size < 150 { 1 << (channels % 6) } else { channels };
            Op::Publish { channels, retain: retain == 0, exclude: exclude == 0, size, keyed: keyed == 0 }
        }),
        5 => (1usize..5, any::<u32>(), 0usize..4).prop_map(|(count, failing, reorder)| {
            Op::Commit { count, failing: if failing % 4 == 0 { failing >> 2 } else { 0 }, reorder }
        }),
        4 => (0usize..3).prop_map(|which| Op::Answer { which }),
        4 => (client(), 1u8..32, any::<u8>(), 0u8..8, 0usize..2)
            .prop_map(|(client, targets, since, wants, shard)| Op::Connect { client, targets, since, wants, shard }),
        4 => (client(), 0usize..5, any::<u8>(), 0u8..8)
            .prop_map(|(client, target, since, wants)| Op::Subscribe { client, target, since, wants }),
        2 => (client(), 0usize..5).prop_map(|(client, target)| Op::Unsubscribe { client, target }),
        8 => (0usize..2, any::<u32>()).prop_map(|(shard, budgets)| Op::Round { shard, budgets }),
        8 => (client(), 1usize..6).prop_map(|(client, count)| Op::Deliver { client, count }),
        8 => (client(), 1usize..5).prop_map(|(client, items)| Op::ReadOn { client, items }),
        3 => client().prop_map(|client| Op::Cut { client }),
        5 => (0u16..80).prop_map(|time| Op::Pass { time }),
        1 => (0usize..6, any::<bool>()).prop_map(|(channel, all)| Op::Delete { channel, all }),
        2 => (0usize..5).prop_map(|which| Op::Repeat { which }),
        1 => (2usize..6, 1usize..4).prop_map(|(channel, count)| Op::Expire { channel, count }),
        2 => (0usize..6, client(), any::<u8>(), 0usize..4, any::<bool>())
            .prop_map(|(channel, client, since, limit, reverse)| Op::History { channel, client, since, limit, reverse }),
        2 => (0usize..6).prop_map(|channel| Op::Value { channel }),
        1 => (0u8..2).prop_map(|restart| if restart == 0 { Op::Restart } else { Op::Pass { time: 100 } }),
        2 => (0u8..3).prop_map(|user| Op::Join { user }),
        2 => (0u8..3).prop_map(|user| Op::Leave { user }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn everybody_sees_everything_once_and_in_order_or_is_told_of_a_gap(
        ops in proptest::collection::vec(op(), 1..250),
    ) {
        let mut world = World::new();
        for op in ops {
            world.run(op);
        }
        world.settle();
    }
}
