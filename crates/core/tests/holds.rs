//! Nobody holds the hub's lock for long, whatever there is and whatever is asked: counted in steps, of about a hundred
//! instructions each.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/store.rs"]
mod store;
#[path = "support/hub.rs"]
mod support;

use std::sync::Arc;

use broker::TestBroker;
use cometserver_core::channel::ChannelName;
use cometserver_core::fanout::{Begin, Fanout, Progress, Wants};
use cometserver_core::hub::{Delete, Hub, Options, ReadLimits};
use cometserver_core::namespace::{Durability, Namespace, Namespaces};
use cometserver_core::pattern::Pattern;
use cometserver_core::publication::Message;
use store::{commit, open, send, store};
use support::{delete, name, namespace, options, publish, publish_message, round, shard};

/// The most steps in one hold of the lock: about a million instructions.
const LONGEST: usize = 10_000;

/// What the default configuration allows.
const PATTERNS: usize = 10_000;

fn world(history: usize) -> (Arc<Hub>, Fanout) {
    let hub = Arc::new(Hub::new(Options {
        namespaces: Namespaces::uniform(namespace(history, Durability::Memory)),
        ..options()
    }));
    let fanout = shard(&hub);
    (hub, fanout)
}

fn listen(hub: &Hub, text: &str) -> Option<u32> {
    let pattern = Arc::new(Pattern::new(text, 1024).unwrap());
    hub.listen_pattern(0, &pattern).ok().map(|(id, _)| id)
}

/// Patterns of the worst shapes for [`long_name`], as many as there may be.
fn hostile_patterns(hub: &Hub) -> usize {
    let searched = (0..).take_while(|n| listen(hub, &format!("**a*b{n}*")).is_some());
    let searched = searched.count();
    assert_eq!(searched, PATTERNS / 8);
    searched
}

/// Patterns that a look at a name's beginning does not rule out, as many as there may be.
fn common_patterns(hub: &Hub) -> usize {
    let texts = (0..).map(|n| format!("aaa**{n}"));
    texts.take_while(|text| listen(hub, text).is_some()).count()
}

fn long_name(number: usize) -> ChannelName {
    let mut text = format!("{}/{number}/", "a".repeat(100));
    text.push_str(&"a".repeat(8 * 1024 - text.len()));
    name(&text)
}

/// Housekeeping, until nothing is due.
fn tick(hub: &Hub, now: u64) {
    for _ in 0..1_000 {
        if hub.tick(now).is_none_or(|at| at > now) {
            return;
        }
    }
    panic!("it never ends");
}

fn longest(hub: &Hub, what: &str) {
    let steps = hub.longest_hold().steps;
    assert!(steps <= LONGEST, "{what}: {steps} steps in one hold of the lock");
}

#[test]
fn a_publication_to_a_new_long_name_beside_hostile_patterns() {
    let (hub, _fanout) = world(3);
    hostile_patterns(&hub);
    publish_message(&hub, Message::text(long_name(1), "x"), 10);
    longest(&hub, "searched for");
    let (hub, _fanout) = world(3);
    assert_eq!(common_patterns(&hub), PATTERNS);
    publish_message(&hub, Message::text(long_name(1), "x"), 10);
    longest(&hub, "looked up");
    // All at once.
    let mut message = Message::text(long_name(2), "x");
    message.channels.extend((3..100).map(long_name));
    publish_message(&hub, message, 10);
    longest(&hub, "a hundred names");
}

#[test]
fn what_was_there_before_the_patterns_costs_no_more() {
    let (hub, _fanout) = world(3);
    for number in 0..500 {
        publish_message(&hub, Message::text(long_name(number), "x"), 10);
    }
    hostile_patterns(&hub);
    publish_message(&hub, Message::text(long_name(7), "y"), 20);
    longest(&hub, "a known channel");
    let listening = hub.listen(0, &long_name(8), 20).unwrap();
    hub.join(listening.channel.id, "ann", None, 20);
    longest(&hub, "a member comes");
    hub.leave(listening.channel.id, "ann", 20);
    // What is old leaves 500 channels that were never compared with the patterns.
    for now in [2_000_000, 3_700_000, 3_800_000] {
        tick(&hub, now);
    }
    longest(&hub, "they grow old");
    assert_eq!(hub.stats().publications, 0);
}

#[test]
fn a_pattern_is_told_of_what_it_may_have_lost() {
    let (hub, mut fanout) = world(1);
    for number in 0..100 {
        publish_message(&hub, Message::text(long_name(number), "x"), 10);
    }
    hostile_patterns(&hub);
    let mine = Arc::new(Pattern::new("aaaa**", 1024).unwrap());
    assert!(
        hub.listen_pattern(0, &mine).is_err(),
        "the others take all there is"
    );
    let id = listen(&hub, "**a*b1*").unwrap();
    assert_eq!(hub.pattern_trimmed(id).memory, Default::default());
    // It leaves while nobody has compared it with any of them.
    publish(&hub, "x", "1", 100);
    tick(&hub, 200);
    delete(
        &hub,
        std::str::from_utf8(long_name(3).as_bytes()).unwrap(),
        Delete::History,
        300,
    );
    // All may match, so each is told to the last; none of them was lost without a word.
    assert_eq!(hub.pattern_trimmed(id).memory.memory, 4);
    longest(&hub, "told");
    let _ = round(&mut fanout);
}

#[test]
fn the_past_is_read_in_short_strides() {
    let (hub, mut fanout) = world(100_000);
    for number in 0..20_000 {
        publish(&hub, &format!("room/{}", number % 100), "x", 10);
    }
    for number in 0..200 {
        let mut message = Message::text(long_name(number), "x");
        message.channels.push(name("room/1"));
        publish_message(&hub, message, 10);
    }
    let mut message = Message::text(long_name(200), "last");
    message.channels.extend((201..300).map(long_name));
    publish_message(&hub, message, 10);
    let reader = fanout.open(1, None);
    for number in 0..20 {
        let pattern = Arc::new(Pattern::new(format!("**a*b{number}*"), 1024).unwrap());
        fanout.add_pattern(reader, &pattern, Wants::default()).unwrap();
    }
    let last = Arc::new(Pattern::new("**/250/*", 1024).unwrap());
    fanout.add_pattern(reader, &last, Wants::default()).unwrap();
    fanout.begin(reader, Begin::Earliest, false);
    let limits = ReadLimits {
        items: 100,
        bytes: 1 << 20,
    };
    let (mut steps, mut pages) = (Vec::new(), 0);
    while matches!(fanout.next(reader, limits, &mut steps), Progress::More) {
        pages += 1;
        assert!(pages < 10_000, "each page comes further");
    }
    assert_eq!(steps.len(), 1, "the last one, by the last pattern");
    longest(&hub, "from the earliest");
    assert!(pages > 5, "{pages} pages");
}

#[test]
fn a_reader_of_many_channels_and_a_pattern_has_full_pages() {
    let (hub, mut fanout) = world(10_000);
    for number in 0..2_000 {
        publish(&hub, &format!("room/{}", number % 10), "x", 10);
    }
    let reader = fanout.open(1, None);
    for number in 0..1_000 {
        fanout
            .add(reader, &name(&format!("own/{number}")), Wants::default(), 10)
            .unwrap();
    }
    let pattern = Arc::new(Pattern::new("room/*", 1024).unwrap());
    fanout.add_pattern(reader, &pattern, Wants::default()).unwrap();
    fanout.begin(reader, Begin::Earliest, false);
    let limits = ReadLimits {
        items: 100,
        bytes: 1 << 20,
    };
    let (mut steps, mut pages) = (Vec::new(), 0);
    while matches!(fanout.next(reader, limits, &mut steps), Progress::More) {
        pages += 1;
        assert!(pages < 10_000, "each page comes further");
    }
    assert_eq!(steps.len(), 2_000);
    assert!(pages <= 2_000 / 100, "{pages} pages");
    longest(&hub, "many channels");
}

#[test]
fn a_key_of_a_long_message_to_many_long_names_is_worked_out_without_the_lock() {
    let held = |keyed: bool, channels: usize, limit: usize| {
        let hub = Hub::new(Options {
            channels: limit,
            ..options()
        });
        let mut message = Message::text(long_name(0), &"x".repeat(1 << 20));
        message.channels.extend((1..channels).map(long_name));
        message.idempotency_key = keyed.then(|| "key".into());
        let published = hub.publish(message, 10, &mut || panic!("memory does not wait"));
        assert_eq!(published.is_ok(), channels <= limit);
        longest(&hub, "many long names");
        hub.longest_hold().steps
    };
    let (plain, keyed) = (held(false, 1_000, 2_000), held(true, 1_000, 2_000));
    assert!(
        keyed <= plain + 1_000,
        "{keyed} steps with a key, {plain} without"
    );
    // What is refused may be a repetition as well, and its names have to be looked up for that.
    held(true, 1_000, 500);
}

#[test]
fn a_list_of_channels_is_made_in_short_strides() {
    let (hub, _fanout) = world(3);
    for number in 0..30_000 {
        publish(&hub, &format!("room/{number}"), "x", 10);
    }
    for number in 0..300 {
        publish_message(&hub, Message::text(long_name(number), "x"), 10);
    }
    let pattern = Pattern::new("**o**29999*", 100).unwrap();
    let (mut after, mut found, mut pages) = (0, Vec::new(), 0);
    loop {
        let (page, next) = hub.channels(Some(&pattern), after, 100);
        found.extend(page.into_iter().map(|channel| channel.name));
        pages += 1;
        match next {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(found, [name("room/29999")]);
    assert!(pages > 1, "a list is made page by page");
    let (page, next) = hub.channels(None, 0, 1_000);
    assert_eq!((page.len(), next), (1_000, Some(1_000)));
    longest(&hub, "listed");
}

#[test]
fn what_leaves_all_at_once_leaves_in_pieces() {
    let (hub, _fanout) = world(50_000);
    for number in 0..20_000 {
        publish(&hub, "deep", "x", 10);
        let mut message = Message::text(name("keyed"), "x");
        message.idempotency_key = Some(number.to_string().into());
        publish_message(&hub, message, 10);
    }
    let listening = hub.listen(0, &name("crowd"), 10).unwrap().channel.id;
    for user in 0..20_000 {
        hub.join(listening, &user.to_string(), None, 10);
    }
    assert_eq!(hub.members(&name("crowd"), 3).members.len(), 3);
    longest(&hub, "there");
    for user in 0..20_000 {
        hub.leave(listening, &user.to_string(), 20);
    }
    let ids: Vec<u32> = (0..9_000)
        .map(|n| listen(&hub, &format!("p/{n}/*")).unwrap())
        .collect();
    for id in ids {
        hub.unlisten_pattern(0, id, 20);
    }
    // Out of the live window first.
    tick(&hub, 100);
    longest(&hub, "out of the window");
    hub.set_namespaces(Namespaces::uniform(namespace(5, Durability::Memory)));
    tick(&hub, 1_100);
    longest(&hub, "a history cut short");
    assert_eq!(
        hub.stats().publications,
        11,
        "five of each, and the number of members"
    );
    for now in [400_000, 500_000] {
        tick(&hub, now);
    }
    longest(&hub, "all is old");
    assert_eq!(hub.member_count(listening), 0);
    let stats = hub.stats();
    assert_eq!((stats.patterns, stats.keys), (0, 0));
}

#[test]
fn a_deep_history_is_deleted_in_pieces_and_what_comes_meanwhile_stays() {
    let (hub, _fanout) = world(50_000);
    for _ in 0..20_000 {
        publish(&hub, "deep", "x", 10);
    }
    assert_eq!(delete(&hub, "deep", Delete::History, 20), 20_000);
    assert_eq!(hub.stats().publications, 0);
    longest(&hub, "deleted");
}

#[test]
fn a_large_message_makes_room_in_pieces() {
    let uniform = Namespace {
        history: cometserver_core::namespace::Bounds {
            count: 1_000_000,
            bytes: 1 << 30,
            ..Default::default()
        },
        ..namespace(1, Durability::Memory)
    };
    let hub = Hub::new(Options {
        namespaces: Namespaces::uniform(uniform),
        log_memory: 4 << 20,
        window_bytes: 4 << 20,
        ..options()
    });
    for _ in 0..30_000 {
        publish(&hub, "small", "x", 10);
    }
    let large = "x".repeat(3 << 19);
    publish(&hub, "large", &large, 10);
    longest(&hub, "made room");
    assert!(hub.stats().log_bytes <= 4 << 20);
}

#[test]
fn many_idle_channels_are_forgotten_in_pieces() {
    let hub = Hub::new(Options {
        channels: 20_000,
        namespaces: Namespaces::uniform(namespace(0, Durability::Memory)),
        ..options()
    });
    for number in 0..20_000 {
        // Used and left several times: each time it is noted that it is idle.
        for _ in 0..3 {
            let id = hub.listen(0, &name(&number.to_string()), 10).unwrap().channel.id;
            hub.unlisten(0, id, 10);
        }
    }
    publish(&hub, "one more", "x", 11);
    longest(&hub, "made room for one");
    for now in [100_000, 200_000, 300_000] {
        tick(&hub, now);
    }
    longest(&hub, "forgotten");
    assert_eq!(hub.stats().channels, 0);
}

#[test]
fn what_the_store_has_committed_is_compared_without_the_lock_as_well() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    let _fanout = shard(&hub);
    let durable = |number: usize| {
        let long = long_name(number);
        let mut text = String::from("d");
        text.push_str(std::str::from_utf8(&long.as_bytes()[1..]).unwrap());
        name(&text)
    };
    // Submitted before there are patterns, and committed after: one channel, and several.
    send(&hub, Message::text(durable(1), "x"));
    let mut message = Message::text(durable(2), "x");
    message
        .channels
        .extend([durable(3), name("memory"), long_name(4)]);
    send(&hub, message);
    hostile_patterns(&hub);
    commit(&hub, &broker);
    assert_eq!(hub.now().durable, 2, "both are visible");
    longest(&hub, "committed");
    // A batch is taken over piece by piece, and what a deletion takes out of memory as well.
    for number in 0..2_000 {
        send(&hub, Message::text(name("d"), &number.to_string()));
    }
    commit(&hub, &broker);
    store(&hub, &broker, "d/other", "x");
    longest(&hub, "a batch");
    assert_eq!(store::delete(&hub, &broker, "d", Delete::History), 9);
    longest(&hub, "deleted");
}

#[test]
fn what_the_store_has_published_without_the_hub_is_taken_note_of_in_pieces() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    let _fanout = shard(&hub);
    for number in 0..3_000 {
        hub.listen(0, &name(&format!("d/{number}")), 10).unwrap();
    }
    for text in ["1", "2"] {
        send(&hub, Message::text(name("d/7"), text));
    }
    let mut batch = broker.batch(2, 0);
    batch.remove(0);
    hub.commit(batch, 10);
    assert_eq!(hub.now().durable, 2);
    let ids = [7, 8].map(|number| {
        let listening = hub.listen(0, &name(&format!("d/{number}")), 10).unwrap();
        (hub.offset(listening.channel.id), listening.last.durable)
    });
    assert_eq!(ids, [(2, 2), (0, 1)], "it may be in any of them");
    longest(&hub, "passed over");
}

#[test]
fn the_values_of_many_long_names_are_looked_up_in_short_holds() {
    let (hub, _fanout) = world(3);
    let names: Vec<ChannelName> = (0..1_000).map(long_name).collect();
    let values = hub.retained_values(names, &mut || panic!("memory does not wait"));
    assert_eq!(values.ready().unwrap().len(), 1_000);
    longest(&hub, "values");
    // One look counts by the length of the name, also when somebody listens.
    let looks: [fn(&Arc<Hub>); 2] = [
        |hub| drop(hub.listen(0, &long_name(1), 10)),
        |hub| drop(hub.retained_values(vec![long_name(1)], &mut || panic!("memory does not wait"))),
    ];
    for look in looks {
        let (hub, _fanout) = world(3);
        look(&hub);
        assert!(hub.longest_hold().steps >= 8 * 1024 / 64);
    }
}

#[test]
fn what_is_in_many_channels_grows_old_a_piece_at_a_time() {
    let mut short = namespace(1_000, Durability::Memory);
    short.history.age = 4_000;
    let hub = Arc::new(Hub::new(Options {
        namespaces: Namespaces::uniform(short),
        window: 3_000,
        ..options()
    }));
    let channels: Vec<ChannelName> = (0..900).map(|n| name(&format!("many/{n}"))).collect();
    let publish_in_all = |now: u64| {
        let mut message = Message::text(channels[0].clone(), "x");
        message.channels = channels.to_vec();
        publish_message(&hub, message, now);
    };
    (0..60).for_each(|n| publish_in_all(10 + n));
    tick(&hub, 3_500);
    // Out of the window, and too old: all of it is let go by whoever comes next.
    publish_in_all(10_000);
    tick(&hub, 20_000);
    assert_eq!(hub.stats().publications, 0, "all of it is too old");
    let longest = hub.longest_hold().steps;
    assert!(longest < LONGEST, "{longest}");
}
