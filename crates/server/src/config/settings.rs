//! The table of all settings: names, types, defaults, bounds and docs. Everything else about them is derived from here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::access::{self, Key, Secret, TokenKey};
use super::table::section;
use super::values::{self, Action, Durability, LogFormat, LogLevel, Proxied};

/// The longest channel name that the core takes, in bytes; the setting can only be lower.
const MAX_CHANNEL_NAME: usize = 8 << 10;

/// The deepest nesting of JSON that the core takes, in brackets; the setting can only be lower.
const MAX_JSON_DEPTH: usize = 96;

/// The largest request head that makes sense; more than any front web server passes on.
const MAX_HEAD: usize = 1 << 20;

/// A log is at least a few files, of which the newest is being written.
const LEAST_LOG: usize = 4 << 20;

/// The bounds of a file of the log: many small ones cost descriptors, a large one cannot leave for long.
const LEAST_SEGMENT: usize = 1 << 20;
const MOST_SEGMENT: usize = 1 << 30;

/// No single thing in memory may be larger: lengths on the wire are 32 bits, with room for a header.
const MAX_MESSAGE: usize = 1 << 30;

section! {
    /// Settings of a CometServer. All are optional. Each can also be given as a variable, `COMETSERVER_<SECTION>_<KEY>`,
    /// or as a flag, `--<section>-<key>`: a flag beats a variable, a variable beats this file.
    /// Times and sizes carry their unit: 250ms, 90s, 5m, 1h, 7d; 512B, 64KiB, 1MiB, 2GiB.
    pub struct Config {
        /// The folder that holds the sockets, the lock and whatever is kept.
        /// Without it: /var/lib/cometserver for root, else $XDG_STATE_HOME/cometserver or ~/.local/state/cometserver.
        data_dir "data_dir": PathBuf = "" => values::path, example "/var/lib/cometserver";
        /// The socket for the site's own code: publishing and administration. Without it: comet.sock in the data folder.
        socket "socket": PathBuf = "" => values::path, example "/var/lib/cometserver/comet.sock";
        /// Who may connect to that socket: its permission bits, in octal.
        socket_mode "socket_mode": u32 = "0660" => values::mode;
        /// The group of that socket, by name or number; without it, the group of the server.
        socket_group "socket_group": Option<String> = "" => values::optional_text, example "www-data";
        /// Stop after so long without a connection; 0: never.
        exit_when_idle "exit_when_idle": Option<Duration> = "0" => values::duration_or_zero;
        /// Threads that serve connections; 0: one per core.
        threads "threads": Option<usize> = "0" => values::count_or_zero;
    }
    with {
        /// Where browsers come in.
        public: Public;
        /// More doors for the site's own code.
        backend: Backend;
        /// Doors for monitoring.
        ops: Ops;
        /// Bounds on what clients may use.
        limits: Limits;
        /// The log on disk.
        storage: Storage;
        /// The budget of held requests.
        held: Held;
        /// Who is on a channel.
        presence: Presence;
        /// Files that a web server answers by itself.
        static_files: StaticFiles;
        /// How the server ends.
        shutdown: Shutdown;
        /// Logs.
        log: Log;
        /// Channels that no entry of `namespaces` matches.
        namespace_default: Namespace;
        /// Keys for publishing and administration on public listeners.
        keys: Vec<Key>;
        /// Secrets that sign tokens.
        tokens: Vec<TokenKey>;
        /// Rules for channels, in order: the first match wins.
        namespaces: Vec<NamespaceRule>;
    }
}

section! {
    /// Where browsers come in. Nothing is allowed here without a token or key, but what a namespace declares public.
    pub struct Public {
        /// A socket that any front web server on this machine may connect to; "off": none.
        /// Without it: public/comet.sock in the data folder.
        socket "socket": Option<PathBuf> = "" => values::path_or_off, example "/var/lib/cometserver/public/comet.sock";
        /// TCP addresses and ports.
        listen "listen": Vec<SocketAddr> = "[]" => values::addresses, example "127.0.0.1:8080";
        /// Whether health in detail and metrics are shown here too.
        ops "ops": bool = "false" => values::switch;
        /// Origins whose pages may connect here besides those of the server's own host; "*": all; "null" and "file://": pages
        /// that have none, such as files of the visitor's own.
        origins "origins": Vec<String> = "[]" => values::origins, example "https://example.org";
        /// The public listeners before which a front web server stands, such as ["socket", "127.0.0.1:8080"]: "socket" is
        /// the socket above, the others are addresses out of listen; true: all, false: none. There a visitor's address is
        /// the last entry of X-Forwarded-For, which the front web server must set, and nobody else may reach the listener.
        /// Everywhere else that header is believed of the PHP bridge and comet cgi only; with false of nobody.
        proxied "proxied": Proxied = "socket" => values::proxied;
        /// What a front web server puts before our paths.
        base_path "base_path": String = "" => values::base_path, example "/push";
    }
}

section! {
    /// More doors for the site's own code, besides the socket.
    pub struct Backend {
        /// TCP addresses and ports. Loopback only: whoever can connect may publish and administer, no key is asked for.
        listen "listen": Vec<SocketAddr> = "[]" => values::loopback_addresses, example "127.0.0.1:8081";
    }
}

section! {
    /// Doors for monitoring: health and metrics, nothing else.
    pub struct Ops {
        /// TCP addresses and ports.
        listen "listen": Vec<SocketAddr> = "[]" => values::addresses, example "127.0.0.1:9100";
    }
}

section! {
    /// Channels that no entry of `[[namespaces]]` matches.
    pub struct Namespace {
        /// Whether anybody may subscribe, without a token.
        public "public": bool = "false" => values::switch;
        /// How many publications are kept for those who come later.
        history_count "history.count": usize = "100" => values::count_from(0);
        /// How many bytes of publications are kept.
        history_bytes "history.bytes": usize = "1MiB" => values::size(0, usize::MAX);
        /// How long publications are kept.
        history_age "history.age": Duration = "1h" => values::duration;
        /// Where publications are kept, and when their publisher is answered; a channel that exists keeps what it has.
        /// Whatever is said here, subscribers are never shown what a crash could take back.
        /// "fsync": on disk, answered when they are safe there: nothing that was answered is ever lost by a crash.
        /// "buffered": on disk, answered at once: a crash may lose what was answered in its last moments, at most
        /// storage.buffered bytes of all channels together, and most often nothing; whoever comes back is then told of a gap.
        /// "memory": in memory only, answered at once: a crash loses all of them; a stop in good order keeps them for the next
        /// start, in the data folder.
        durability "durability": Durability = "fsync" => values::durability;
        /// Whether subscribers may join, and be seen by others.
        presence "presence": bool = "false" => values::switch;
        /// Whether a public channel that is followed has a file in static.dir, which tells everybody how far it is.
        static_file "static_file": bool = "false" => values::switch;
        /// Whether anybody may publish, without a token.
        anonymous_publish "anonymous_publish": bool = "false" => values::switch;
        /// Whether anybody may see and join the members, without a token. Needs presence.
        anonymous_presence "anonymous_presence": bool = "false" => values::switch;
    }
}

/// A rule for channels: an entry of `[[namespaces]]`.
///
/// What it does not say is the default of the table, not what `[namespace_default]` says: opening the rest must not open it.
#[derive(Clone, Debug, PartialEq)]
pub struct NamespaceRule {
    /// The pattern over channel names, in the notation of the native protocol; `match` in the file.
    pub pattern: String,
    /// What holds for the channels that match.
    pub namespace: Namespace,
}

section! {
    /// Bounds on what clients may use.
    pub struct Limits {
        /// The largest payload of a publication.
        message_size "message_size": usize = "1MiB" => values::size(1, MAX_MESSAGE);
        /// The most publications in one batch.
        batch "batch": usize = "1000" => values::count_from(1);
        /// The longest name of a channel; at most 8KiB.
        channel_name "channel_name": usize = "8KiB" => values::size(1, MAX_CHANNEL_NAME);
        /// The deepest nesting of JSON in a payload or a member's info, in open brackets; at most 96. The server puts up to four
        /// more around it, and readers have bounds: .NET reads 64 in all, Ruby 100, serde_json of Rust 127, PHP 512.
        json_depth "json_depth": usize = "60" => values::count_within(1, MAX_JSON_DEPTH);
        /// The largest head of a request: its first line and its headers.
        head "head": usize = "16KiB" => values::size(1 << 10, MAX_HEAD);
        /// The most connections at a time. Where the limit of open files (ulimit -n, LimitNOFILE) leaves room for fewer visitors,
        /// that holds: the site's own code, monitoring and the log have room of their own.
        connections "connections": usize = "100000" => values::count_from(1);
        /// The most connections at a time of one visitor's address on public listeners; 0: no bound. An IPv6 address counts
        /// by its first 64 bits. Behind a front web server see public.proxied; who has no address there is not bounded.
        connections_per_address "connections_per_address": Option<usize> = "0" => values::count_or_zero;
        /// The most channels that one connection may listen to.
        subscriptions "subscriptions": usize = "1000" => values::count_from(1);
        /// The most patterns that one connection may listen to.
        patterns "patterns": usize = "20" => values::count_from(0);
        /// The most different patterns in the whole server. One counts as 8 or more if the server has to search a channel's
        /// name for its middle, as for `**b**` or `a*b*`; `a/*`, `**/b` and `a/*/b/**` count once.
        patterns_total "patterns_total": usize = "10000" => values::count_from(0);
        /// The longest pattern.
        pattern_length "pattern_length": usize = "1KiB" => values::size(1, MAX_CHANNEL_NAME);
        /// The most channels at a time. Beyond it the quietest of those are forgotten that nobody listens to and that keep
        /// nothing; if all are in use, a new one is refused.
        channels "channels": usize = "1000000" => values::count_from(1);
        /// What one visitor may take of each table that all share: channels that the site has not published in (channels, and
        /// the names' part of log_memory), patterns_total, idempotency_keys, presence.members, static.max, what waits for the
        /// disk; and of held.poll.max and its like, when half of the places are taken. A visitor is an address, or the user
        /// that a token names, or a connection where no address is known. At least 16 entries, or a quarter of a table of fewer
        /// than 64.
        one_visitor "one_visitor": usize = "2%" => values::percent;
        /// What all visitors without a token or key may take of each of these together. Those with a token may also take half of
        /// what is left above that. The rest is for the site's own code alone.
        all_visitors "all_visitors": usize = "50%" => values::percent;
        /// What the kernel may hold for one slow reader.
        pending_bytes "pending_bytes": usize = "64KiB" => values::size(4 << 10, 1 << 30);
        /// What all visitors together may make the server hold besides publications: requests and messages that are not
        /// whole yet, answers that are not sent yet, what their connections listen to. At this ceiling the connection that
        /// holds most is ended; the site's own code is not counted. 0: a quarter of the memory that the machine, or the
        /// control group of the server, has, but at least 64MiB. If set: at least four times message_size.
        memory "memory": Option<usize> = "0" => values::size_or_zero;
        /// How long a client may take to send the head of a request, and then its body.
        request_time "request_time": Duration = "10s" => values::duration_from(1);
        /// How long a connection may stay open between two requests.
        idle_time "idle_time": Duration = "75s" => values::duration_from(1);
        /// What all publications kept in memory may take, with the names of their channels, which may take half of it.
        log_memory "log_memory": usize = "256MiB" => values::size(1 << 20, usize::MAX);
        /// How long every publication is kept for present and returning readers, whatever its channel's history says.
        window "window": Duration = "10s" => values::duration;
        /// What that may take, for all channels together; at least message_size, at most log_memory.
        window_bytes "window_bytes": usize = "64MiB" => values::size(1 << 10, usize::MAX);
        /// How fast one connection may publish without a key. Whoever opens another connection may publish as much on it:
        /// connections_per_address, or a front web server, bounds those.
        publish_rate "publish_rate": usize = "100/s" => values::rate;
        /// How many commands or requests of one connection on a public listener may be refused one after another before the
        /// connection is ended.
        refusals "refusals": usize = "1000" => values::count_from(1);
        /// How many idempotency keys are remembered.
        idempotency_keys "idempotency_keys": usize = "100000" => values::count_from(0);
        /// How long idempotency keys are remembered.
        idempotency_window "idempotency_window": Duration = "5m" => values::duration;
    }
}

section! {
    /// The log on disk, in the folder "log" of the data folder: what is published where durability is not "memory".
    /// Where every namespace says "memory" there is none.
    pub struct Storage {
        /// About what the log may take on disk. At this ceiling the channels with most give way: their oldest publications go
        /// before their time, which the metrics count, and whoever comes back for those is told of a gap. A smaller disk is a
        /// ceiling as well, at seven eighths of its size.
        max_size "max_size": usize = "4GiB" => values::size(LEAST_LOG, usize::MAX);
        /// How large a file of the log grows before the next one is begun. What is no longer wanted leaves the disk by whole
        /// files: smaller ones leave sooner, larger ones are fewer. Where there is little room they are made smaller than this, down
        /// to 256 KiB: a file takes at most 1/32 of the room that is free or the log's already.
        segment_size "segment_size": usize = "64MiB" => values::size(LEAST_SEGMENT, MOST_SEGMENT);
        /// How much may be answered before it is on disk, where durability is "buffered": the most that a crash can lose.
        /// A publication beyond that is answered when it is safe.
        buffered "buffered": usize = "1MiB" => values::size(0, 1 << 30);
    }
}

section! {
    /// The budget of held requests on public listeners: a front web server's workers run out long before this server does.
    /// Lifetimes are shortened by up to a fifth at random, so that clients do not come back all at once.
    pub struct Held {
        /// How many long polls may wait at a time; 0: no bound.
        poll_max "poll.max": Option<usize> = "0" => values::count_or_zero;
        /// How long a long poll is held at most.
        poll_hold "poll.hold": Duration = "25s" => values::duration;
        /// How many SSE streams may be open at a time; 0: no bound.
        sse_max "sse.max": Option<usize> = "0" => values::count_or_zero;
        /// How long an SSE stream may last; 0: for ever.
        sse_lifetime "sse.lifetime": Option<Duration> = "0" => values::duration_or_zero;
        /// How many JSON streams may be open at a time; 0: no bound.
        stream_max "stream.max": Option<usize> = "0" => values::count_or_zero;
        /// How long a JSON stream may last; 0: for ever.
        stream_lifetime "stream.lifetime": Option<Duration> = "0" => values::duration_or_zero;
        /// How many WebSockets may be open at a time; 0: no bound.
        ws_max "ws.max": Option<usize> = "0" => values::count_or_zero;
        /// How long a WebSocket may last; 0: for ever.
        ws_lifetime "ws.lifetime": Option<Duration> = "0" => values::duration_or_zero;
        /// How many requests may wait in PHP workers by the bridge (`route=bridge`), which drop-ins count as well. A site with
        /// five workers has two left for its pages; 0: no bound.
        bridge_max "bridge.max": Option<usize> = "3" => values::count_or_zero;
        /// How long a long poll by the bridge is held at most. PHP may not notice for so long that its visitor has left.
        bridge_hold "bridge.hold": Duration = "10s" => values::duration;
        /// How long a long poll by the bridge takes at least, if it is held.
        bridge_min_hold "bridge.min_hold": Duration = "0s" => values::duration;
        /// How long a stream by the bridge may last.
        bridge_lifetime "bridge.lifetime": Duration = "30s" => values::duration_from(1);
        /// How many requests may wait in CGI processes (`route=cgi`); 0: no bound.
        cgi_max "cgi.max": Option<usize> = "20" => values::count_or_zero;
        /// How long a long poll by CGI is held at most.
        cgi_hold "cgi.hold": Duration = "10s" => values::duration;
        /// How long a long poll by CGI takes at least, if it is held.
        cgi_min_hold "cgi.min_hold": Duration = "0s" => values::duration;
        /// How long a stream by CGI may last.
        cgi_lifetime "cgi.lifetime": Duration = "60s" => values::duration_from(1);
        /// How many requests may wait in PHP workers by the drop-in folder (`route=drop-in`), which those by the bridge count
        /// as well; 0: no bound.
        drop_in_max "drop_in.max": Option<usize> = "3" => values::count_or_zero;
        /// How long a long poll by the drop-in folder is held at most.
        drop_in_hold "drop_in.hold": Duration = "10s" => values::duration;
        /// How long a long poll by the drop-in folder takes at least, if it is held: old helpers ask again after 50 ms.
        drop_in_min_hold "drop_in.min_hold": Duration = "250ms" => values::duration;
        /// When a client that lost its connection or was turned away should come back, before the random part.
        retry "retry": Duration = "3s" => values::duration;
        /// How long a stream may be silent before a heartbeat is sent. Who vanishes is gone within four heartbeats.
        heartbeat "heartbeat": Duration = "25s" => values::duration_from(1);
    }
}

section! {
    /// Who is on a channel, in namespaces with presence.
    pub struct Presence {
        /// How long a member may be away without anybody being told.
        grace "grace": Duration = "5s" => values::duration;
        /// Above so many members only their number is told, at most once a second.
        announce_limit "announce_limit": usize = "100" => values::count_from(0);
        /// The most members of all channels together, of which visitors may have the parts that limits.one_visitor and
        /// limits.all_visitors say. Members of the site's own code are not counted.
        members "members": usize = "100000" => values::count_from(1);
        /// The most a member may tell about itself.
        member_info "member_info": usize = "1KiB" => values::size(0, 1 << 20);
    }
}

section! {
    /// A tiny file per followed channel, which a web server answers by itself, for clients that ask from time to time. For
    /// public channels of namespaces with static_file.
    pub struct StaticFiles {
        /// The folder: one that a web server serves. Without it there are none.
        dir "dir": Option<PathBuf> = "" => values::optional_path, example "/var/www/html/comet/live";
        /// The most files. Channels that nobody has published in may have the parts of limits.one_visitor and
        /// limits.all_visitors, and give way to the others.
        max "max": usize = "1000" => values::count_from(0);
        /// How long a file stays when nobody asks the server about its channel.
        keep "keep": Duration = "10m" => values::duration_from(1);
    }
}

section! {
    /// How the server ends.
    pub struct Shutdown {
        /// How long connections may take to finish.
        drain "drain": Duration = "10s" => values::duration;
        /// Clients are told to come back after a random time up to this.
        spread "spread": Duration = "5s" => values::duration;
    }
}

section! {
    /// Logs, on standard error. Payloads and tokens are never logged.
    pub struct Log {
        /// How much: error, warn, info, debug or trace.
        level "level": LogLevel = "info" => values::log_level;
        /// How: "text", "json", or "auto": text on a terminal, JSON lines otherwise.
        format "format": LogFormat = "auto" => values::log_format;
    }
}

section! {
    /// A key for publishing and administration on public listeners, sent as "Authorization: Bearer …". Several at once
    /// are fine: add the new one, change the clients, take the old one away.
    pub(super) struct KeyEntry {
        /// Its name, for logs.
        name "name": String = "" => values::text, example "site";
        /// Either the key itself, in "secret": at least 16 visible characters, such as "openssl rand -hex 32" prints,
        secret "secret": Secret = "" => access::inline;
        /// or a file that holds it.
        secret_file "secret_file": Option<PathBuf> = "" => values::optional_path, example "/etc/cometserver/site.key";
        /// What it allows: publish, history, presence, admin, ops, subscribe.
        actions "actions": Vec<Action> = "[]" => values::actions, example "publish";
    }
}

section! {
    /// A secret that signs tokens (JWT, HS256), with which clients may subscribe. Several at once are fine.
    pub(super) struct TokenEntry {
        /// Its name, for logs.
        name "name": String = "" => values::text, example "site";
        /// Either the secret itself, in "secret": at least 32 bytes, such as "openssl rand -hex 32" prints,
        secret "secret": Secret = "" => access::inline;
        /// or a file that holds it.
        secret_file "secret_file": Option<PathBuf> = "" => values::optional_path, example "/etc/cometserver/tokens.key";
    }
}
