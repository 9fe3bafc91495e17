//! What a client may do, until when. However it was obtained, inside there is only the grant.

use crate::Time;
use crate::action::{Action, Actions};
use crate::channel::ChannelName;
use crate::namespace::Namespace;
use crate::pattern::Pattern;
use crate::token::{Claims, LEEWAY};

/// The longest pattern in a token. A token is bounded as a whole; this bounds what one entry may cost.
const MAX_PATTERN: usize = 1024;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    /// The user's name, if there is one.
    pub user: Option<Box<str>>,
    /// When it ends, in milliseconds since 1970: a token's `exp` and [`LEEWAY`].
    pub expires: Option<Time>,
    /// Which key or token secret it was obtained with, by a number that its maker gives out; 0: none.
    pub secret: u32,
    /// Allowed everywhere.
    everywhere: Actions,
    /// Allowed on `channels` and `patterns`.
    actions: Actions,
    channels: Box<[Box<[u8]>]>,
    patterns: Box<[Pattern]>,
}

impl Grant {
    /// What anybody may: only what the namespace of a channel allows without a token.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// These actions, everywhere, for ever: a key, or the backend socket.
    pub fn everywhere(actions: Actions) -> Self {
        Self {
            everywhere: actions,
            ..Self::default()
        }
    }

    /// What a verified token says. A pattern that does not parse grants nothing.
    pub fn from_claims(claims: &Claims) -> Self {
        let patterns = claims
            .comet
            .patterns
            .iter()
            .filter_map(|text| Pattern::new(text, MAX_PATTERN).ok());
        Self {
            user: claims.sub.as_deref().map(Box::from),
            expires: claims
                .exp
                .map(|seconds| seconds.saturating_add(LEEWAY).saturating_mul(1000)),
            secret: 0,
            everywhere: Actions::default(),
            actions: claims.comet.actions,
            channels: claims
                .comet
                .channels
                .iter()
                .map(|name| Box::from(name.as_bytes()))
                .collect(),
            patterns: patterns.collect(),
        }
    }

    /// The same, obtained with this key or token secret.
    pub fn by(self, secret: u32) -> Self {
        Self { secret, ..self }
    }

    /// Is it what anybody has who shows nothing?
    pub fn is_anonymous(&self) -> bool {
        self.user.is_none()
            && self.expires.is_none()
            && self.everywhere == Actions::NONE
            && self.actions == Actions::NONE
    }

    /// Is it the site's own code: a key, or the backend's door? Tokens are for visitors.
    pub fn is_sites(&self) -> bool {
        self.everywhere != Actions::NONE
    }

    /// The `exp` of the token it comes from, in seconds since 1970.
    pub fn expires_by_token(&self) -> Option<u64> {
        self.expires.map(|at| (at / 1000).saturating_sub(LEEWAY))
    }

    /// Is it over?
    pub fn is_expired(&self, now: Time) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// May it do this, whatever the channel?
    pub fn allows_everywhere(&self, action: Action) -> bool {
        self.everywhere.contains(action)
    }

    /// May it do this on a channel of this namespace?
    pub fn allows(&self, action: Action, channel: &ChannelName, namespace: &Namespace) -> bool {
        let open = match action {
            Action::Subscribe | Action::History => namespace.public,
            Action::Publish => namespace.anonymous_publish,
            Action::Presence => namespace.presence && namespace.anonymous_presence,
            _ => false,
        };
        open || self.everywhere.contains(action) || self.names(action, channel)
    }

    fn names(&self, action: Action, channel: &ChannelName) -> bool {
        self.actions.contains(action)
            && (self.channels.iter().any(|name| **name == *channel.as_bytes())
                || self
                    .patterns
                    .iter()
                    .any(|pattern| pattern.matches(channel.as_bytes())))
    }

    /// May it do this on everything that a pattern matches? If it may not listen to all, it may still listen to what is
    /// public there.
    pub fn covers(&self, action: Action, pattern: &Pattern) -> bool {
        self.everywhere.contains(action)
            || (self.actions.contains(action) && self.patterns.iter().any(|own| own.covers(pattern)))
    }
}
