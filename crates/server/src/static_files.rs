//! A tiny file per followed public channel, which the web server itself answers with 304: the cheapest way to ask from time to time.
//!
//! A file says how far its channel is; whoever finds it changed asks the server itself. It is there for as long as somebody
//! asks the server about the channel now and then, and as the server runs: who finds none asks the server.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cometserver_core::broker::BrokerError;
use cometserver_core::channel::{Channel, ChannelId};
use cometserver_core::hub::{Answer, History, HistoryQuery, Later};
use cometserver_core::pattern::Pattern;
use cometserver_core::quota::{LEAST_ENTRIES, Parts, Payer, Quota, Usage};
use cometserver_core::{ChannelName, Position};

use crate::config::Config;
use crate::plain_file;
use crate::shared::{Shared, lock, wall_clock};

/// The end of every name: nothing else in the folder is ours to remove.
const SUFFIX: &str = ".comet.json";

/// The longest channel name that has a file: its base64 and the suffix fit into the 255 bytes of a file's name.
const MAX_NAME: usize = 180;

/// A file is written at most once in this time.
const SPACING: Duration = Duration::from_millis(500);

/// Some web servers tell versions apart by the second and the size: this many versions within one differ in size.
const SIZES: u64 = 8;

/// How long the store may take to say how far a channel is, before the file that is out of date goes.
const STORE_TIME: Duration = Duration::from_millis(500);

/// The store is asked for so many channels at once: others want to read as well.
const ASKED: usize = 64;

/// So many channels may be asked about before the thread that writes looks: visitors have their parts of that as well.
const ASKED_AT_ONCE: usize = 4096;

/// Publications looked at under one lock of the hub.
const ROUND: usize = 256;

/// What the shards say to the thread that writes.
pub struct StaticFiles {
    /// Is there a folder at all?
    is_on: AtomicBool,
    parts: Parts,
    /// Files of channels that only visitors name, and how often one was refused.
    taken: AtomicUsize,
    refused: AtomicU64,
    rules: RwLock<Rules>,
    news: Mutex<News>,
    wake: Condvar,
}

#[derive(Default)]
struct News {
    /// Channels with who asked first.
    asked: HashMap<ChannelName, Payer>,
    asking: Quota,
    told: Vec<(ChannelId, Result<Option<History>, BrokerError>)>,
    woken: bool,
    reloaded: bool,
    stopped: bool,
}

/// Which channels may have a file: public ones of namespaces that want it.
#[derive(Default)]
struct Rules {
    listed: Vec<(Pattern, bool)>,
    fallback: bool,
}

impl Rules {
    fn new(config: &Config) -> Self {
        let wanted = |namespace: &crate::config::Namespace| namespace.public && namespace.static_file;
        let listed = config.namespaces.iter().filter_map(|rule| {
            let pattern = Pattern::new(&rule.pattern, config.limits.pattern_length).ok()?;
            Some((pattern, wanted(&rule.namespace)))
        });
        Self {
            listed: listed.collect(),
            fallback: wanted(&config.namespace_default),
        }
    }

    fn allow(&self, name: &ChannelName) -> bool {
        let rule = self.listed.iter().find(|(pattern, _)| pattern.matches_name(name));
        name.as_bytes().len() <= MAX_NAME && rule.map_or(self.fallback, |(_, wanted)| *wanted)
    }
}

impl StaticFiles {
    /// As the configuration wants it.
    pub fn new(config: &Config) -> Self {
        Self {
            is_on: AtomicBool::new(config.static_files.dir.is_some()),
            parts: Parts {
                one: config.limits.one_visitor,
                all: config.limits.all_visitors,
            },
            taken: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            rules: RwLock::new(Rules::new(config)),
            news: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    /// Somebody asks about a channel: it has a file from now on, if it may.
    pub fn follow(&self, name: &ChannelName, payer: Payer) {
        if !self.is_on.load(Ordering::Relaxed) || !self.allow(name) {
            return;
        }
        let part = self.parts.of(ASKED_AT_ONCE, LEAST_ENTRIES);
        let mut news = lock(&self.news);
        // Whoever is not noted now is the next time.
        if !news.asked.contains_key(name) && news.asking.take(payer, 1, part).is_ok() {
            news.asked.insert(name.clone(), payer);
            news.woken = true;
            self.wake.notify_one();
        }
    }

    /// What visitors have of the files.
    pub fn usage(&self) -> Usage {
        Usage {
            taken: self.taken.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Another configuration is in force.
    pub fn reload(&self, config: &Config) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Rules::new(config);
        let mut news = lock(&self.news);
        (news.reloaded, news.woken) = (true, true);
        self.wake.notify_one();
    }

    fn allow(&self, name: &ChannelName) -> bool {
        self.rules
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .allow(name)
    }

    fn wake(&self) {
        lock(&self.news).woken = true;
        self.wake.notify_one();
    }

    /// The store has said how far a channel is.
    fn tell(&self, channel: ChannelId, history: Result<Option<History>, BrokerError>) {
        let mut news = lock(&self.news);
        news.told.push((channel, history));
        news.woken = true;
        self.wake.notify_one();
    }

    fn stop(&self) {
        let mut news = lock(&self.news);
        (news.stopped, news.woken) = (true, true);
        self.wake.notify_one();
    }

    /// Waits until there is news, or until then.
    fn wait(&self, until: Option<Instant>) -> News {
        let mut news = lock(&self.news);
        while !news.woken {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            news = match left {
                Some(Duration::ZERO) => break,
                Some(left) => {
                    self.wake
                        .wait_timeout(news, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self.wake.wait(news).unwrap_or_else(PoisonError::into_inner),
            };
        }
        News {
            stopped: news.stopped,
            ..std::mem::take(&mut *news)
        }
    }
}

/// The thread that writes. Dropped, it ends, and the files with it.
pub struct Writing {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writing {
    /// Starts it as the hub's shard `id`, if the configuration names a folder.
    ///
    /// # Errors
    /// As the system says, with the folder.
    pub fn start(shared: &Arc<Shared>, id: u8) -> io::Result<Option<Self>> {
        let config = &shared.settings().config.static_files;
        let Some(folder) = config.dir.clone() else {
            return Ok(None);
        };
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
        make(&folder).and_then(|()| sweep(&folder)).map_err(named)?;
        let waking = shared.clone();
        shared
            .hub
            .attach(id, Box::new(move || waking.static_files.wake()));
        let writer = Writer {
            shared: shared.clone(),
            id,
            folder,
            max: config.max,
            keep: config.keep,
            files: HashMap::new(),
            names: HashMap::new(),
            quota: Quota::default(),
            asked: 0,
            full: false,
        };
        let thread = std::thread::Builder::new().name("static-files".into());
        Ok(Some(Self {
            shared: shared.clone(),
            thread: Some(thread.spawn(|| writer.run())?),
        }))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.shared.static_files.stop();
        if let Some(thread) = self.thread.take() {
            // A panic in it was logged by its hook.
            let _ = thread.join();
        }
    }
}

struct Writer {
    shared: Arc<Shared>,
    id: u8,
    folder: PathBuf,
    max: usize,
    keep: Duration,
    files: HashMap<ChannelId, File>,
    names: HashMap<ChannelName, ChannelId>,
    /// Files of channels that only visitors name.
    quota: Quota,
    /// So many answers of the store are to come.
    asked: usize,
    full: bool,
}

struct File {
    channel: Arc<Channel>,
    /// Whoever asked first, until the site publishes there.
    payer: Payer,
    asked: Instant,
    /// Versions written.
    versions: u64,
    written: Option<Instant>,
    is_stale: bool,
    is_there: bool,
    /// When the store was asked, while its answer is to come.
    waits: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        let shared = self.shared.clone();
        loop {
            shared.hub.sleep(self.id);
            // What became visible before others knew that we sleep has woken nobody.
            self.collect();
            let news = shared.static_files.wait(self.deadline());
            shared.hub.stay_awake(self.id);
            if news.stopped {
                break;
            }
            for (name, payer) in news.asked {
                self.follow(name, payer);
            }
            if news.reloaded {
                self.forget(|writer, file| !writer.shared.static_files.allow(&file.channel.name));
            }
            self.collect();
            for (channel, history) in news.told {
                self.take(channel, history);
            }
            self.write_stale();
            let now = Instant::now();
            self.forget(|writer, file| now.duration_since(file.asked) >= writer.keep);
            let (usage, told) = (self.quota.usage(), &shared.static_files);
            told.taken.store(usage.taken, Ordering::Relaxed);
            told.refused.store(usage.refused, Ordering::Relaxed);
        }
        self.forget(|_, _| true);
    }

    fn follow(&mut self, name: ChannelName, payer: Payer) {
        if let Some(file) = self.names.get(&name).and_then(|id| self.files.get_mut(id)) {
            file.asked = Instant::now();
            // The store may be well again.
            file.is_stale |= !file.is_there && file.waits.is_none();
            return;
        }
        // Names that anybody may have made up give way to those in which the site has published.
        let payer = match self.shared.hub.is_published(&name) {
            true => Payer::SITE,
            false => payer,
        };
        if !self.make_room(payer) {
            if self.files.len() >= self.max && !std::mem::replace(&mut self.full, true) {
                tracing::warn!("more channels are followed than static.max allows: the others have no file");
            }
            return;
        }
        // Full of channels: who asks is told so by the server itself.
        let listening = self.shared.hub.listen_for(payer, self.id, &name, wall_clock());
        let Ok(listening) = listening else {
            self.quota.give_back(payer, 1);
            return;
        };
        let channel = listening.channel;
        self.names.insert(name, channel.id);
        let file = File {
            asked: Instant::now(),
            versions: 0,
            written: None,
            is_stale: true,
            is_there: false,
            waits: None,
            channel: channel.clone(),
            payer,
        };
        self.files.insert(channel.id, file);
    }

    /// Is there room for one more file of this payer's? Those of visitors make it for the site's.
    fn make_room(&mut self, payer: Payer) -> bool {
        let part = self.shared.static_files.parts.of(self.max, LEAST_ENTRIES);
        if payer != Payer::SITE {
            return self.files.len() < self.max && self.quota.take(payer, 1, part).is_ok();
        }
        let of_visitors = self.files.iter().filter(|(_, file)| file.payer != Payer::SITE);
        if self.files.len() >= self.max
            && let Some((id, _)) = of_visitors.min_by_key(|(_, file)| file.asked)
        {
            self.remove(*id);
        }
        self.files.len() < self.max
    }

    fn collect(&mut self) {
        let mut publications = Vec::new();
        loop {
            let collected = self.shared.hub.collect(self.id, ROUND, &mut publications);
            let channels = publications
                .iter()
                .flat_map(|publication| publication.places.iter());
            for place in channels {
                if let Some(file) = self.files.get_mut(&place.channel.id) {
                    file.is_stale = true;
                    if file.payer != Payer::SITE && self.shared.hub.is_published(&file.channel.name) {
                        self.quota.give_back(file.payer, 1);
                        file.payer = Payer::SITE;
                    }
                }
            }
            if collected.lagged {
                self.files.values_mut().for_each(|file| file.is_stale = true);
            }
            if !collected.more {
                return;
            }
            publications.clear();
        }
    }

    /// Writes what may be written by now; of what the store is asked for, nobody waits for the answer.
    fn write_stale(&mut self) {
        let now = Instant::now();
        let due: Vec<ChannelId> = self
            .files
            .iter()
            .filter(|(_, file)| self.due(file).is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(file) = self.files.get_mut(&id) else {
                continue;
            };
            if file.waits.is_some() {
                // One that is out of date would hide what is new.
                file.remove(&self.folder);
                continue;
            }
            if self.asked == ASKED {
                file.remove(&self.folder);
                continue;
            }
            (file.is_stale, file.waits) = (false, Some(now));
            self.asked += 1;
            if let Answer::Ready(history) = newest(&self.shared, &file.channel) {
                self.take(id, Ok(history));
            }
        }
    }

    /// Writes how far a channel is.
    fn take(&mut self, channel: ChannelId, history: Result<Option<History>, BrokerError>) {
        self.asked = self.asked.saturating_sub(1);
        let Some(file) = self.files.get_mut(&channel) else {
            return;
        };
        file.waits = None;
        let path = self.folder.join(file_name(&file.channel.name));
        let written = history
            .map_err(io::Error::other)
            .and_then(|history| write(&path, &content(&self.shared, file, history.as_ref())));
        file.is_there |= written.is_ok();
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "a static file cannot be written");
            file.remove(&self.folder);
        }
        file.written = Some(Instant::now());
        file.versions += 1;
    }

    /// When there is something to do for a file, if that is not for an answer to begin.
    fn due(&self, file: &File) -> Option<Instant> {
        match file.waits {
            Some(asked) => file.is_there.then_some(asked + STORE_TIME),
            None if !file.is_stale || self.asked == ASKED && !file.is_there => None,
            None => Some(file.due().unwrap_or(file.asked)),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let files = self.files.values();
        files
            .map(|file| self.due(file).unwrap_or(file.asked + self.keep))
            .min()
    }

    fn forget(&mut self, which: impl Fn(&Self, &File) -> bool) {
        let gone: Vec<ChannelId> = self
            .files
            .iter()
            .filter(|(_, file)| which(self, file))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: ChannelId) {
        let Some(file) = self.files.remove(&id) else {
            return;
        };
        self.names.remove(&file.channel.name);
        self.quota.give_back(file.payer, 1);
        self.full = false;
        // Gone already is as good.
        let _ = fs::remove_file(self.folder.join(file_name(&file.channel.name)));
        self.shared.hub.unlisten(self.id, id, wall_clock());
    }
}

impl File {
    /// When it may be written.
    fn due(&self) -> Option<Instant> {
        self.written.map(|written| written + SPACING)
    }

    fn remove(&mut self, folder: &Path) {
        self.is_there = false;
        // Gone already is as good.
        let _ = fs::remove_file(folder.join(file_name(&self.channel.name)));
    }
}

fn file_name(channel: &ChannelName) -> String {
    URL_SAFE_NO_PAD.encode(channel.as_bytes()) + SUFFIX
}

/// Asks for the newest publication of a channel.
fn newest(shared: &Arc<Shared>, channel: &Channel) -> Answer<Option<History>> {
    let query = HistoryQuery {
        limit: 1,
        reverse: true,
        ..HistoryQuery::default()
    };
    let mut later = || -> Later<_> {
        let (shared, id) = (shared.clone(), channel.id);
        Box::new(move |history| shared.static_files.tell(id, history))
    };
    shared.hub.history(&channel.name, query, wall_clock(), &mut later)
}

/// How far a channel is.
fn content(shared: &Shared, file: &File, history: Option<&History>) -> String {
    let (offset, at) = history.map_or((0, Position::default()), |history| (history.offset, history.at));
    let newest = history.and_then(|history| history.publications.first());
    let mut cursor = Vec::new();
    shared.hub.cursor(at).write(&mut cursor);
    let padding = usize::try_from(file.versions % SIZES).unwrap_or_default();
    format!(
        "{{\"offset\":{offset},\"epoch\":\"{}\",\"time\":{},\"cursor\":\"{}\"}}{:padding$}\n",
        file.channel.epoch,
        newest.map_or(0, |newest| newest.time),
        String::from_utf8_lossy(&cursor),
        ""
    )
}

/// Makes the folder and what is missing above it, all of which a web server of another user must be able to pass.
fn make(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make(parent)?;
    }
    match fs::create_dir(folder) {
        // Whatever the umask says.
        Ok(()) => fs::set_permissions(folder, fs::Permissions::from_mode(0o755)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Replaces a file as a whole: nobody reads half of it. The site's other programs may write in this folder; the web server,
/// another user, reads there.
fn write(path: &Path, text: &str) -> io::Result<()> {
    plain_file::replace(path, &path.with_extension("tmp"), 0o644, text.as_bytes())
}

/// Removes what a server left that was killed: nobody keeps it true any more.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let is_ours = |name: &str| name.ends_with(SUFFIX) || name.ends_with(".comet.tmp");
        if name.as_deref().is_some_and(is_ours) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
