//! What a client that wants to listen asks for, and whether it may.

use cometserver_core::ChannelName;
use cometserver_core::action::Action;
use cometserver_core::fanout::Wants;
use cometserver_core::grant::Grant;
use cometserver_core::json;
use cometserver_core::protocol::native;
use std::sync::Arc;

use super::Shard;
use super::beginning::Beginning;
use super::requests::Parameters;
use crate::api::{self, Refused};
use crate::endpoint::Endpoint;
use crate::http::Request;
use crate::websocket::handshake;

/// The least that a stream may ask to wait for its first heartbeat: earlier ones travel with the opening.
const LEAST_PREAMBLE_MS: u64 = 100;

/// The shortest heartbeat that a client may ask for, in milliseconds: libraries that give up a silent connection do so after
/// 5 s or more. The longest is the server's own, within four of which is noticed who has vanished.
const LEAST_HEARTBEAT_MS: u64 = 1_000;

/// The longest name of a session.
pub(super) const MAX_SESSION: usize = 64;

/// What a client that wants to listen asks for.
pub(super) struct Wish {
    pub(super) channels: Vec<Listening>,
    pub(super) patterns: Vec<Arc<cometserver_core::pattern::Pattern>>,
    pub(super) beginning: Beginning,
    pub(super) retained: bool,
    pub(super) join: bool,
    pub(super) watch: bool,
    pub(super) info: Option<bytes::Bytes>,
    pub(super) session: Option<Box<str>>,
    pub(super) binary: bool,
    /// How soon a stream is to give a second sign of life, in milliseconds; 0: with its heartbeat.
    pub(super) preamble: u32,
    /// How long a connection may be silent at most, in milliseconds; 0: as long as any.
    pub(super) heartbeat: u32,
}

/// A channel that is to be listened to, and whether its members are to be seen, and joined.
pub(super) struct Listening {
    pub(super) name: ChannelName,
    pub(super) watch: bool,
    pub(super) join: bool,
}

impl Wish {
    pub(super) fn is_member(&self) -> bool {
        self.join || self.channels.iter().any(|channel| channel.join)
    }

    /// Whose poll this is, and of what: only another one of the same may take its place.
    pub(super) fn identity<'a>(&'a self, grant: &'a Grant) -> impl std::hash::Hash + use<'a> {
        let mut channels: Vec<_> = self
            .channels
            .iter()
            .map(|channel| channel.name.as_bytes())
            .collect();
        let mut patterns: Vec<_> = self.patterns.iter().map(|pattern| pattern.as_bytes()).collect();
        channels.sort_unstable();
        patterns.sort_unstable();
        (&grant.user, channels, patterns)
    }

    /// What a grant gives of a pattern.
    pub(super) fn wants(&self, pattern: &cometserver_core::pattern::Pattern, grant: &Grant) -> Wants {
        Wants {
            presence: self.watch,
            retained: self.retained,
            public_only: !grant.covers(Action::Subscribe, pattern),
        }
    }
}

impl Shard {
    pub(super) fn wish(
        &self,
        endpoint: Endpoint,
        request: &Request<'_>,
        parameters: &Parameters<'_>,
    ) -> Result<Wish, Refused> {
        let limits = api::limits(&self.settings);
        let most = &self.settings.config.limits;
        let named = |name: &'static [u8]| {
            parameters
                .iter()
                .filter(move |(own, _)| **own == *name)
                .map(|(_, value)| value)
        };
        let count = |names: &[&[u8]]| {
            let named = |(own, _): &&api::Pair<'_>| names.contains(&&**own);
            parameters.iter().filter(named).count()
        };
        // Counted before any is read.
        if count(&[b"channel", b"watch", b"join"]) > most.subscriptions
            || count(&[b"pattern"]) > most.patterns
        {
            return Err(too_many(most.subscriptions, most.patterns));
        }
        let (join, watch) = presence_wish(api::text(parameters, "presence"))?;
        let listening = |name, watch, join| {
            native::command::channel_name(name, &limits).map(|name| Listening { name, watch, join })
        };
        let channels = named(b"channel")
            .map(|name| listening(name, watch, join))
            .chain(named(b"watch").map(|name| listening(name, true, join)))
            .chain(named(b"join").map(|name| listening(name, true, true)))
            .collect::<Result<Vec<_>, _>>()?;
        let patterns = named(b"pattern")
            .map(|text| api::pattern(text, &self.settings).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        if channels.is_empty() && patterns.is_empty() && endpoint != Endpoint::WebSocket {
            return Err(Refused::bad(
                "name at least one `channel` or `pattern` to listen to",
            ));
        }
        let info = match api::bytes(parameters, "info").map(std::str::from_utf8) {
            None => None,
            Some(Ok(info)) => Some(self.member_info(info)?),
            Some(Err(_)) => return Err(Refused::bad("`info` is not UTF-8")),
        };
        let session = match api::text(parameters, "session") {
            Some(session) if session.is_empty() || session.len() > MAX_SESSION => {
                return Err(Refused::bad("`session` has 1 to 64 bytes"));
            }
            session => session.map(Box::from),
        };
        let beginning = self.where_to_begin(endpoint, request, parameters)?;
        let retained = !matches!(api::bytes(parameters, "retained"), Some(b"0" | b"false" | b"no"));
        let binary = endpoint == Endpoint::WebSocket && api::text(parameters, "format") == Some("binary");
        let preamble = match endpoint {
            Endpoint::Sse | Endpoint::Stream => milliseconds(parameters, "preamble_ms", LEAST_PREAMBLE_MS)?,
            _ => 0,
        };
        // A poll says with `wait_ms` how long nothing may come.
        let heartbeat = match endpoint {
            Endpoint::Poll => 0,
            _ => milliseconds(parameters, "heartbeat_ms", LEAST_HEARTBEAT_MS)?,
        };
        Ok(Wish {
            channels,
            patterns,
            beginning,
            retained,
            join,
            watch,
            info,
            session,
            binary,
            preamble,
            heartbeat,
        })
    }

    /// What a member shows of itself, checked: JSON on one line.
    pub(super) fn member_info(&self, info: &str) -> Result<bytes::Bytes, Refused> {
        if info.len() > self.settings.config.presence.member_info {
            return Err(Refused::new(
                413,
                "too_large",
                "`info` is larger than presence.member_info allows",
            ));
        }
        json::check(info, self.settings.config.limits.json_depth)
            .map_err(|error| Refused::bad(format!("`info` is not JSON that every reader takes: {error}")))?;
        let mut line = Vec::with_capacity(info.len());
        native::json_value(info.as_bytes(), &mut line);
        Ok(line.into())
    }

    pub(super) fn check_handshake<'r>(
        &self,
        request: &Request<'r>,
    ) -> Result<handshake::Accept<'r>, Refused> {
        if request.version != crate::http::Version::Http11 {
            return Err(Refused::bad("a WebSocket needs HTTP/1.1"));
        }
        handshake::check(request.headers(), |_| true)
            .map_err(|refusal| Refused::new(refusal.status(), "bad_request", refusal.to_string()))
    }

    pub(super) fn authorize(&self, wish: &Wish, grant: &Grant) -> Result<(), Refused> {
        for channel in &wish.channels {
            self.authorize_channel(&channel.name, grant, channel.watch)?;
        }
        self.authorize_pattern_presence(wish.patterns.iter(), grant, wish.watch)
    }

    /// Members are shown by pattern only to whom all that it matches is open: namespaces that are public need not show theirs.
    pub(super) fn authorize_pattern_presence<'p>(
        &self,
        mut patterns: impl Iterator<Item = &'p Arc<cometserver_core::pattern::Pattern>>,
        grant: &Grant,
        presence: bool,
    ) -> Result<(), Refused> {
        if presence && patterns.any(|pattern| !grant.covers(Action::Presence, pattern)) {
            return Err(api::lacking(grant, Action::Presence));
        }
        Ok(())
    }

    pub(super) fn authorize_channel(
        &self,
        name: &ChannelName,
        grant: &Grant,
        presence: bool,
    ) -> Result<(), Refused> {
        let namespace = self.hub.namespace_of(name);
        if !grant.allows(Action::Subscribe, name, &namespace) {
            return Err(api::lacking(grant, Action::Subscribe));
        }
        if presence && !namespace.presence {
            return Err(Refused::new(
                403,
                "forbidden",
                "this channel's namespace has no presence",
            ));
        }
        if presence && !grant.allows(Action::Presence, name, &namespace) {
            return Err(api::lacking(grant, Action::Presence));
        }
        Ok(())
    }
}

/// A wish in milliseconds, not below `least`; 0: none.
fn milliseconds(parameters: &Parameters<'_>, name: &str, least: u64) -> Result<u32, Refused> {
    // Whoever is refused for a number that is out of every range, such as an EventSource, would give up for ever.
    let text = api::text(parameters, name).unwrap_or_default();
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    if text.is_empty() {
        return Ok(0);
    }
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_whole && (is_negative || digits.parse::<u64>().is_err()) {
        let nearest = if is_negative { least } else { u64::MAX };
        return Ok(u32::try_from(nearest).unwrap_or(u32::MAX));
    }
    let wish = api::number(parameters, name)?;
    Ok(wish.map_or(0, |wish| u32::try_from(wish.max(least)).unwrap_or(u32::MAX)))
}

/// How presence is wished for: `join` is both.
pub(super) fn presence_wish(text: Option<&str>) -> Result<(bool, bool), Refused> {
    match text {
        None | Some("") => Ok((false, false)),
        Some("watch") => Ok((false, true)),
        Some("join") => Ok((true, true)),
        Some(_) => Err(Refused::bad("`presence` is `join` or `watch`")),
    }
}

pub(super) fn too_many(channels: usize, patterns: usize) -> Refused {
    Refused::new(
        429,
        "limit_reached",
        format!(
            "one connection may have {channels} channels (limits.subscriptions) and {patterns} patterns (limits.patterns)"
        ),
    )
}
