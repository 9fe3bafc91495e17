//! From a request's credentials to a grant, and which pages of which origins may ask at all.

use cometserver_core::Time;
use cometserver_core::action::{Action, Actions};
use cometserver_core::grant::Grant;
use cometserver_core::token::{TokenError, Verifier};
use subtle::ConstantTimeEq;

use crate::config::{self, Config};
use crate::http::Request;
use crate::http::cors::{BadOrigin, NO_ORIGINS, Origins};
use crate::listener::Role;

mod secrets;

use secrets::{Kind, Secrets};

/// Keys, token secrets and origins, as the configuration has them now; made anew by a reload.
#[derive(Debug)]
pub struct Access {
    keys: Vec<(Box<[u8]>, Actions)>,
    verifier: Verifier,
    /// The keys, then the token secrets.
    secrets: Secrets,
    origins: Origins,
}

/// Why a request gets no grant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// The token is over: fetch a new one.
    #[error("the token has expired: fetch a new one")]
    Expired,
    /// Not a key, and not a valid token; the text says why.
    #[error("{0}")]
    Invalid(String),
}

impl Denied {
    /// The code of `docs/protocol.md`.
    pub fn code(&self) -> &'static str {
        match self {
            Denied::Expired => "token_expired",
            Denied::Invalid(_) => "unauthorized",
        }
    }
}

impl Access {
    /// What the configuration says.
    ///
    /// # Errors
    /// An origin that no browser could send.
    pub fn new(config: &Config) -> Result<Self, BadOrigin> {
        Self::of(config, &Secrets::default())
    }

    /// What another configuration says, after this one.
    ///
    /// # Errors
    /// As [`Access::new`].
    pub fn followed_by(&self, config: &Config) -> Result<Self, BadOrigin> {
        Self::of(config, &self.secrets)
    }

    fn of(config: &Config, before: &Secrets) -> Result<Self, BadOrigin> {
        let keys = config.keys.iter().map(|key| {
            let mut actions = Actions::default();
            for action in &key.actions {
                actions.insert(core_action(*action));
            }
            (Box::from(key.secret.expose()), actions)
        });
        let keys: Vec<(Box<[u8]>, Actions)> = keys.collect();
        let of_keys = keys
            .iter()
            .map(|(secret, actions)| (Kind::Key(*actions), &**secret));
        let of_tokens = config.tokens.iter();
        let of_tokens = of_tokens.map(|key| (Kind::Token(key.name.clone()), key.secret.expose()));
        let secrets = Secrets::after(before, of_keys.chain(of_tokens));
        let tokens = config
            .tokens
            .iter()
            .map(|key| (key.name.clone(), key.secret.expose().to_vec()));
        Ok(Self {
            keys,
            verifier: Verifier::new(tokens),
            secrets,
            origins: Origins::new(&config.public.origins)?,
        })
    }

    /// Whose pages may connect at doors of this role. Only where a key or token is asked for: elsewhere a page would be
    /// allowed everything.
    pub fn origins(&self, role: Role) -> &Origins {
        match role {
            Role::Public => &self.origins,
            Role::Backend | Role::Ops => &NO_ORIGINS,
        }
    }

    /// The grant of whoever shows this credential; nothing shown: what anybody may.
    ///
    /// # Errors
    /// [`Denied`]: what was shown is worth nothing, which is told even where anybody may listen.
    pub fn grant(&self, credential: Option<&str>, now: Time) -> Result<Grant, Denied> {
        let Some(credential) = credential else {
            return Ok(Grant::anonymous());
        };
        match self.key(credential) {
            Some((place, actions)) => Ok(Grant::everywhere(actions).by(self.secrets.number(place))),
            None => self.grant_by_token(credential, now),
        }
    }

    /// Is it the site's own code that shows this credential? See [`Grant::is_sites`].
    pub fn is_sites(&self, credential: Option<&str>) -> bool {
        credential
            .and_then(|credential| self.key(credential))
            .is_some_and(|(_, actions)| Grant::everywhere(actions).is_sites())
    }

    /// Does what was opened with this grant stay open? Not if the key or token secret it was obtained with is gone.
    pub fn upholds(&self, grant: &Grant) -> bool {
        self.secrets.knows(grant.secret)
    }

    /// A held request or a WebSocket has this grant from now on: how many have it is told when its secret goes.
    pub fn opened(&self, grant: &Grant) {
        self.secrets.opened(grant.secret);
    }

    /// It has it no more.
    pub fn closed(&self, grant: &Grant) {
        self.secrets.closed(grant.secret);
    }

    /// How much is open that ends once `next` is in force, for want of the key or token secret it was opened with.
    pub fn ended_by(&self, next: &Self) -> usize {
        self.secrets.lost_by(&next.secrets)
    }

    /// The place of the key with this secret, and what it may do, if there is one.
    fn key(&self, credential: &str) -> Option<(usize, Actions)> {
        let mut found = None;
        for (place, (secret, actions)) in self.keys.iter().enumerate() {
            // All are compared, each in constant time: neither which key nor how much of it was right shows.
            if bool::from(secret.ct_eq(credential.as_bytes())) {
                found = Some((place, *actions));
            }
        }
        found
    }

    /// The grant of whoever shows this token. Not a key: this is for where every log would keep it.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn grant_by_token(&self, token: &str, now: Time) -> Result<Grant, Denied> {
        if !token.contains('.') {
            let why = "no such key: compare it with [[keys]], and send it in the header Authorization or X-API-Key; \
                       a token is a JWT, with dots in it";
            return Err(Denied::Invalid(why.to_owned()));
        }
        match self.verifier.judge(token, now / 1000) {
            Ok((claims, place)) => {
                let secret = self.secrets.number(self.keys.len() + place);
                Ok(Grant::from_claims(&claims).by(secret))
            }
            Err(TokenError::Expired { .. }) => Err(Denied::Expired),
            Err(error) => Err(Denied::Invalid(error.to_string())),
        }
    }
}

/// The grant of the site's own code.
pub fn backend() -> Grant {
    let mut all = Actions::default();
    for action in Action::ALL {
        all.insert(action);
    }
    Grant::everywhere(all)
}

fn core_action(action: config::Action) -> Action {
    match action {
        config::Action::Publish => Action::Publish,
        config::Action::History => Action::History,
        config::Action::Presence => Action::Presence,
        config::Action::Admin => Action::Admin,
        config::Action::Ops => Action::Ops,
        config::Action::Subscribe => Action::Subscribe,
    }
}

/// What a request shows in its head: `Authorization: Bearer …`, else `X-API-Key: …`.
pub fn credential<'a>(request: &'a Request<'_>) -> Option<&'a str> {
    let bearer = request.header_str("authorization").and_then(|value| {
        let (scheme, rest) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
    });
    bearer
        .or_else(|| request.header_str("x-api-key"))
        .filter(|text| !text.is_empty())
}
