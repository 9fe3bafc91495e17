//! Whatever grows with a crowd shrinks with it: ten times, and every table is where it was.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/hub.rs"]
mod support;

use std::sync::Arc;

use cometserver_core::fanout::{Begin, Fanout, ReaderId, Wants};
use cometserver_core::hub::Hub;
use cometserver_core::namespace::{Durability, Namespaces};
use cometserver_core::publication::Message;
use cometserver_core::quota::{Parts, Payer};
use cometserver_core::tidy::Table;
use support::{name, namespace, options, pattern, publish_message, round, shard};

/// How large the crowd is: channels, readers, members, keys.
const CROWD: usize = 600;

/// Times that it comes and goes.
const TIMES: u64 = 10;

/// What a table may keep room for when it is nearly empty.
const KEPT: usize = 256;

/// By then everything has grown old that the crowd left: histories, keys, the grace of members, channels without a use.
const LATER: u64 = 3_000_000;

fn tables(hub: &Hub, fanout: &Fanout) -> Vec<Table> {
    let mut all = hub.tables();
    all.extend(fanout.tables());
    all
}

/// A reader in the channel `n`, of many with it, by name and by pattern, and a member of two channels.
fn come(hub: &Arc<Hub>, fanout: &mut Fanout, n: usize, now: u64) -> ReaderId {
    let reader = fanout.open(n as u32, None);
    let own = name(&format!("crowd/{n}"));
    fanout.add(reader, &own, Wants::default(), now).unwrap();
    let others = pattern(&format!("crowd/{n}/*"));
    fanout.add_pattern(reader, &others, Wants::default()).unwrap();
    fanout.begin(reader, Begin::Now, true);
    let user = format!("user {n}");
    for channel in [name("square"), own.clone()] {
        let id = hub.listen(1, &channel, now).unwrap().channel.id;
        hub.join(id, &user, None, now);
        // Who comes back before the grace has passed, again and again, is listed no more often for that.
        for _ in 0..5 {
            hub.leave(id, &user, now);
            hub.join(id, &user, None, now);
        }
        hub.leave(id, &user, now);
        hub.unlisten(1, id, now);
    }
    let mut message = Message::text(own, "hello");
    message.idempotency_key = Some(format!("key {n}").into());
    message.payer = Payer::anonymous((n as u64) << 1);
    // A channel that is named, and never published in.
    let named = hub.listen_for(message.payer, 1, &name(&format!("named/{n}")), now);
    hub.unlisten(1, named.unwrap().channel.id, now);
    publish_message(hub, message, now);
    reader
}

#[test]
fn a_crowd_that_comes_and_goes_ten_times_leaves_every_table_where_it_was() {
    let mut options = options();
    let mut short = namespace(3, Durability::Memory);
    short.history.age = 1_000;
    options.namespaces = Namespaces::uniform(short);
    options.patterns = CROWD;
    options.idempotency_keys = CROWD;
    options.parts = Parts { one: 100, all: 100 };
    let hub = Arc::new(Hub::new(options));
    hub.attach(1, Box::new(|| {}));
    let mut fanout = shard(&hub);
    let mut now = 1_000_000;
    let before = tables(&hub, &fanout);
    for time in 0..TIMES {
        let readers: Vec<ReaderId> = (0..CROWD).map(|n| come(&hub, &mut fanout, n, now)).collect();
        round(&mut fanout);
        let crowded = tables(&hub, &fanout);
        for table in &crowded {
            let is_for_the_store = matches!(table.name, "submitted" | "awaited");
            let comes_with_leaving = matches!(table.name, "idle" | "unlistened");
            assert!(
                is_for_the_store
                    || comes_with_leaving
                    || table.name == "presence_due"
                    || table.entries >= CROWD,
                "the crowd is not in {table:?}"
            );
        }
        for reader in readers {
            fanout.close(reader, now);
        }
        // Steps as small as the hub's clock believes at once.
        for _ in 0..LATER / 600_000 {
            now += 600_000;
            for _ in 0..4 {
                hub.tick(now);
            }
            round(&mut fanout);
            fanout.rest(now);
        }
        for (table, before) in tables(&hub, &fanout).iter().zip(&before) {
            assert_eq!(table.entries, before.entries, "{table:?}, time {time}");
            assert!(table.room <= KEPT, "{table:?}, time {time}");
        }
    }
}
