//! The composition root: builds the house from a configuration, listens, drains on shutdown.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cometserver_core::broker::Broker;
use cometserver_core::hub::{Hub, MAX_SHARDS};
use mio::{Events, Poll, Token, Waker};

use crate::broker::disk::io::Disk;
use crate::broker::disk::{DiskLog, OpenError};
use crate::config::{Config, ConfigError, Loaded};
use crate::data_folder::{DataFolder, DataFolderError, Kept, Lock};
use crate::listener::{Door, Listener};
use crate::room::{self, Room};
use crate::shard::{self, Shard};
use crate::shared::{Mail, Mailbox, Request, Shared, Start, Trouble, wall_clock};
use crate::static_files::Writing;
use crate::{kept, logging, plain_file, platform};

mod accepting;
mod binding;
mod building;
mod healing;
mod idle;
mod opening;
mod signals;

use accepting::Failures;
use binding::{Sockets, addresses, bind_all, gateway_key};
pub use building::{check, namespaces as namespaces_of};
use building::{hub_options, reload_with, settings};
use healing::Healing;
use idle::Idle;
pub use opening::{Reading, files_of, log_folder};
use opening::{connect, open_log, stop_on_failure};
use signals::Signals;

/// The main thread's own tokens; listeners come behind them.
const WAKER: Token = Token(0);
const SIGNALS: Token = Token(1);
const FIRST_LISTENER: usize = 2;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// The socket for the site's own code.
    pub backend: PathBuf,
    /// The socket for front web servers.
    pub public: Option<PathBuf>,
    /// Public TCP addresses, with the ports that were really bound.
    pub tcp: Vec<SocketAddr>,
}

/// Called once, when the server listens.
pub type Ready = Box<dyn FnOnce(&Addresses) + Send>;

/// Reads the configuration again.
pub type Reload = Box<dyn Fn() -> Result<Loaded, ConfigError> + Send>;

/// Told now and then, while the log on disk is read at the start, if that takes long.
pub type Progress = Box<dyn Fn(&Reading) + Send>;

/// How to run.
#[derive(Default)]
pub struct Options {
    /// Whether to serve the demo page.
    pub demo: bool,
    /// Called once, when the server listens.
    pub ready: Option<Ready>,
    /// How to read the configuration again; without it a reload does nothing.
    pub reload: Option<Reload>,
    /// Told while the log on disk is read.
    pub progress: Option<Progress>,
    /// Another file system for the log on disk, such as one that fails in a test.
    pub disk: Option<Arc<dyn Disk>>,
    /// Another store than the log in the data folder, for a server within another program, such as a test. What it commits
    /// goes to the hub of [`Server::shared`].
    pub store: Option<Arc<dyn Broker>>,
    /// How long a request waits for the store, if not for the usual ten seconds.
    pub patience: Option<Duration>,
    /// Leave signals, and the log, to the caller: for servers within another program, such as a test.
    pub embedded: bool,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data folder, its lock, or a socket in it.
    #[error(transparent)]
    DataFolder(#[from] DataFolderError),
    /// The log on disk.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// An address or a socket cannot be bound.
    #[error("cannot listen on {0}")]
    Listen(#[source] io::Error),
    /// The configuration names a group that does not exist.
    #[error("socket_group {0:?}: there is no such group: name another, or give its number")]
    NoGroup(String),
    /// A namespace's pattern, or an origin.
    #[error("{0}")]
    Config(String),
    /// The log on disk failed while the server ran: a new start reads what is safe.
    #[error("the log on disk failed: {0}")]
    LogFailed(String),
    /// The system refused something that a server cannot do without.
    #[error("the system refused {what}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::System { what, source }
}

/// Runs a server until it is stopped by a signal or a request.
///
/// # Errors
/// [`StartError`] if it could not begin to listen; nothing is left behind.
pub fn run(config: Config, options: Options) -> Result<(), StartError> {
    Server::start(config, options)?.run()
}

/// A server that listens.
pub struct Server {
    shared: Arc<Shared>,
    /// Ends with the server.
    static_files: Option<Writing>,
    addresses: Addresses,
    poll: Poll,
    listeners: Vec<Option<Listener>>,
    signals: Option<Signals>,
    shards: Vec<JoinHandle<()>>,
    ready: Option<Ready>,
    /// Until when nothing is accepted, for want of descriptors or memory.
    paused: Option<Instant>,
    /// How that is said.
    failures: Failures,
    /// Listeners with more connections than are accepted at a time.
    more: Vec<usize>,
    draining_until: Option<Instant>,
    idle: Idle,
    sockets: Sockets,
    healing: Healing,
    /// Held for life.
    lock: Lock,
}

impl Server {
    /// Binds everything and starts the shards.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind.
    pub fn start(config: Config, options: Options) -> Result<Self, StartError> {
        platform::give_back_large_buffers();
        if !options.embedded {
            // A second server in one process (a test) has one already, and that one stays.
            let _ = logging::init(config.log.format, config.log.level);
        }
        let descriptors = raise_descriptors();
        let mut warnings = Vec::new();
        let folder = DataFolder::create(&config.data_dir, &mut warnings)?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let poll = Poll::new().map_err(system("an event queue"))?;
        // Whoever finds the lock held may ask by a signal for the socket: from the first moment that must not end us.
        let hangup = match options.embedded {
            true => None,
            false => Some(signals::hangup(&poll)?),
        };
        let mut lock = folder.lock(&config.socket)?;
        // Before anybody is let in: what they ask for may be there.
        let log = match options.store {
            Some(_) => None,
            None => open_log(&config, options.disk, options.progress)?,
        };
        let waker = Waker::new(poll.registry(), WAKER).map_err(system("a waker"))?;
        let mut sockets = Sockets::default();
        let bound = bind_all(&config, &lock, &mut sockets)?;
        match lock.write_pid() {
            // Only clients of the seed read it: a full disk keeps nobody from being served.
            Err(DataFolderError::File { path, source, .. }) if plain_file::is_full(&source) => {
                tracing::warn!(error = %source, path = %path.display(), "the process id is not written down");
            }
            other => other?,
        }
        let gateway_key = gateway_key(&config);
        let (doors, mut listeners): (Vec<Door>, Vec<Listener>) = bound.into_iter().unzip();
        for (index, listener) in listeners.iter_mut().enumerate() {
            let token = Token(FIRST_LISTENER + index);
            poll.registry()
                .register(listener.source(), token, mio::Interest::READABLE)
                .map_err(system("to watch a listener"))?;
        }
        let signals = hangup.map(|hangup| Signals::new(&poll, hangup)).transpose()?;
        let threads = config
            .threads
            .unwrap_or_else(platform::cores)
            // One more for the static files.
            .clamp(1, MAX_SHARDS - 1);
        let mut polls = Vec::with_capacity(threads);
        let mut mailboxes = Vec::with_capacity(threads);
        for _ in 0..threads {
            let poll = Poll::new().map_err(system("an event queue"))?;
            let waker = Waker::new(poll.registry(), shard::WAKER).map_err(system("a waker"))?;
            mailboxes.push(Mailbox::new(waker));
            polls.push(poll);
        }
        let store = log.clone().map(|log| log as Arc<dyn Broker>).or(options.store);
        let mut hub = match store {
            Some(store) => Hub::with_broker(hub_options(&config)?, store),
            None => Hub::new(hub_options(&config)?),
        };
        hub.set_work_clock(|| {
            let time = platform::thread_time().unwrap_or_default();
            u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
        });
        kept::take_up(&mut hub, folder.path(), config.limits.log_memory, wall_clock());
        // Whoever syncs a folder closes it, and with that takes the mark away.
        lock.mark();
        let hub = Arc::new(hub);
        let trouble = Arc::new(Trouble::default());
        if let Some(log) = &log {
            connect(log, &hub, trouble.clone());
        }
        let addresses = addresses(&config, &doors);
        let room = room(&config, descriptors, log.as_deref());
        let settings = settings(config).map_err(StartError::Config)?;
        let shared = Arc::new(Shared::new(
            hub,
            settings,
            doors,
            mailboxes,
            waker,
            Start {
                demo: options.demo,
                reload: reload_with(options.reload),
                patience: options.patience,
                log,
                trouble,
                room,
                gateway_key,
            },
        ));
        if let Some(log) = &shared.log {
            stop_on_failure(log, &shared);
        }
        let main = shared.clone();
        shared.hub.set_housekeeper(Box::new(move || main.wake_main()));
        let mut shards = Vec::with_capacity(threads);
        for (id, poll) in polls.into_iter().enumerate() {
            let shard = Shard::new(id as u8, shared.clone(), poll);
            let thread = std::thread::Builder::new().name(format!("shard-{id}"));
            let failing = shared.clone();
            let run = move || {
                let guard = StopOnPanic(failing.clone());
                if let Err(error) = shard.run() {
                    tracing::error!(%error, "a shard cannot go on: the server stops");
                    failing.ask(Request::Stop);
                }
                drop(guard);
            };
            shards.push(thread.spawn(run).map_err(system("a thread"))?);
        }
        let static_files =
            Writing::start(&shared, threads as u8).map_err(system("the folder of static files"))?;
        Ok(Self {
            shared,
            static_files,
            addresses,
            poll,
            listeners: listeners.into_iter().map(Some).collect(),
            signals,
            shards,
            ready: options.ready,
            paused: None,
            failures: Failures::default(),
            more: Vec::new(),
            draining_until: None,
            idle: Idle::new(Instant::now()),
            sockets,
            healing: Healing::new(Instant::now()),
            lock,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What its threads share.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Accepts, and does the housekeeping, until the server is stopped and has drained.
    ///
    /// # Errors
    /// [`StartError::System`] if the event queue fails.
    pub fn run(mut self) -> Result<(), StartError> {
        tracing::info!(
            backend = %self.addresses.backend.display(),
            tcp = ?self.addresses.tcp,
            version = env!("CARGO_PKG_VERSION"),
            "listening"
        );
        if let Some(ready) = self.ready.take() {
            ready(&self.addresses);
        }
        // Reading a large log took its time.
        self.idle.came(Instant::now());
        let mut events = Events::with_capacity(64);
        loop {
            let housekeeping = self.shared.hub.tick(wall_clock());
            let timeout = self.timeout(housekeeping);
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(system("events"))?,
            }
            for event in &events {
                match event.token() {
                    WAKER => {}
                    SIGNALS => {
                        if self.signalled() {
                            self.end();
                            return self.ended();
                        }
                    }
                    Token(listener) => self.accept(listener - FIRST_LISTENER),
                }
            }
            if self.paused.is_some_and(|until| until <= Instant::now()) {
                self.paused = None;
                for listener in 0..self.listeners.len() {
                    self.accept(listener);
                }
            }
            if self.healing.due() <= Instant::now() {
                self.heal();
            }
            for listener in std::mem::take(&mut self.more) {
                self.accept(listener);
            }
            for request in self.shared.take_requests() {
                match request {
                    Request::Stop => self.drain(),
                }
            }
            if self.is_over() {
                self.end();
                return self.ended();
            }
        }
    }

    fn timeout(&self, housekeeping: Option<u64>) -> Option<Duration> {
        if !self.more.is_empty() {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let housekeeping = housekeeping.map(|at| Duration::from_millis(at.saturating_sub(wall_clock())));
        let others = [
            self.paused,
            self.draining_until,
            self.idle_deadline(),
            Some(self.healing.due()),
        ];
        let others = others
            .into_iter()
            .flatten()
            .map(|at| at.saturating_duration_since(now));
        housekeeping.into_iter().chain(others).min()
    }

    fn idle_deadline(&self) -> Option<Instant> {
        self.idle.deadline(self.shared.settings().config.exit_when_idle?)
    }

    /// A signal came. Must the server end at once?
    fn signalled(&mut self) -> bool {
        let Some(signals) = &mut self.signals else {
            return false;
        };
        let (stop, hangup) = signals.take();
        if hangup {
            self.heal();
            // Logged there; nobody waits for it.
            let _ = self.shared.reload();
        }
        if stop && self.draining_until.is_some() {
            tracing::warn!("stopped at once by a second signal");
            self.sockets.remove();
            return true;
        }
        if stop {
            self.shared.ask(Request::Stop);
        }
        false
    }

    /// Nothing new is accepted; everybody is told when to come back.
    fn drain(&mut self) {
        if self.draining_until.is_some() {
            return;
        }
        let limit = self.shared.settings().config.shutdown.drain;
        tracing::info!(
            connections = self.shared.connections.load(Ordering::Relaxed),
            "stopping"
        );
        self.shared.draining.store(true, Ordering::SeqCst);
        self.draining_until = Some(Instant::now() + limit);
        for listener in &mut self.listeners {
            *listener = None;
        }
        self.sockets.remove();
        for mailbox in &self.shared.mailboxes {
            mailbox.send(Mail::Drain);
        }
        // Whoever comes now finds no file, asks, and is told when to come back.
        self.static_files = None;
    }

    fn is_over(&mut self) -> bool {
        let connected = self.shared.connections.load(Ordering::SeqCst) > 0;
        let now = Instant::now();
        self.idle.look(connected, now);
        if self.draining_until.is_none() && self.idle_deadline().is_some_and(|at| at <= now) {
            tracing::info!("nobody has been connected for a while");
            self.drain();
        }
        self.draining_until
            .is_some_and(|until| !connected || until <= now)
    }

    fn end(&mut self) {
        if self.shared.connections.load(Ordering::SeqCst) == 0 {
            for shard in self.shards.drain(..) {
                // It ends by itself when it has no connection left; a panic in it was logged by its hook.
                let _ = shard.join();
            }
        }
        // What is published from here on would be lost without a word.
        self.shared.hub.close();
        if let Some(log) = &self.shared.log {
            // What was answered before it was on disk gets there now.
            log.shut_down();
        }
        self.keep_memory();
        tracing::info!("stopped");
    }

    /// What is in memory goes on with the next start, if this is a stop in good order.
    fn keep_memory(&mut self) {
        let is_ours = matches!(self.lock.keep(), Ok(Kept::Whole | Kept::Restored));
        if !is_ours || self.shared.trouble.is_final() || !self.shared.hub.is_sound() {
            tracing::warn!("what is in memory is not kept: the next start tells a gap");
            return;
        }
        let log_memory = self.shared.settings().config.limits.log_memory;
        kept::put_down(&self.shared.hub, self.lock.folder(), log_memory);
    }

    /// Whether it ended as it should: what watches over it starts it again only if it did not.
    fn ended(&self) -> Result<(), StartError> {
        match self
            .shared
            .trouble
            .now()
            .filter(|_| self.shared.trouble.is_final())
        {
            Some(why) => Err(StartError::LogFailed(why)),
            None => Ok(()),
        }
    }
}

/// A shard that panics takes its connections with it; the server ends rather than go on half deaf.
struct StopOnPanic(Arc<Shared>);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a shard has failed: the server stops");
            self.0.ask(Request::Stop);
        }
    }
}

/// Raises the limit of open files as far as it goes. Returns how many descriptors there may be then.
fn raise_descriptors() -> u64 {
    platform::raise_descriptor_limit().map_or_else(
        |error| {
            tracing::warn!(%error, "the limit of file descriptors could not be raised");
            platform::descriptor_limit().soft
        },
        |limit| limit.soft,
    )
}

/// The room for connections beside what is open now and what the log will open. Says what the settings want in vain.
fn room(config: &Config, descriptors: u64, log: Option<&DiskLog>) -> Room {
    let open_segments = log.map_or(0, |log| log.stats().segments as u64);
    let own = platform::open_descriptors()
        .unwrap_or_else(|| room::expected_descriptors(config).saturating_add(open_segments));
    let segments = log.map_or(0, |_| room::segments(config));
    let room = Room::of(descriptors, own, segments.saturating_sub(open_segments));
    for complaint in room.complaints(config.limits.connections) {
        tracing::info!("{complaint}");
    }
    room
}
