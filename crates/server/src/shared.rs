//! What all threads of one server share: the hub, the configuration in force, budgets, counters, mailboxes.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cometserver_core::broker::{BrokerError, Page};
use cometserver_core::hub::{History, Hub, PublishError, Receipt};
use cometserver_core::quota::{LEAST_ENTRIES, Parts, Payer, Quota, Usage};
use cometserver_core::tidy::{Table, Tidy};
use cometserver_core::{Publication, Time};
use mio::Waker;

use crate::access::Access;
use crate::broker::disk::DiskLog;
use crate::budget::Budget;
use crate::config::Config;
use crate::gateway_key::GatewayKey;
use crate::listener::{Door, Role, Socket};
use crate::memory::{self, Memory};
use crate::metrics::Metrics;
use crate::room::Room;
use crate::static_files::StaticFiles;
use crate::visitor::Visitor;

pub use crate::room::SURPLUS;

/// The configuration in force and what was made of it. A reload replaces it as a whole.
#[derive(Debug)]
pub struct Settings {
    /// As read and checked.
    pub config: Config,
    /// Keys, token secrets, origins.
    pub access: Access,
}

/// What a shard is told by others.
pub enum Mail {
    /// A socket was accepted.
    Accepted(Accepted),
    /// Part of the answer to a connection's question of this number came from the store.
    Answered(ConnectionId, u64, Part),
    /// What a reader needs came from the store.
    Fetched(ConnectionId, Result<Page, BrokerError>),
    /// A newer request of the same session has come: end this one.
    Superseded(ConnectionId),
    /// The client of this stream is there.
    Renewed(ConnectionId),
    /// Visitors hold more than they may, and this shard has the largest holder.
    Relieve,
    /// Other settings are in force.
    Reloaded,
    /// Tell everybody when to come back, and take nothing new.
    Drain,
}

/// A connection that was accepted.
pub struct Accepted {
    /// Its socket.
    pub socket: Socket,
    /// The number of the door through which it came.
    pub door: usize,
    /// Who connected.
    pub peer: Visitor,
    /// Is it counted for the peer's address?
    pub is_counted: bool,
    /// Why its request is to be refused, if so.
    pub refusal: Option<&'static str>,
}

/// Part of an answer, as the store gave it.
#[derive(Debug)]
pub enum Part {
    /// What became of a publication; which of those asked for.
    Published(usize, Result<Receipt, PublishError>),
    /// A history.
    History(Result<Option<History>, BrokerError>),
    /// A retained value.
    Value(Result<Option<Arc<Publication>>, BrokerError>),
    /// Several, in the order asked for.
    Values(Result<Vec<Option<Arc<Publication>>>, BrokerError>),
    /// How many publications are forgotten.
    Deleted(Result<usize, BrokerError>),
    /// What came of an errand: an object, open at its end.
    Done(Result<Vec<u8>, Failed>),
    /// The asker has taken what was sent of the answer.
    Taken,
}

/// Why an errand failed, as a problem.
#[derive(Debug)]
pub struct Failed {
    /// The HTTP status.
    pub status: u16,
    /// The code of docs/protocol.md.
    pub code: &'static str,
    /// What to do.
    pub detail: String,
}

/// A connection, and which tenant of its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId {
    /// Which shard serves it.
    pub shard: u8,
    /// The place in the shard's table.
    pub slot: u32,
    /// Counts the tenants of that place.
    pub generation: u32,
}

/// A shard's mailbox.
pub struct Mailbox {
    mail: Mutex<Vec<Mail>>,
    waker: Waker,
    /// Connections that the shard serves, for dealing new ones.
    pub load: AtomicUsize,
}

impl Mailbox {
    /// A box whose shard is woken by `waker`.
    pub fn new(waker: Waker) -> Self {
        Self {
            mail: Mutex::new(Vec::new()),
            waker,
            load: AtomicUsize::new(0),
        }
    }

    /// Puts something in, and wakes the shard, unless something lies there already: then it is awake, or about to be.
    pub fn send(&self, mail: Mail) {
        let was_empty = {
            let mut waiting = lock(&self.mail);
            waiting.push(mail);
            waiting.len() == 1
        };
        if was_empty {
            self.wake();
        }
    }

    /// Wakes the shard.
    pub fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "a shard could not be woken");
        }
    }

    /// Takes everything out.
    pub fn take(&self, into: &mut Vec<Mail>) {
        std::mem::swap(&mut *lock(&self.mail), into);
    }
}

/// The routes that hold a client's request, each with a budget of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Long polls.
    Poll,
    /// Event streams.
    Sse,
    /// JSON streams.
    Stream,
    /// WebSockets.
    WebSocket,
}

/// Reads the configuration again, and puts it in force.
pub type Reload = Box<dyn Fn(&Shared) -> Result<Reloaded, String> + Send>;

/// What came of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// The settings that stay as they were until a restart.
    pub needs_restart: Vec<String>,
    /// How many held requests and WebSockets end, since the key or token secret they were opened with is gone.
    pub ended: usize,
}

impl Reloaded {
    fn log(&self) {
        match self.needs_restart.is_empty() {
            true => tracing::info!("configuration read again"),
            false => tracing::warn!(
                settings = self.needs_restart.join(", "),
                "configuration read again; these need a restart"
            ),
        }
        if self.ended > 0 {
            tracing::warn!(
                ended = self.ended,
                "connections end whose key or token secret was removed"
            );
        }
    }
}

/// What the main thread is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Stop: drain, then end.
    Stop,
}

/// See the module.
pub struct Shared {
    /// The hub.
    pub hub: Arc<Hub>,
    /// The log on disk, if anything is kept there.
    pub log: Option<Arc<DiskLog>>,
    /// What keeps it from being written.
    pub trouble: Arc<Trouble>,
    /// Is somebody on an errand?
    pub errand: AtomicBool,
    settings: RwLock<Arc<Settings>>,
    /// Counters.
    pub metrics: Metrics,
    /// What visitors make the server hold.
    pub memory: Memory,
    /// The doors, by the number that came with an accepted socket.
    pub doors: Vec<Door>,
    /// The shards' mailboxes.
    pub mailboxes: Vec<Mailbox>,
    /// Held requests on public doors, per [`Route`].
    held: [AtomicUsize; 4],
    /// Where that is bounded: for whom.
    held_by: Mutex<[Quota; 4]>,
    /// Of all shared tables one visitor may have so many per cent, until a restart.
    one_visitor: usize,
    /// Requests that wait behind gateways, whichever door they came in through.
    pub gateways: Budget,
    /// By what those prove themselves.
    pub gateway_key: GatewayKey,
    /// Which channels are followed by a file.
    pub static_files: StaticFiles,
    /// All connections.
    pub connections: AtomicUsize,
    /// How many the host has room for.
    pub room: Room,
    /// Those of them that are there only to be refused.
    surplus: AtomicUsize,
    /// Connections per address.
    pub addresses: Mutex<HashMap<IpAddr, usize>>,
    /// Held polls and streams by the [`Shared::secret_hash`] of whose they are, what they listen to, and their session: a
    /// session's name alone can be anybody's.
    pub sessions: Mutex<HashMap<u64, ConnectionId>>,
    /// The same by whose they are and their session alone.
    pub holders: Mutex<HashMap<u64, Vec<ConnectionId>>>,
    /// Made up at start.
    secret: RandomState,
    /// Is the server on its way out?
    pub draining: AtomicBool,
    /// Does the demo page belong to it?
    pub demo: bool,
    /// What the main thread was asked to do.
    requests: Mutex<Vec<Request>>,
    main: Waker,
    /// How to read the configuration again.
    reload: Mutex<Reload>,
    /// How long a request waits for the store, in milliseconds.
    pub patience: u64,
    /// When the server started, in milliseconds since 1970.
    pub started: Time,
}

/// What keeps the log on disk from being written, if something does.
#[derive(Debug, Default)]
pub struct Trouble {
    is_there: AtomicBool,
    is_final: AtomicBool,
    what: Mutex<String>,
    /// Why the data folder is not there, if it is not.
    folder: Mutex<Option<String>>,
}

impl Trouble {
    /// What came of the latest publication that was to be stored.
    pub fn note(&self, error: Option<&BrokerError>) {
        if self.is_final() {
            return;
        }
        match error {
            // Nearly always nothing was, and nothing is.
            None if !self.is_there.load(Ordering::Relaxed) => {}
            None => {
                self.is_there.store(false, Ordering::Relaxed);
                tracing::info!("the log on disk is written again");
            }
            Some(error) => {
                *lock(&self.what) = error.to_string();
                if !self.is_there.swap(true, Ordering::Relaxed) {
                    tracing::error!("the log on disk cannot be written: {error}");
                }
            }
        }
    }

    /// The log has failed for good: only another start helps.
    pub fn fail(&self, why: &str) {
        *lock(&self.what) = why.to_owned();
        self.is_final.store(true, Ordering::Relaxed);
        self.is_there.store(true, Ordering::Relaxed);
    }

    /// Is that so?
    pub fn is_final(&self) -> bool {
        self.is_final.load(Ordering::Relaxed)
    }

    /// The data folder has been removed, or another one is in its place. Said once.
    pub fn folder_is_gone(&self, folder: &str) {
        let why = format!(
            "the data folder {folder} was removed or replaced: nothing can be kept, and no command finds the server: restart it"
        );
        let was = lock(&self.folder).replace(why.clone());
        if was.is_none() {
            tracing::error!("{why}");
        }
    }

    /// Is it gone?
    pub fn lacks_folder(&self) -> bool {
        lock(&self.folder).is_some()
    }

    /// The data folder is where it belongs.
    pub fn folder_is_there(&self) {
        if lock(&self.folder).take().is_some() {
            tracing::info!("the data folder is there again");
        }
    }

    /// Why the log takes nothing.
    pub fn now(&self) -> Option<String> {
        if let Some(why) = lock(&self.folder).clone().filter(|_| !self.is_final()) {
            return Some(why);
        }
        self.is_there
            .load(Ordering::Relaxed)
            .then(|| lock(&self.what).clone())
    }
}

/// What a server is started with besides its configuration.
pub struct Start {
    /// See [`Shared::demo`].
    pub demo: bool,
    /// How to read the configuration again.
    pub reload: Reload,
    /// How long a request waits for each part of its answer from the store.
    pub patience: Option<Duration>,
    /// See [`Shared::log`].
    pub log: Option<Arc<DiskLog>>,
    /// See [`Shared::trouble`].
    pub trouble: Arc<Trouble>,
    /// See [`Shared::room`].
    pub room: Room,
    /// See [`Shared::gateway_key`].
    pub gateway_key: GatewayKey,
}

/// Longer than a busy disk takes, shorter than what front web servers and clients wait for.
const PATIENCE: Duration = Duration::from_secs(10);

impl Shared {
    /// What the threads of a server share.
    pub fn new(
        hub: Arc<Hub>,
        settings: Settings,
        doors: Vec<Door>,
        mailboxes: Vec<Mailbox>,
        main: Waker,
        start: Start,
    ) -> Self {
        let patience = start.patience.unwrap_or(PATIENCE);
        let one_visitor = settings.config.limits.one_visitor;
        Self {
            hub,
            log: start.log,
            trouble: start.trouble,
            errand: AtomicBool::new(false),
            metrics: Metrics::new(mailboxes.len(), wall_clock()),
            memory: Memory::new(mailboxes.len(), memory::limit(settings.config.limits.memory)),
            static_files: StaticFiles::new(&settings.config),
            settings: RwLock::new(Arc::new(settings)),
            doors,
            mailboxes,
            held: [const { AtomicUsize::new(0) }; 4],
            held_by: Mutex::default(),
            one_visitor,
            gateways: Budget::default(),
            gateway_key: start.gateway_key,
            connections: AtomicUsize::new(0),
            room: start.room,
            surplus: AtomicUsize::new(0),
            addresses: Mutex::new(HashMap::new()),
            sessions: Mutex::new(HashMap::new()),
            holders: Mutex::new(HashMap::new()),
            secret: RandomState::new(),
            draining: AtomicBool::new(false),
            demo: start.demo,
            patience: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
            requests: Mutex::new(Vec::new()),
            main,
            reload: Mutex::new(start.reload),
            started: wall_clock(),
        }
    }

    /// The configuration in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }

    /// Puts another configuration in force.
    pub fn set_settings(&self, settings: Settings) {
        self.static_files.reload(&settings.config);
        self.memory
            .set_limit(memory::limit(settings.config.limits.memory));
        *self
            .settings
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(settings);
    }

    /// Reads the configuration again and puts in force what can be without a restart.
    ///
    /// # Errors
    /// What is wrong with the configuration; nothing changed.
    pub fn reload(&self) -> Result<Reloaded, String> {
        let reload = lock(&self.reload);
        let result = reload(self);
        match &result {
            Ok(reloaded) => reloaded.log(),
            Err(error) => tracing::error!("configuration not changed: {error}"),
        }
        if result.is_ok() {
            for mailbox in &self.mailboxes {
                mailbox.send(Mail::Reloaded);
            }
            // It may be waiting for as long as the old settings said.
            self.wake_main();
        }
        result
    }

    /// Tells a connection part of the answer to its question.
    pub fn answer(&self, connection: ConnectionId, number: u64, part: Part) {
        self.mailboxes[usize::from(connection.shard)].send(Mail::Answered(connection, number, part));
    }

    /// Asks the main thread for something.
    pub fn ask(&self, request: Request) {
        lock(&self.requests).push(request);
        self.wake_main();
    }

    /// Wakes the main thread.
    pub fn wake_main(&self) {
        if let Err(error) = self.main.wake() {
            tracing::error!(%error, "the main thread could not be woken");
        }
    }

    /// What the main thread was asked since the last time.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut *lock(&self.requests))
    }

    /// A hash that nobody else can compute, nor compute the value from.
    pub fn secret_hash(&self, value: &impl Hash) -> u64 {
        self.secret.hash_one(value)
    }

    /// A request of a session is held no longer.
    pub fn forget_held(&self, held_as: u64, holder: u64, id: ConnectionId) {
        let mut sessions = lock(&self.sessions);
        if sessions.get(&held_as) == Some(&id) {
            sessions.remove(&held_as);
            sessions.tidy();
        }
        drop(sessions);
        let mut holders = lock(&self.holders);
        if let Some(held) = holders.get_mut(&holder) {
            held.retain(|other| *other != id);
            if held.is_empty() {
                holders.remove(&holder);
                holders.tidy();
            }
        }
    }

    /// Takes a place in a route's budget, if there is one. Of the last half of all places a visitor gets one only who has
    /// fewer than `limits.one_visitor` of all: whoever comes first cannot have them all.
    pub fn hold(&self, route: Route, payer: Payer, max: Option<usize>) -> bool {
        let held = &self.held[route as usize];
        let taken = held.fetch_add(1, Ordering::Relaxed);
        let Some(max) = max else { return true };
        let mut part = Parts {
            one: self.one_visitor,
            all: 100,
        }
        .of(max, LEAST_ENTRIES);
        if taken < max / 2 {
            part.one = max;
        }
        let quota = &mut lock(&self.held_by)[route as usize];
        if taken >= max || quota.take(payer, 1, part).is_err() {
            held.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Gives the place back.
    pub fn release(&self, route: Route, payer: Payer) {
        self.held[route as usize].fetch_sub(1, Ordering::Relaxed);
        // It has none there if there was no bound when the place was taken.
        lock(&self.held_by)[route as usize].give_back(payer, 1);
    }

    /// What visitors have of the places that are bounded.
    pub fn held_usage(&self) -> Usage {
        let all = lock(&self.held_by);
        let usages = all.iter().map(Quota::usage);
        usages.fold(Usage::default(), |sum, one| Usage {
            taken: sum.taken + one.taken,
            refused: sum.refused + one.refused,
        })
    }

    /// A connection was accepted: deals it to the least loaded shard, or refuses it for the reason given.
    ///
    /// # Errors
    /// What to tell the client.
    pub fn admit(
        &self,
        socket: Socket,
        door: usize,
        address: Option<IpAddr>,
    ) -> Result<(), (Socket, &'static str)> {
        let peer = address.map_or(Visitor::Unknown, Visitor::at);
        let (is_counted, refusal) = match self.find_room(door, peer) {
            Ok(is_counted) => (is_counted, None),
            Err(why) if self.is_surplus(door) => (false, Some(why)),
            Err(why) => return Err((socket, why)),
        };
        self.connections.fetch_add(1, Ordering::Relaxed);
        let least = self
            .mailboxes
            .iter()
            .min_by_key(|mailbox| mailbox.load.load(Ordering::Relaxed));
        let Some(mailbox) = least else { return Ok(()) };
        mailbox.load.fetch_add(1, Ordering::Relaxed);
        mailbox.send(Mail::Accepted(Accepted {
            socket,
            door,
            peer,
            is_counted,
            refusal,
        }));
        Ok(())
    }

    /// Takes a place among those that are there only to be refused, if there is one: for visitors, where the host has room.
    fn is_surplus(&self, door: usize) -> bool {
        let is_public = self.doors[door].role == Role::Public;
        if !is_public
            || !self
                .room
                .has_for_surplus(self.connections.load(Ordering::Relaxed))
        {
            return false;
        }
        let is_free = self.surplus.fetch_add(1, Ordering::Relaxed) < SURPLUS;
        if !is_free {
            self.surplus.fetch_sub(1, Ordering::Relaxed);
        }
        is_free
    }

    /// Counts a connection for its peer's address, if that is bounded for this door: then it says so.
    fn find_room(&self, door: usize, peer: Visitor) -> Result<bool, &'static str> {
        let settings = self.settings();
        let limits = &settings.config.limits;
        // The site's own code, and monitoring, get in however many visitors there are.
        let door = &self.doors[door];
        let is_public = door.role == Role::Public;
        let open = self.connections.load(Ordering::Relaxed);
        if is_public && open >= limits.connections {
            return Err("the server has as many connections as limits.connections allows");
        }
        if !self.room.has_for(door.role, open) {
            return Err("the server has as many connections as its limit of open files allows");
        }
        // The front web server's own address says nothing; its requests will.
        let address = peer.address().filter(|_| is_public && !door.proxied);
        match (address, limits.connections_per_address) {
            (Some(_), Some(max)) => self.recount(None, address, max).map(|()| true),
            _ => Ok(false),
        }
    }

    /// A connection counts for another address from now on.
    ///
    /// # Errors
    /// That address has `max` already, for the reason given; the connection counts for none.
    pub fn recount(&self, old: Option<IpAddr>, new: Option<IpAddr>, max: usize) -> Result<(), &'static str> {
        if old == new {
            return Ok(());
        }
        if let Some(old) = old {
            self.uncount(old);
        }
        let Some(new) = new else { return Ok(()) };
        let mut addresses = lock(&self.addresses);
        let count = addresses.get(&new).copied().unwrap_or_default();
        if count >= max {
            return Err("this address has as many connections as limits.connections_per_address allows");
        }
        addresses.insert(new, count + 1);
        Ok(())
    }

    /// One connection less counts for this address.
    pub fn uncount(&self, address: IpAddr) {
        let mut addresses = lock(&self.addresses);
        if let Some(count) = addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&address);
                addresses.tidy();
            }
        }
    }

    /// A connection of this shard is gone, which was one of [`SURPLUS`] or not.
    pub fn left(&self, shard: u8, address: Option<IpAddr>, surplus: bool) {
        if surplus {
            self.surplus.fetch_sub(1, Ordering::Relaxed);
        }
        self.mailboxes[shard as usize]
            .load
            .fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = address {
            self.uncount(address);
        }
        if self.connections.fetch_sub(1, Ordering::Relaxed) == 1 {
            // The last one: the main thread may be waiting for that.
            self.wake_main();
        }
    }

    /// How full the tables are that all threads share, the hub's included.
    pub fn tables(&self) -> Vec<Table> {
        let mut tables = self.hub.tables();
        tables.extend([
            Table::of("addresses", &*lock(&self.addresses)),
            Table::of("sessions", &*lock(&self.sessions)),
            Table::of("holders", &*lock(&self.holders)),
        ]);
        tables
    }

    /// How many requests are held on public doors.
    pub fn held(&self) -> usize {
        self.held.iter().map(|held| held.load(Ordering::Relaxed)).sum()
    }
}

/// A lock that is only ever held for a moment and guards nothing that a panic could leave half done.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Milliseconds since 1970.
pub fn wall_clock() -> Time {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Microseconds since 1970, for measuring.
pub fn wall_micros() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A number below `bound`, to spread things out. Not for secrets.
pub fn chance(bound: u64) -> u64 {
    match bound {
        0 => 0,
        bound => RandomState::new().hash_one(std::time::Instant::now()) % bound,
    }
}

/// A duration shortened by up to a fifth, so that what began together does not end together.
pub fn jittered(duration: Duration) -> u64 {
    let whole = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    whole - chance(whole / 5 + 1)
}

/// How long a peer may take nothing, acknowledge nothing, or not say that it is there where that is expected: two and a half
/// heartbeats, and at least two seconds. One that has vanished does not get the next heartbeat, and so is gone within four.
pub fn patience(heartbeat: Duration) -> Duration {
    (heartbeat.saturating_mul(5) / 2).max(LEAST_PATIENCE)
}

/// The least of that: a busy machine may keep a client waiting, however short the heartbeats.
const LEAST_PATIENCE: Duration = Duration::from_secs(2);

/// When a client that is sent away should come back, in milliseconds.
pub fn retry_after(retry: Duration) -> u64 {
    let base = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX);
    base + chance(base / 2 + 1)
}
