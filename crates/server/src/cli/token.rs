//! `token`: make and look into the tokens with which browsers subscribe.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use cometserver_core::action::Action;
use cometserver_core::pattern::Pattern;
use cometserver_core::token::{self, Claims, Inspection, LEEWAY, MAX_TOKEN, Rights, TokenError, Verifier};

use crate::config::{Loaded, TokenKey};

use super::settings::Settings;
use super::show::Paint;
use super::{Failure, Outcome, amount};

pub(super) const EXAMPLES: &str = "\
comet token create --user alice --channel news --expires 1h
comet token create --user bob --pattern 'room/*' --action subscribe --action publish
comet token inspect eyJhbGciOi…
wl-paste | comet token inspect -";

#[derive(Debug, clap::Subcommand)]
pub(super) enum Token {
    /// Print a token, signed with a secret of the configuration
    Create(Create),
    /// Print what a token says and whether it holds
    Inspect {
        /// The token; `-`: standard input
        token: String,
    },
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("names").required(true).multiple(true))]
pub(super) struct Create {
    /// Whose token it is; without it, nobody's in particular
    #[arg(long)]
    user: Option<String>,
    /// A channel; repeat it for more
    #[arg(long, group = "names")]
    channel: Vec<String>,
    /// A pattern over channels; repeat it for more
    #[arg(long, group = "names")]
    pattern: Vec<String>,
    /// What it allows there; repeat it for more
    #[arg(long, default_value = "subscribe", value_parser = action_parser())]
    action: Vec<Action>,
    /// How long it holds: a time such as 5m, 1h or 7d, or `never`
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = expires)]
    expires: Expires,
    /// Which entry of [[tokens]] signs it, by its name; without it, the first
    #[arg(long)]
    name: Option<String>,
}

/// How long a token holds; `None` for ever.
#[derive(Debug, Clone, Copy)]
struct Expires(Option<Duration>);

fn expires(text: &str) -> Result<Expires, String> {
    match text {
        "never" => Ok(Expires(None)),
        _ => amount::duration(text).map(Some).map(Expires),
    }
}

fn action_parser() -> impl TypedValueParser<Value = Action> {
    PossibleValuesParser::new(Action::ALL.map(Action::name))
        .map(|name| Action::from_name(&name).expect("only the names of actions are let through"))
}

impl Token {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        settings.refuse_url("token")?;
        let loaded = settings.load()?;
        match self {
            Self::Create(create) => create.run(&loaded),
            Self::Inspect { token } => inspect(&given(token)?, &loaded),
        }
    }
}

impl Create {
    fn run(self, loaded: &Loaded) -> Outcome {
        let config = &loaded.config;
        for pattern in &self.pattern {
            Pattern::new(pattern, config.limits.pattern_length)
                .map_err(|error| Failure::usage(format!("--pattern {pattern:?}: {error}")))?;
        }
        let key = self.key(&config.tokens, loaded.file.as_deref())?;
        let now = now();
        let claims = Claims {
            sub: self.user,
            iat: Some(now),
            exp: self
                .expires
                .0
                .map(|expires| now.saturating_add(expires.as_secs())),
            nbf: None,
            comet: Rights {
                channels: self.channel,
                patterns: self.pattern,
                actions: self.action.into_iter().collect(),
            },
        };
        let token = token::sign(&claims, &key.name, key.secret.expose());
        let token = token.map_err(|error| Failure::new(error.to_string()))?;
        super::print(format!("{token}\n").as_bytes())
    }

    fn key<'a>(&self, keys: &'a [TokenKey], file: Option<&Path>) -> Result<&'a TokenKey, Failure> {
        let Some(first) = keys.first() else {
            return Err(Failure::configuration(no_secret(file)));
        };
        let Some(name) = &self.name else { return Ok(first) };
        keys.iter().find(|key| key.name == *name).ok_or_else(|| {
            let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
            Failure::usage(format!("--name {name:?}: expected one of {}", names.join(", ")))
        })
    }
}

fn given(token: String) -> Result<String, Failure> {
    if token != "-" {
        return Ok(token);
    }
    let mut text = String::new();
    // One byte more than a token can have shows that it is too large.
    std::io::stdin()
        .lock()
        .take(MAX_TOKEN as u64 + 1)
        .read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

/// What is missing where there is nothing to sign or to check with.
fn no_secret(file: Option<&Path>) -> String {
    match file {
        Some(file) => format!(
            "{} has no [[tokens]]: add an entry with a name and a secret (`openssl rand -hex 32`)",
            file.display()
        ),
        None => {
            "no --config was given, so no secret is known: name the server's configuration file, which has \
                 [[tokens]], with --config or COMETSERVER_CONFIG"
                .to_owned()
        }
    }
}

fn inspect(token: &str, loaded: &Loaded) -> Outcome {
    let paint = Paint::for_stdout();
    let keys = loaded
        .config
        .tokens
        .iter()
        .map(|key| (key.name.as_str(), key.secret.expose()));
    let now = now();
    let verdict = Verifier::new(keys).verify(token, now);
    let mut text = match token::inspect(token) {
        Ok(Inspection { header, claims }) => {
            format!("{}\n{}\n", shown("header", &header), shown("claims", &claims))
        }
        Err(_) => String::new(),
    };
    match &verdict {
        Ok(claims) => text.push_str(&format!("{}{}\n", paint.green("valid"), time_left(claims, now))),
        Err(TokenError::NoKeys) => {
            let why = no_secret(loaded.file.as_deref());
            text.push_str(&format!("{}: {why}\n", paint.red("not checked")));
        }
        Err(error) => text.push_str(&format!("{}: {}\n", paint.red("not valid"), reason(error, now))),
    }
    super::print(text.as_bytes())?;
    Ok(if verdict.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn shown(what: &str, json: &serde_json::Value) -> String {
    format!("{} {json:#}", Paint::for_stdout().dim(what))
}

fn time_left(claims: &Claims, now: u64) -> String {
    match claims.exp {
        Some(at) if at <= now => format!(
            ", expired {} ago; the server takes it for {} more",
            spell(now - at),
            spell((at + LEEWAY).saturating_sub(now))
        ),
        Some(at) => format!(", expires in {}", spell(at - now)),
        None => ", never expires".to_owned(),
    }
}

fn reason(error: &TokenError, now: u64) -> String {
    match error {
        TokenError::Expired { at } => format!("it expired {} ago", spell(now.saturating_sub(*at))),
        TokenError::NotYetValid { at } => format!("it begins to hold in {}", spell(at.saturating_sub(now))),
        other => other.to_string(),
    }
}

/// A time in its two largest units.
fn spell(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut left = seconds;
    let mut parts = Vec::new();
    for (size, unit) in units {
        if left >= size {
            parts.push(format!("{} {unit}", left / size));
            left %= size;
        }
    }
    parts.truncate(2);
    if parts.is_empty() {
        "0 s".to_owned()
    } else {
        parts.join(" ")
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spelled_in_two_units() {
        assert_eq!(spell(0), "0 s");
        assert_eq!(spell(59), "59 s");
        assert_eq!(spell(3_661), "1 h 1 min");
        assert_eq!(spell(90_000), "1 d 1 h");
    }
}
