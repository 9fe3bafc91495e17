//! The composition root: builds the house from a configuration, listens, drains on shutdown.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cometserver_core::hub::{self, Hub, MAX_SHARDS};
use cometserver_core::namespace::{Bounds, Durability, Namespace, Namespaces};
use cometserver_core::pattern::Pattern;
use mio::{Events, Poll, Token, Waker};

use crate::access::Access;
use crate::config::{self, Config, ConfigError, Loaded};
use crate::data_folder::{DataFolder, DataFolderError, Lock};
use crate::listener::{Door, DoorAddress, Listener, Role};
use crate::shard::{self, Shard};
use crate::shared::{self, Mail, Mailbox, Request, Settings, Shared, wall_clock};
use crate::static_files::Writing;
use crate::{logging, platform};

/// The main thread's own tokens; listeners come behind them.
const WAKER: Token = Token(0);
const SIGNALS: Token = Token(1);
const FIRST_LISTENER: usize = 2;

/// How long accepting pauses when the system has nothing left for another connection: descriptors, memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Descriptors beyond those of limits.connections: listeners, event queues, the log, what a connection to a store needs, and
/// connections that are only there to be refused.
const SPARE_DESCRIPTORS: u64 = 64 + shared::SURPLUS as u64;

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

/// How to run.
#[derive(Default)]
pub struct Options {
    /// Whether to serve the demo page.
    pub demo: bool,
    /// Called once, when the server listens.
    pub ready: Option<Ready>,
    /// How to read the configuration again; without it a reload does nothing.
    pub reload: Option<Reload>,
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
    /// An address or a socket cannot be bound.
    #[error("cannot listen on {0}")]
    Listen(#[source] io::Error),
    /// The configuration names a group that does not exist.
    #[error("socket_group {0:?}: there is no such group: name another, or give its number")]
    NoGroup(String),
    /// A namespace's pattern, or an origin.
    #[error("{0}")]
    Config(String),
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
    /// Listeners whose connections could not all be accepted for want of descriptors.
    paused: Option<Instant>,
    draining_until: Option<Instant>,
    idle_since: Option<Instant>,
    sockets: Sockets,
    /// Held for life.
    _lock: Lock,
}

impl Server {
    /// Binds everything and starts the shards.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind.
    pub fn start(config: Config, options: Options) -> Result<Self, StartError> {
        if !options.embedded {
            // A second server in one process (a test) has one already, and that one stays.
            let _ = logging::init(config.log.format, config.log.level);
        }
        check_descriptors(&config);
        let mut warnings = Vec::new();
        let folder = DataFolder::create(&config.data_dir, &mut warnings)?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let mut lock = folder.lock(&config.socket)?;
        let poll = Poll::new().map_err(system("an event queue"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(system("a waker"))?;
        let mut sockets = Sockets::default();
        let bound = bind_all(&config, &lock, &mut sockets)?;
        lock.write_pid()?;
        let (doors, mut listeners): (Vec<Door>, Vec<Listener>) = bound.into_iter().unzip();
        for (index, listener) in listeners.iter_mut().enumerate() {
            let token = Token(FIRST_LISTENER + index);
            poll.registry()
                .register(listener.source(), token, mio::Interest::READABLE)
                .map_err(system("to watch a listener"))?;
        }
        let signals = if options.embedded {
            None
        } else {
            Some(Signals::new(&poll)?)
        };
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
        let hub = Arc::new(Hub::new(hub_options(&config)?));
        let addresses = addresses(&config, &doors);
        let settings = settings(config).map_err(StartError::Config)?;
        let shared = Arc::new(Shared::new(
            hub,
            settings,
            doors,
            mailboxes,
            waker,
            options.demo,
            reload_with(options.reload),
        ));
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
            draining_until: None,
            idle_since: Some(Instant::now()),
            sockets,
            _lock: lock,
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
                            return Ok(());
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
            for request in self.shared.take_requests() {
                match request {
                    Request::Stop => self.drain(),
                }
            }
            if self.is_over() {
                self.end();
                return Ok(());
            }
        }
    }

    fn timeout(&self, housekeeping: Option<u64>) -> Option<Duration> {
        let now = Instant::now();
        let housekeeping = housekeeping.map(|at| Duration::from_millis(at.saturating_sub(wall_clock())));
        let others = [self.paused, self.draining_until, self.idle_deadline()];
        let others = others
            .into_iter()
            .flatten()
            .map(|at| at.saturating_duration_since(now));
        housekeeping.into_iter().chain(others).min()
    }

    fn idle_deadline(&self) -> Option<Instant> {
        let limit = self.shared.settings().config.exit_when_idle?;
        self.idle_since.map(|since| since + limit)
    }

    /// Takes every connection that waits at a listener, and deals it out.
    fn accept(&mut self, index: usize) {
        let Some(Some(listener)) = self.listeners.get(index) else {
            return;
        };
        loop {
            match listener.accept() {
                Ok((socket, address)) => {
                    if let Err((socket, why)) = self.shared.admit(socket, index, address) {
                        self.shared
                            .metrics
                            .shard(0)
                            .drops
                            .of(crate::metrics::DropReason::Limit)
                            .add(1);
                        turn_away(&socket, why);
                    }
                }
                Err(error) => match after_failure(&error) {
                    Next::Return => return,
                    Next::GoOn => tracing::debug!(%error, "a connection was gone before it was accepted"),
                    Next::Pause => {
                        if is_out_of_descriptors(&error) {
                            tracing::error!(
                                "no file descriptors left: raise the limit (ulimit -n, LimitNOFILE) or lower limits.connections"
                            );
                        } else {
                            tracing::error!(%error, "connections cannot be accepted");
                        }
                        self.paused = Some(Instant::now() + PAUSE);
                        return;
                    }
                },
            }
        }
    }

    /// A signal came. Must the server end at once?
    fn signalled(&mut self) -> bool {
        let Some(signals) = &mut self.signals else {
            return false;
        };
        let (stop, hangup) = signals.take();
        if hangup {
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
        // Whoever comes now finds no file, asks, and is told when to come back.
        self.static_files = None;
        for mailbox in &self.shared.mailboxes {
            mailbox.send(Mail::Drain);
        }
    }

    fn is_over(&mut self) -> bool {
        let connected = self.shared.connections.load(Ordering::SeqCst) > 0;
        let now = Instant::now();
        match (connected, self.idle_since) {
            (true, _) => self.idle_since = None,
            (false, None) => self.idle_since = Some(now),
            _ => {}
        }
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
        tracing::info!("stopped");
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

/// The sockets that this server made, which go with it: also if it fails to start. Not those that it inherited: whoever
/// opened one goes on listening there when we are gone.
#[derive(Default)]
struct Sockets(Vec<PathBuf>);

impl Sockets {
    fn remove(&mut self) {
        for path in self.0.drain(..) {
            // Somebody else may have removed it; nothing depends on it.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Tells a client that there is no room, as far as one packet goes.
fn turn_away(socket: &crate::listener::Socket, why: &str) {
    let mut out = Vec::new();
    let mut problem = crate::http::problem::Problem::new(503, "unavailable", why);
    problem.retry_after = Some(1);
    problem.answer(
        crate::http::response::Terms::CLOSE,
        &crate::http::cors::Cors::default(),
        &mut out,
    );
    // Whoever cannot take these few bytes at once is closed without them.
    let _ = socket.write(&out);
    socket.finish();
}

/// What to do when a connection could not be accepted.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// None waits.
    Return,
    /// It was about one connection, and of no concern to the others that wait.
    GoOn,
    /// It would be the same at once.
    Pause,
}

fn after_failure(error: &io::Error) -> Next {
    use rustix::io::Errno;
    // Linux gives what the network has to say about a connection (see accept(2)), and a firewall's refusal.
    const OF_ONE: &[Errno] = &[
        Errno::CONNABORTED,
        Errno::CONNRESET,
        Errno::TIMEDOUT,
        Errno::INTR,
        Errno::PERM,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::OPNOTSUPP,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
    ];
    if error.kind() == io::ErrorKind::WouldBlock {
        Next::Return
    } else if OF_ONE
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
    {
        Next::GoOn
    } else {
        Next::Pause
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn check_descriptors(config: &Config) {
    match platform::raise_descriptor_limit() {
        Ok(limit) => {
            let wanted = u64::try_from(config.limits.connections)
                .unwrap_or(u64::MAX)
                .saturating_add(SPARE_DESCRIPTORS);
            if limit.soft < wanted {
                tracing::info!(
                    limit = limit.soft,
                    "fewer file descriptors than limits.connections wants: connections beyond that wait at the door"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "the limit of file descriptors could not be raised"),
    }
}

/// Binds every door of the configuration; an inherited Unix socket takes the place of the one with its path.
fn bind_all(
    config: &Config,
    lock: &Lock,
    sockets: &mut Sockets,
) -> Result<Vec<(Door, Listener)>, StartError> {
    let mut bound: Vec<(Door, Listener)> = Vec::new();
    for inherited in platform::inherited_listeners().map_err(system("the inherited listeners"))? {
        let (listener, address) =
            Listener::inherited(inherited.listener).map_err(system("an inherited listener"))?;
        let role = match inherited.name.as_str() {
            "backend" => Role::Backend,
            "ops" => Role::Ops,
            _ => Role::Public,
        };
        bound.push((door(config, role, address), listener));
    }
    let has = |bound: &[(Door, Listener)], path: &std::path::Path| {
        bound
            .iter()
            .any(|(door, _)| door.address == DoorAddress::Unix(path.to_owned()))
    };
    let group = match &config.socket_group {
        None => None,
        Some(name) => Some(
            platform::group_id(name)
                .map_err(system("a look-up of the socket's group"))?
                .ok_or_else(|| StartError::NoGroup(name.clone()))?,
        ),
    };
    let backend = [(Some(&config.socket), Role::Backend, config.socket_mode, group)];
    let public = [(config.public.socket.as_ref(), Role::Public, 0o666, None)];
    for (path, role, mode, group) in backend.into_iter().chain(public) {
        let Some(path) = path.filter(|path| !has(&bound, path)) else {
            continue;
        };
        lock.remove_stale_socket(path)?;
        sockets.0.push(path.clone());
        let listener = Listener::unix(path, mode, group).map_err(StartError::Listen)?;
        bound.push((door(config, role, DoorAddress::Unix(path.clone())), listener));
    }
    let tcp = [
        (&config.public.listen, Role::Public),
        (&config.backend.listen, Role::Backend),
        (&config.ops.listen, Role::Ops),
    ];
    for (addresses, role) in tcp {
        for address in addresses {
            let (listener, address) = Listener::tcp(*address).map_err(StartError::Listen)?;
            bound.push((door(config, role, DoorAddress::Tcp(address)), listener));
        }
    }
    Ok(bound)
}

fn door(config: &Config, role: Role, address: DoorAddress) -> Door {
    let ops = match role {
        Role::Backend | Role::Ops => true,
        Role::Public => config.public.ops,
    };
    Door { role, ops, address }
}

fn addresses(config: &Config, doors: &[Door]) -> Addresses {
    let tcp = doors
        .iter()
        .filter(|door| door.role == Role::Public)
        .filter_map(|door| match &door.address {
            DoorAddress::Tcp(address) => Some(*address),
            DoorAddress::Unix(_) => None,
        });
    Addresses {
        backend: config.socket.clone(),
        public: config.public.socket.clone(),
        tcp: tcp.collect(),
    }
}

/// Reads the configuration again, and puts in force what can be without a restart. A bad one changes nothing.
fn reload_with(read: Option<Reload>) -> shared::Reload {
    Box::new(move |shared| {
        let Some(read) = &read else { return Ok(Vec::new()) };
        let loaded = read().map_err(|error| error.to_string())?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let restart = shared.settings().config.needs_restart(&loaded.config);
        let namespaces = namespaces(&loaded.config)?;
        let settings = settings(loaded.config)?;
        shared.hub.set_namespaces(namespaces);
        shared.set_settings(settings);
        Ok(restart)
    })
}

fn settings(config: Config) -> Result<Settings, String> {
    let access = Access::new(&config).map_err(|error| error.to_string())?;
    Ok(Settings { config, access })
}

fn hub_options(config: &Config) -> Result<hub::Options, StartError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let limits = &config.limits;
    let incarnation = getrandom::u32().map_err(|error| StartError::System {
        what: "random numbers",
        source: io::Error::other(error.to_string()),
    })?;
    Ok(hub::Options {
        namespaces: namespaces(config).map_err(StartError::Config)?,
        window: millis(limits.window),
        window_bytes: limits.window_bytes,
        log_memory: limits.log_memory,
        channels: limits.channels,
        patterns: limits.patterns_total,
        idempotency_window: millis(limits.idempotency_window),
        idempotency_keys: limits.idempotency_keys,
        presence: cometserver_core::presence::Limits {
            grace: millis(config.presence.grace),
            announce: config.presence.announce_limit,
        },
        incarnation,
        ..hub::Options::default()
    })
}

fn namespaces(config: &Config) -> Result<Namespaces, String> {
    let listed = config.namespaces.iter().map(|rule| {
        let pattern = Pattern::new(&rule.pattern, config.limits.pattern_length)
            .map_err(|error| format!("[[namespaces]] match {:?}: {error}", rule.pattern))?;
        Ok((pattern, Arc::new(namespace(&rule.namespace))))
    });
    Ok(Namespaces {
        listed: listed.collect::<Result<_, String>>()?,
        fallback: Arc::new(namespace(&config.namespace_default)),
    })
}

fn namespace(config: &config::Namespace) -> Namespace {
    Namespace {
        public: config.public,
        anonymous_publish: config.anonymous_publish,
        presence: config.presence,
        anonymous_presence: config.anonymous_presence,
        history: Bounds {
            count: config.history_count,
            bytes: config.history_bytes,
            age: u64::try_from(config.history_age.as_millis()).unwrap_or(u64::MAX),
        },
        durability: match config.durability {
            config::Durability::Memory => Durability::Memory,
        },
    }
}

/// Signals as bytes in a pipe: the main thread reads them when it has time.
struct Signals {
    stop: mio::net::UnixStream,
    hangup: mio::net::UnixStream,
}

impl Signals {
    fn new(poll: &Poll) -> Result<Self, StartError> {
        let pipe = |signals: &[i32]| -> io::Result<mio::net::UnixStream> {
            let (read, write) = std::os::unix::net::UnixStream::pair()?;
            read.set_nonblocking(true)?;
            write.set_nonblocking(true)?;
            for signal in signals {
                signal_hook::low_level::pipe::register(*signal, write.try_clone()?)?;
            }
            let mut read = mio::net::UnixStream::from_std(read);
            poll.registry()
                .register(&mut read, SIGNALS, mio::Interest::READABLE)?;
            Ok(read)
        };
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let stop = pipe(&[SIGTERM, SIGINT]).map_err(system("to catch signals"))?;
        let hangup = pipe(&[SIGHUP]).map_err(system("to catch signals"))?;
        Ok(Self { stop, hangup })
    }

    /// Which came since the last time: one to stop, one to reload.
    fn take(&mut self) -> (bool, bool) {
        use std::io::Read;
        let drained = |stream: &mut mio::net::UnixStream| {
            let mut bytes = [0; 64];
            let mut any = false;
            while let Ok(read) = stream.read(&mut bytes) {
                any |= read > 0;
                if read < bytes.len() {
                    break;
                }
            }
            any
        };
        (drained(&mut self.stop), drained(&mut self.hangup))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn accepting_pauses_where_it_would_fail_again_at_once() {
        let next = |errno: Errno| after_failure(&io::Error::from(errno));
        assert_eq!(next(Errno::AGAIN), Next::Return);
        for errno in [Errno::CONNABORTED, Errno::INTR, Errno::PROTO, Errno::HOSTUNREACH] {
            assert_eq!(next(errno), Next::GoOn, "{errno}");
        }
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::NOBUFS,
            Errno::INVAL,
            Errno::BADF,
        ] {
            assert_eq!(next(errno), Next::Pause, "{errno}");
        }
        assert_eq!(after_failure(&io::Error::other("anything else")), Next::Pause);
    }
}
