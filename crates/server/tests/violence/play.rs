//! One whole run: the cast, the killing, the end, the verdict.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::chance::Chance;
use super::judge;
use super::ledger::{Id, Ledger};
use super::listening::Transport;
use super::owner::Owner;
use super::proxy::Proxy;
use super::publisher::{self, Call, Publisher};
use super::scene::{Promise, Room, Scene};
use super::stage::Stage;
use super::subscriber::{self, Finals, Interest, Subscriber};
use super::wire::Http;
use super::witness;

/// How long the last publications may take to reach everybody.
const CALM: Duration = Duration::from_secs(90);

/// What is to be done.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// Ends after so many kills …
    pub(super) kills: u32,
    /// … or this time.
    pub(super) time: Duration,
    /// With [`Room::Memory`] nothing is killed.
    pub(super) room: Room,
    /// The server lives at most so long between two kills, in ms.
    pub(super) life_ms: u64,
    /// Says now and then how far it is.
    pub(super) progress: bool,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) kills: u32,
    pub(super) kills_while_starting: u32,
    pub(super) stops: u32,
    /// Backups that were made while it ran; each was whole.
    pub(super) backups: u32,
    pub(super) damages: u32,
    pub(super) cuts: u64,
    pub(super) sent: u64,
    pub(super) acked: u64,
    pub(super) delivered: u64,
    pub(super) gaps: u64,
    pub(super) lost_buffered: u64,
    pub(super) longest_start: Duration,
    pub(super) faults: Vec<String>,
}

impl Report {
    pub(super) fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.kills_while_starting += other.kills_while_starting;
        self.stops += other.stops;
        self.backups += other.backups;
        self.damages += other.damages;
        self.cuts += other.cuts;
        self.sent += other.sent;
        self.acked += other.acked;
        self.delivered += other.delivered;
        self.gaps += other.gaps;
        self.lost_buffered += other.lost_buffered;
        self.longest_start = self.longest_start.max(other.longest_start);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {} kills ({} while starting), {} stops, {} backups, {} damages, {} cuts; {} publications, {} acknowledged, {} deliveries, \
             {} gaps told, {} buffered lost, longest start {} ms, {} faults",
            self.seed,
            self.kills,
            self.kills_while_starting,
            self.stops,
            self.backups,
            self.damages,
            self.cuts,
            self.sent,
            self.acked,
            self.delivered,
            self.gaps,
            self.lost_buffered,
            self.longest_start.as_millis(),
            self.faults.len()
        )
    }
}

/// Everybody who takes part, each a thread.
struct Cast {
    ledger: Arc<Ledger>,
    finals: Arc<Finals>,
    /// Publishers and witnesses stop.
    end: Arc<AtomicBool>,
    front: Proxy,
    back: Proxy,
    publishers: Vec<JoinHandle<Vec<(u16, Id)>>>,
    subscribers: Vec<(usize, JoinHandle<()>)>,
    others: Vec<JoinHandle<()>>,
}

/// Runs the play in this folder, which is left as it is for whoever wants to look.
pub(super) fn run(plan: &Plan, folder: &Path) -> Report {
    let scene = Scene::new(plan.room);
    let chance = Chance::new(plan.seed);
    let mut stage = Stage::new(folder, &scene, threads(plan));
    let mut report = Report {
        seed: plan.seed,
        ..Report::default()
    };
    match stage.start() {
        Ok(took) => report.longest_start = took,
        Err(text) => {
            report.faults.push(text);
            return report;
        }
    }
    let cast = Cast::enter(&stage, scene, &chance);
    let ledger = cast.ledger.clone();
    if let Err(text) = violence(plan, &mut stage, &cast, &mut report) {
        ledger.violation(text);
    }
    cast.leave(&stage, &mut report);
    report.faults.append(&mut ledger.records().violations);
    if report.faults.is_empty() {
        // First: histories say where what was not acknowledged is in each of its channels.
        after_all(&ledger, &stage, &mut report.faults);
        report.faults.extend(judge::judge(&ledger));
    }
    if let Err(text) = stage.stop() {
        report.faults.push(text);
    }
    report.faults.extend(stage.panics());
    let records = ledger.records();
    report.sent = records.publishers.iter().map(|list| list.len() as u64).sum();
    report.acked = ledger.acked.load(Ordering::Relaxed);
    report.delivered = ledger.delivered.load(Ordering::Relaxed);
    report.gaps = records.gaps;
    drop(records);
    report.lost_buffered = ledger.lost();
    report
}

/// Shards of the server: one, or more than there are cores.
fn threads(plan: &Plan) -> u64 {
    1 + plan.seed % 4
}

/// Kills and starts until the plan is fulfilled; leaves a running server.
fn violence(plan: &Plan, stage: &mut Stage, cast: &Cast, report: &mut Report) -> Result<(), String> {
    let mut chance = Chance::new(plan.seed).fork(1);
    let (begun, mut said) = (Instant::now(), Instant::now());
    while report.kills < plan.kills && begun.elapsed() < plan.time {
        if plan.room == Room::Memory {
            thread::sleep(Duration::from_millis(100));
        } else {
            // Sometimes it is being copied when it is killed, or before.
            let copies = plan.room != Room::Damaged && chance.one_in(8);
            let backup = copies.then(|| stage.begin_backup());
            let time = Duration::from_millis(chance.magnitude(20, plan.life_ms));
            live(stage, cast, time / 2)?;
            if chance.one_in(6) {
                stage.reload(&cast.ledger.scene, threads(plan), chance.one_in(2));
            }
            live(stage, cast, time / 2)?;
            if chance.one_in(8) {
                stage.stop()?;
                report.stops += 1;
            } else {
                cast.ledger.killed.store(true, Ordering::SeqCst);
                stage.kill();
                report.kills += 1;
            }
            if let Some(backup) = backup {
                report.backups += u32::from(stage.end_backup(backup)?);
            }
            if plan.room == Room::Damaged {
                report.damages += u32::from(chance.one_in(3) && stage.damage(&mut chance));
            } else if chance.one_in(8) {
                stage.check(&stage.data().join("log"))?;
            }
            // Killed again before it listens, perhaps in the middle of its recovery, perhaps several times.
            while chance.one_in(4) {
                cast.ledger.life.fetch_add(1, Ordering::SeqCst);
                let ready = stage.spawn();
                let _ = ready.recv_timeout(Duration::from_micros(chance.magnitude(300, 60_000)));
                cast.ledger.killed.store(true, Ordering::SeqCst);
                stage.kill();
                report.kills += 1;
                report.kills_while_starting += 1;
            }
            cast.ledger.life.fetch_add(1, Ordering::SeqCst);
            report.longest_start = report.longest_start.max(stage.start()?);
        }
        if cast.ledger.broken.load(Ordering::Relaxed) {
            return Ok(());
        }
        if plan.progress && said.elapsed() > Duration::from_secs(5) {
            said = Instant::now();
            println!(
                "{:>5} s: {} kills, {} stops, {} acknowledged, {} deliveries, longest start {} ms",
                begun.elapsed().as_secs(),
                report.kills,
                report.stops,
                cast.ledger.acked.load(Ordering::Relaxed),
                cast.ledger.delivered.load(Ordering::Relaxed),
                report.longest_start.as_millis()
            );
        }
    }
    Ok(())
}

/// Lets the server live for a while.
fn live(stage: &mut Stage, cast: &Cast, time: Duration) -> Result<(), String> {
    let begun = Instant::now();
    while begun.elapsed() < time && !cast.ledger.broken.load(Ordering::Relaxed) {
        if let Some(text) = stage.ended() {
            return Err(text);
        }
        thread::sleep(
            time.saturating_sub(begun.elapsed())
                .min(Duration::from_millis(50)),
        );
    }
    Ok(())
}

impl Cast {
    fn enter(stage: &Stage, scene: Scene, chance: &Chance) -> Self {
        let front = Proxy::start(stage.public.clone(), chance.fork(2));
        let back = Proxy::start(stage.backend.clone(), chance.fork(3));
        let mut habits = publishers(stage, &back);
        if scene.room == Room::Damaged {
            for habits in &mut habits {
                // Keys are in what is lost.
                habits.keyed = false;
                // So may be all that is known of a quiet channel: then it is another one, whose offsets begin anew.
                habits
                    .prefixes
                    .retain(|prefix| !["kept/many/", "rare/"].contains(prefix));
            }
            habits.retain(|habits| !habits.prefixes.is_empty());
        }
        let ledger = Arc::new(Ledger::new(scene, habits.len()));
        let mut cast = Self {
            ledger,
            finals: Arc::default(),
            end: Arc::default(),
            front,
            back,
            publishers: Vec::new(),
            subscribers: Vec::new(),
            others: Vec::new(),
        };
        for (number, (name, habits)) in subscribers(stage, &cast.front).into_iter().enumerate() {
            let chance = chance.fork(100 + number as u64);
            let mut subscriber =
                Subscriber::new(cast.ledger.clone(), name, habits, chance, cast.finals.clone());
            // The proxy may cut here too.
            while subscriber.open().is_err() {}
            let number = subscriber.number;
            cast.subscribers
                .push((number, thread::spawn(move || subscriber.run())));
        }
        for (number, habits) in habits.into_iter().enumerate() {
            let chance = chance.fork(200 + number as u64);
            let publisher = Publisher::new(
                cast.ledger.clone(),
                number as u16,
                habits,
                chance,
                cast.end.clone(),
            );
            cast.publishers.push(thread::spawn(move || publisher.run()));
        }
        cast.watch(stage, chance);
        cast
    }

    /// Who asks for histories and retained values, and pages that are opened and closed.
    fn watch(&mut self, stage: &Stage, chance: &Chance) {
        let (ledger, door, end) = (self.ledger.clone(), stage.backend.clone(), self.end.clone());
        let asking = chance.fork(300);
        self.others.push(thread::spawn(move || {
            witness::ask_around(&ledger, &door, asking, &end)
        }));
        let (ledger, door, end) = (self.ledger.clone(), stage.backend.clone(), self.end.clone());
        if ledger.scene.room != Room::Damaged {
            let owner = Owner::new(ledger, door, chance.fork(302));
            self.others.push(thread::spawn(move || owner.run(&end)));
        }
        let (ledger, end, finals) = (self.ledger.clone(), self.end.clone(), self.finals.clone());
        let (door, mut chance) = (self.front.door.clone(), chance.fork(301));
        self.others.push(thread::spawn(move || {
            let visits = AtomicU64::new(0);
            while !end.load(Ordering::Relaxed) && !ledger.broken.load(Ordering::Relaxed) {
                let asked = ledger.moment();
                let now = Http::connect(&door, Duration::from_secs(30))
                    .and_then(|mut http| http.get("/v1/now")?.json());
                let Ok(now) = now else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                // A page is rendered, perhaps while the server is killed, and subscribes then.
                let until = Instant::now() + chance.millis(500, 4_000);
                let habits = subscriber::Habits {
                    transport: *chance.of(&[
                        Transport::Sse,
                        Transport::Poll,
                        Transport::WebSocket,
                        Transport::Stream,
                    ]),
                    door: door.clone(),
                    interest: Interest::Channels(vec!["kept/main/", "buffered/"]),
                    absent: 0,
                    slow: false,
                };
                let visit = visits.fetch_add(1, Ordering::Relaxed);
                let name = format!("visitor {visit} ({:?})", habits.transport);
                let visitor =
                    Subscriber::new(ledger.clone(), &name, habits, chance.fork(visit), finals.clone());
                let visitor = visitor.visitor(now["cursor"].as_str().unwrap_or_default(), asked, until);
                thread::sleep(chance.millis(0, 300));
                visitor.run();
            }
        }));
    }

    /// Ends the play: no more cuts, a last publication everywhere, and everybody has to see it.
    fn leave(self, stage: &Stage, report: &mut Report) {
        self.front.calm.store(true, Ordering::Relaxed);
        self.back.calm.store(true, Ordering::Relaxed);
        self.finals.calm.store(true, Ordering::Relaxed);
        self.end.store(true, Ordering::Relaxed);
        report.cuts = self.front.cuts.load(Ordering::Relaxed) + self.back.cuts.load(Ordering::Relaxed);
        let mut last = Vec::new();
        for publisher in self.publishers {
            match publisher.join() {
                Ok(ids) => last.extend(ids),
                Err(_) => self.ledger.violation("a publisher's thread panicked".to_owned()),
            }
        }
        last.retain(|(_, id)| {
            let records = self.ledger.records();
            records.publishers[usize::from(id.publisher)][id.number as usize]
                .acked
                .is_some()
        });
        *self.finals.ids.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        let begun = Instant::now();
        while self.subscribers.iter().any(|(_, thread)| !thread.is_finished()) && begun.elapsed() < CALM {
            thread::sleep(Duration::from_millis(10));
        }
        for (number, thread) in &self.subscribers {
            if !thread.is_finished() {
                let name = self.ledger.records().subscribers[*number].name.clone();
                let text = format!(
                    "{name} does not get everything within {CALM:?}; the log ends:\n{}",
                    stage.log_end()
                );
                // What it lacks is the judge's to say; this is said only if the judge finds nothing.
                report.faults.push(text);
            }
        }
        self.ledger.broken.store(
            !report.faults.is_empty() || self.ledger.broken.load(Ordering::Relaxed),
            Ordering::Relaxed,
        );
        for other in self.others {
            let _ = other.join();
        }
        if !report.faults.is_empty() {
            report.faults.extend(judge::judge(&self.ledger));
        }
    }
}

/// Who publishes, and how.
fn publishers(stage: &Stage, back: &Proxy) -> Vec<publisher::Habits> {
    let direct = |call, prefixes: &[&'static str], together, pause_ms| publisher::Habits {
        call,
        door: stage.backend.clone(),
        cut: false,
        keyed: false,
        prefixes: prefixes.to_vec(),
        together,
        heavy: false,
        pause_ms,
    };
    let keyed = |call, prefixes: &[&'static str], together, pause_ms| publisher::Habits {
        door: back.door.clone(),
        cut: true,
        keyed: true,
        ..direct(call, prefixes, together, pause_ms)
    };
    vec![
        keyed(Call::Single, &["kept/main/", "kept/last/"], 6, 20),
        direct(Call::Single, &["kept/main/", "kept/last/"], 6, 20),
        keyed(Call::Batch, &["kept/main/", "short/"], 20, 40),
        keyed(Call::WebSocket, &["kept/main/", "short/"], 20, 40),
        direct(Call::WebSocket, &["kept/main/", "kept/last/", "memory/"], 20, 40),
        direct(Call::Seed, &["kept/key/"], 3, 20),
        direct(Call::Batch, &["kept/many/", "rare/"], 20, 60),
        direct(Call::Single, &["buffered/"], 6, 20),
        direct(Call::WebSocket, &["buffered/", "kept/main/"], 20, 40),
        direct(Call::Batch, &["memory/", "short/"], 10, 40),
        // Soon forgotten: what the log has to clear away beside what it keeps.
        publisher::Habits {
            heavy: true,
            ..direct(Call::Batch, &["short/"], 10, 60)
        },
    ]
}

/// Who listens, and how.
fn subscribers(stage: &Stage, front: &Proxy) -> Vec<(&'static str, subscriber::Habits)> {
    let everything = ["kept/", "short/", "buffered/", "memory/"];
    let habits = |transport, interest, absent| subscriber::Habits {
        transport,
        slow: false,
        door: front.door.clone(),
        interest,
        absent,
    };
    let channels = |names: &[&'static str]| Interest::Channels(names.to_vec());
    vec![
        ("sse", habits(Transport::Sse, channels(&everything), 0)),
        (
            "sse, often away",
            habits(
                Transport::Sse,
                channels(&["kept/main/", "kept/key/", "short/"]),
                3,
            ),
        ),
        (
            "stream",
            habits(Transport::Stream, channels(&["kept/", "buffered/"]), 10),
        ),
        ("poll", habits(Transport::Poll, channels(&everything), 0)),
        (
            "poll, often away",
            habits(Transport::Poll, channels(&["kept/main/", "short/", "memory/"]), 3),
        ),
        (
            "websocket",
            habits(Transport::WebSocket, channels(&everything), 0),
        ),
        (
            "binary websocket",
            habits(
                Transport::BinarySocket,
                channels(&["kept/main/", "kept/last/", "buffered/"]),
                6,
            ),
        ),
        (
            "websocket, often away",
            habits(Transport::WebSocket, channels(&["kept/", "memory/"]), 3),
        ),
        (
            "subscribe commands",
            habits(
                Transport::Commands,
                channels(&["kept/main/", "kept/last/", "buffered/"]),
                5,
            ),
        ),
        (
            "pattern over sse",
            habits(Transport::Sse, Interest::Pattern("kept/**"), 5),
        ),
        (
            "pattern over poll",
            habits(Transport::Poll, Interest::Pattern("kept/**"), 0),
        ),
        (
            "pattern of rare ones",
            habits(Transport::Stream, Interest::Pattern("rare/**"), 4),
        ),
        (
            "pattern over websocket",
            habits(Transport::WebSocket, Interest::Pattern("**"), 5),
        ),
        (
            "slow stream",
            subscriber::Habits {
                slow: true,
                ..habits(
                    Transport::Stream,
                    channels(&["kept/main/", "short/", "memory/"]),
                    0,
                )
            },
        ),
        (
            "slow websocket",
            subscriber::Habits {
                slow: true,
                ..habits(Transport::WebSocket, channels(&["kept/", "buffered/"]), 0)
            },
        ),
        (
            "stream without proxy",
            subscriber::Habits {
                door: stage.public.clone(),
                ..habits(Transport::Stream, channels(&everything), 0)
            },
        ),
    ]
}

/// Histories and retained values, once more when nothing moves any more.
fn after_all(ledger: &Arc<Ledger>, stage: &Stage, faults: &mut Vec<String>) {
    for channel in 0..ledger.scene.channels.len() as u16 {
        let name = ledger.scene.name(channel).to_owned();
        if !ledger.scene.is_durable(channel) {
            continue;
        }
        let (found, newest) = match witness::whole(ledger, &stage.backend, channel) {
            Ok(found) => found,
            Err(error) => {
                faults.push(format!("the history of {name} cannot be read: {error}"));
                continue;
            }
        };
        let known: Vec<(u64, Id)> = {
            let records = ledger.records();
            let history = records.truth[usize::from(channel)]
                .histories
                .get(&0)
                .cloned()
                .unwrap_or_default();
            (1..)
                .zip(history)
                .filter_map(|(offset, id)| id.map(|id| (offset, id)))
                .collect()
        };
        if ledger.scene.room == Room::Damaged {
            // What is missing was told to those who needed it; what is there is right, or it would not have been recognised.
            continue;
        }
        let last = known.last().map_or(0, |(offset, _)| *offset);
        if newest != last {
            faults.push(format!("{name} ends at offset {last}, its history says {newest}"));
        }
        // A short history holds the newest, all others everything.
        let short = ledger.scene.promise(channel) == Promise::Short;
        let matches = if short {
            known.ends_with(&found)
        } else {
            known == found
        };
        if !matches {
            faults.push(format!(
                "the history of {name} has {} of {} publications",
                found.len(),
                known.len()
            ));
        }
        if let Some((_, expected)) = witness::newest_retained(ledger, channel, false) {
            let path = format!("/v1/retained?channel={}", super::wire::encode(&name));
            let answer = Http::connect(&stage.backend, CALM).and_then(|mut http| http.get(&path)?.json());
            let found = answer
                .ok()
                .and_then(|object| ledger.find(&object, "the retained value at the end"));
            if found.map(|(id, _)| id) != Some(expected) {
                faults.push(format!(
                    "{name} retains {found:?}, the newest retained is {expected:?}"
                ));
            }
        }
    }
    faults.append(&mut ledger.records().violations);
}
