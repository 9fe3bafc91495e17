//! Tokens: JWT (RFC 7519) signed with HS256, the one algorithm there is.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, crypto};
use serde::{Deserialize, Deserializer, Serialize};

use crate::action::Actions;

/// The longest token that is looked at, in bytes.
///
/// Tokens travel in headers and queries, which front web servers cap at 8 KiB, so a longer one would not arrive anyway.
pub const MAX_TOKEN: usize = 8 * 1024;

/// The most channels and patterns, together, that one token may name.
///
/// Each is compared with each subscription; who needs more names a pattern.
pub const MAX_NAMES: usize = 1000;

/// How far the clocks of whoever signs and of this server may differ, in seconds: so much longer, and so much earlier, a
/// token holds.
pub const LEEWAY: u64 = 60;

/// The latest time that is believed to be in seconds since 1970: about the year 5138. In milliseconds it was in 1973.
const LATEST: u64 = 100_000_000_000;

/// What a token says: whose it is, when it holds, and what it allows.
///
/// Times are whole seconds since 1970. Claims this server does not know are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Claims {
    /// The user. Without one the bearer is anonymous. A whole number counts as its digits.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "user")]
    pub sub: Option<String>,
    /// When the token was made. Not judged.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "seconds"
    )]
    pub iat: Option<u64>,
    /// [`LEEWAY`] seconds after this one the token is refused. Without it the token holds for ever.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "seconds"
    )]
    pub exp: Option<u64>,
    /// More than [`LEEWAY`] seconds before this one the token is refused.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "seconds"
    )]
    pub nbf: Option<u64>,
    /// What the bearer may do here. Absent: nothing.
    #[serde(default)]
    pub comet: Rights,
}

/// What a token allows: these actions, on these channels and on the channels these patterns match.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rights {
    /// Channel names, taken literally.
    #[serde(default)]
    pub channels: Vec<String>,
    /// Patterns over channel names.
    #[serde(default)]
    pub patterns: Vec<String>,
    /// The actions, on all of them alike.
    #[serde(default)]
    pub actions: Actions,
}

impl Rights {
    fn names(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }
}

/// Why a token is refused. Always the bearer's fault, but for [`NoKeys`](TokenError::NoKeys).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It is no JWT, not one of ours, or its claims have the wrong shape. Holds what is wrong.
    #[error("malformed token: {0}; send a JWT as made by `comet token`, unchanged")]
    Malformed(String),
    /// Its `kid` names no key of this server.
    #[error("the token's kid names no key of this server: sign with a configured key, or leave kid out")]
    UnknownKey,
    /// No key made this signature.
    #[error("the token's signature is wrong: sign with HS256 and the secret of a configured key")]
    BadSignature,
    /// Its `exp` has come.
    #[error("the token expired at {at} (seconds since 1970): fetch a new one")]
    Expired {
        /// The `exp` claim, in seconds since 1970.
        at: u64,
    },
    /// Its `nbf` has not come yet.
    #[error(
        "the token is not valid before {at} (seconds since 1970): wait, or compare the clocks of both servers"
    )]
    NotYetValid {
        /// The `nbf` claim, in seconds since 1970.
        at: u64,
    },
    /// Over [`MAX_TOKEN`] bytes, or over [`MAX_NAMES`] channels and patterns.
    #[error(
        "the token is too large: at most {MAX_TOKEN} bytes and {MAX_NAMES} channels and patterns; \
         name patterns instead of many channels"
    )]
    TooLarge,
    /// This server has no key, so no token can be good.
    #[error("this server knows no secret for tokens: add a [[tokens]] entry to its configuration")]
    NoKeys,
}

/// Signs `claims` with HS256; the header's `kid` becomes `key_name`.
///
/// # Errors
/// [`TokenError::NoKeys`] for an empty secret (anybody could sign with it), [`TokenError::TooLarge`] if a [`Verifier`]
/// would refuse the result for its size, [`TokenError::Malformed`] if it would refuse a time, or the claims cannot be written.
pub fn sign(claims: &Claims, key_name: &str, secret: &[u8]) -> Result<String, TokenError> {
    if secret.is_empty() {
        return Err(TokenError::NoKeys);
    }
    if claims.comet.names() > MAX_NAMES {
        return Err(TokenError::TooLarge);
    }
    check_units(claims)?;
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(key_name.to_owned());
    let token = jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(secret))
        .map_err(|e| TokenError::Malformed(e.to_string()))?;
    if token.len() > MAX_TOKEN {
        Err(TokenError::TooLarge)
    } else {
        Ok(token)
    }
}

/// Judges tokens by a list of keys. Make one per configuration and share it.
#[derive(Clone)]
pub struct Verifier {
    keys: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    /// Which of those that the verifier was made with.
    place: usize,
    name: String,
    secret: DecodingKey,
}

impl Verifier {
    /// Takes `(name, secret)` pairs. Two secrets under one name are both tried, so that a key can be exchanged while
    /// old tokens live. A pair with an empty secret is left out: everybody knows that one.
    pub fn new<N, S>(keys: impl IntoIterator<Item = (N, S)>) -> Verifier
    where
        N: Into<String>,
        S: AsRef<[u8]>,
    {
        let keys = keys
            .into_iter()
            .enumerate()
            .filter(|(_, (_, secret))| !secret.as_ref().is_empty())
            .map(|(place, (name, secret))| Key {
                place,
                name: name.into(),
                secret: DecodingKey::from_secret(secret.as_ref()),
            })
            .collect();
        Verifier { keys }
    }

    /// The claims of `token`: [`Verifier::judge`] without the key.
    ///
    /// # Errors
    /// As there.
    pub fn verify(&self, token: &str, now_seconds: u64) -> Result<Claims, TokenError> {
        self.judge(token, now_seconds).map(|(claims, _)| claims)
    }

    /// Reads `token` if one of the keys signed it and it holds at `now_seconds` (since 1970), give or take [`LEEWAY`]. Returns
    /// besides the claims which key signed it: its place in the list that [`Verifier::new`] was given, from 0.
    ///
    /// A `kid` in the header picks the key; without one every key is tried. Nothing of the claims is looked at before
    /// the signature is found good.
    ///
    /// # Errors
    /// See [`TokenError`]. Of several faults the first of: no keys, size, form and algorithm, key, signature, claims,
    /// time.
    pub fn judge(&self, token: &str, now_seconds: u64) -> Result<(Claims, usize), TokenError> {
        if self.keys.is_empty() {
            return Err(TokenError::NoKeys);
        }
        let parts = Parts::of(token)?;
        let head: Head = from_part(parts.header, "header")?;
        head.check()?;
        let key = self.check_signature(&parts, head.kid.as_deref())?;

        let claims: Claims = from_part(parts.claims, "claims")?;
        if claims.comet.names() > MAX_NAMES {
            return Err(TokenError::TooLarge);
        }
        check_time(&claims, now_seconds)?;
        Ok((claims, key))
    }

    /// Which key signed it, by its place in the list.
    fn check_signature(&self, parts: &Parts<'_>, kid: Option<&str>) -> Result<usize, TokenError> {
        let mut known = false;
        for key in self
            .keys
            .iter()
            .filter(|key| kid.is_none_or(|kid| kid == key.name))
        {
            known = true;
            let message = parts.message.as_bytes();
            match crypto::verify(parts.signature, message, &key.secret, Algorithm::HS256) {
                Ok(true) => return Ok(key.place),
                Ok(false) => {}
                Err(e) => return Err(TokenError::Malformed(format!("signature: {e}"))),
            }
        }
        Err(if known {
            TokenError::BadSignature
        } else {
            TokenError::UnknownKey
        })
    }
}

/// Names the keys and keeps their secrets.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.keys.iter().map(|key| &key.name))
            .finish()
    }
}

/// A token's header and claims as they are written, for eyes only: nothing about them has been checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// The JOSE header.
    pub header: serde_json::Value,
    /// The claims, unknown ones too.
    pub claims: serde_json::Value,
}

/// Shows what `token` says without asking whether it is true. Never decide anything by it.
///
/// # Errors
/// [`TokenError::TooLarge`], or [`TokenError::Malformed`] if it is not three base64url parts of which the first two hold JSON.
pub fn inspect(token: &str) -> Result<Inspection, TokenError> {
    let parts = Parts::of(token)?;
    Ok(Inspection {
        header: from_part(parts.header, "header")?,
        claims: from_part(parts.claims, "claims")?,
    })
}

/// The pieces of a compact JWS (RFC 7515, 7.1).
struct Parts<'a> {
    header: &'a str,
    claims: &'a str,
    signature: &'a str,
    /// What is signed: header, dot, claims.
    message: &'a str,
}

impl<'a> Parts<'a> {
    fn of(token: &'a str) -> Result<Parts<'a>, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLarge);
        }
        let three = || TokenError::Malformed("expected three parts joined by dots".to_owned());
        let (message, signature) = token.rsplit_once('.').ok_or_else(three)?;
        let (header, claims) = message.split_once('.').ok_or_else(three)?;
        if claims.contains('.') {
            return Err(three());
        }
        Ok(Parts {
            header,
            claims,
            signature,
            message,
        })
    }
}

/// What of the JOSE header matters. The algorithm is only compared, never followed.
#[derive(Deserialize)]
struct Head {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<serde::de::IgnoredAny>,
}

impl Head {
    fn check(&self) -> Result<(), TokenError> {
        if self.alg != "HS256" {
            // The name comes from outside: short enough for a log line, and escaped.
            let alg: String = self.alg.chars().take(16).collect();
            return Err(TokenError::Malformed(format!("alg {alg:?}: expected \"HS256\"")));
        }
        // RFC 7515, 4.1.11: an extension that must be understood and is not makes the token invalid.
        if self.crit.is_some() {
            return Err(TokenError::Malformed(
                "crit: no critical header extension is known here".to_owned(),
            ));
        }
        Ok(())
    }
}

fn from_part<T: for<'de> Deserialize<'de>>(part: &str, what: &str) -> Result<T, TokenError> {
    let json = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|e| TokenError::Malformed(format!("{what} is no base64url: {e}")))?;
    serde_json::from_slice(&json).map_err(|e| TokenError::Malformed(format!("{what}: {e}")))
}

/// RFC 7519, 4.1.4: at `exp` itself the token is already refused; 4.1.5: at `nbf` itself it is not. Both with some leeway.
fn check_time(claims: &Claims, now: u64) -> Result<(), TokenError> {
    check_units(claims)?;
    match claims {
        Claims { exp: Some(at), .. } if now >= at + LEEWAY => Err(TokenError::Expired { at: *at }),
        Claims { nbf: Some(at), .. } if now.saturating_add(LEEWAY) < *at => {
            Err(TokenError::NotYetValid { at: *at })
        }
        _ => Ok(()),
    }
}

/// Refuses times that can only be meant in milliseconds: such a token would hold for ever.
fn check_units(claims: &Claims) -> Result<(), TokenError> {
    let times = [("exp", claims.exp), ("nbf", claims.nbf)];
    let late = times.into_iter().find(|(_, at)| at.is_some_and(|at| at > LATEST));
    match late {
        Some((name, Some(at))) => Err(TokenError::Malformed(format!(
            "{name} {at}: milliseconds? Expected seconds since 1970"
        ))),
        _ => Ok(()),
    }
}

/// A user's name, which many sites know as a number. Only whole ones: others can be written in several ways.
fn user<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "expected sub as a string, or as a whole number of at most 64 bits"
    )]
    enum User {
        Name(String),
        Number(u64),
        Negative(i64),
    }
    Ok(Option::deserialize(deserializer)?.map(|user| match user {
        User::Name(name) => name,
        User::Number(number) => number.to_string(),
        User::Negative(number) => number.to_string(),
    }))
}

/// A NumericDate (RFC 7519, 2), which may have a fraction: PHP's `microtime(true)` has. The fraction is dropped.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a time in seconds since 1970")]
    enum NumericDate {
        Whole(u64),
        Fraction(f64),
    }
    match Option::<NumericDate>::deserialize(deserializer)? {
        None => Ok(None),
        Some(NumericDate::Whole(at)) => Ok(Some(at)),
        // `as` saturates; a time before 1970 is no time a token of ours can have.
        Some(NumericDate::Fraction(at)) if at >= 0.0 => Ok(Some(at as u64)),
        Some(NumericDate::Fraction(_)) => {
            Err(serde::de::Error::custom("expected a time in seconds since 1970"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use serde_json::json;

    const SECRET: &[u8] = b"a secret of more than thirty-two bytes";
    const OTHER: &[u8] = b"another secret, also of enough bytes!!";
    const NOW: u64 = 1_800_000_000;

    fn verifier() -> Verifier {
        Verifier::new([("first", OTHER), ("web", SECRET)])
    }

    fn claims() -> Claims {
        Claims {
            sub: Some("alice".to_owned()),
            iat: Some(NOW - 10),
            exp: Some(NOW + 60),
            nbf: Some(NOW),
            comet: Rights {
                channels: vec!["news".to_owned(), "a/b?c d&e%é".to_owned()],
                patterns: vec!["user/*/inbox".to_owned()],
                actions: [Action::Subscribe, Action::Ops].into_iter().collect(),
            },
        }
    }

    /// A token with any header and claims, signed well: for what `sign` would never make.
    fn forge(header: &serde_json::Value, claims: &serde_json::Value, secret: &[u8]) -> String {
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let key = EncodingKey::from_secret(secret);
        let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        format!("{message}.{signature}")
    }

    fn verify_claims(claims: serde_json::Value) -> Result<Claims, TokenError> {
        verifier().verify(&forge(&json!({"alg": "HS256"}), &claims, SECRET), NOW)
    }

    #[test]
    fn what_was_signed_is_read_back() {
        let token = sign(&claims(), "web", SECRET).unwrap();
        assert_eq!(verifier().verify(&token, NOW), Ok(claims()));
    }

    #[test]
    fn the_example_of_rfc_7515_is_verified() {
        // RFC 7515, A.1: signed by others, with a binary key, and expired long ago.
        let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA\
                     6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let verifier = Verifier::new([("rfc", URL_SAFE_NO_PAD.decode(key).unwrap())]);
        assert_eq!(
            verifier.verify(token, 1_300_819_379).unwrap().exp,
            Some(1_300_819_380)
        );
        assert_eq!(
            verifier.verify(token, NOW),
            Err(TokenError::Expired { at: 1_300_819_380 })
        );
    }

    #[test]
    fn the_kid_picks_the_key_and_without_one_all_are_tried() {
        let token = |header| forge(&header, &json!({"sub": "bob"}), SECRET);
        let judge = |header| verifier().verify(&token(header), NOW).map(|claims| claims.sub);
        assert_eq!(
            judge(json!({"alg": "HS256", "kid": "web"})),
            Ok(Some("bob".to_owned()))
        );
        assert_eq!(judge(json!({"alg": "HS256"})), Ok(Some("bob".to_owned())));
        assert_eq!(
            judge(json!({"alg": "HS256", "kid": "first"})),
            Err(TokenError::BadSignature)
        );
        assert_eq!(
            judge(json!({"alg": "HS256", "kid": "gone"})),
            Err(TokenError::UnknownKey)
        );
    }

    #[test]
    fn two_secrets_of_one_name_both_hold_while_a_key_is_exchanged() {
        let both = Verifier::new([("web", OTHER), ("web", SECRET)]);
        for secret in [SECRET, OTHER] {
            assert_eq!(
                both.verify(&sign(&claims(), "web", secret).unwrap(), NOW),
                Ok(claims())
            );
        }
    }

    #[test]
    fn no_algorithm_but_hs256_is_followed() {
        for alg in ["none", "None", "HS512", "HS384", "RS256", "hs256", ""] {
            let token = forge(&json!({"alg": alg}), &json!({}), SECRET);
            let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
            for token in [token, unsigned] {
                let error = verifier().verify(&token, NOW).unwrap_err();
                assert!(
                    matches!(&error, TokenError::Malformed(why) if why.contains("HS256")),
                    "{alg}: {error}"
                );
            }
        }
    }

    #[test]
    fn a_critical_extension_is_refused() {
        let token = forge(
            &json!({"alg": "HS256", "crit": ["b64"], "b64": false}),
            &json!({}),
            SECRET,
        );
        assert!(matches!(
            verifier().verify(&token, NOW),
            Err(TokenError::Malformed(_))
        ));
    }

    #[test]
    fn a_token_changed_anywhere_is_refused() {
        let token = sign(&claims(), "web", SECRET).unwrap();
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(verifier().verify(&changed, NOW).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_token_holds_from_its_first_second_until_just_before_its_last_give_or_take_a_minute() {
        let token = sign(&claims(), "web", SECRET).unwrap();
        let judge = |now| verifier().verify(&token, now).map(|_| ());
        assert_eq!(judge(NOW - 61), Err(TokenError::NotYetValid { at: NOW }));
        assert_eq!(judge(0), Err(TokenError::NotYetValid { at: NOW }));
        assert_eq!(judge(NOW - 60), Ok(()));
        assert_eq!(judge(NOW), Ok(()));
        assert_eq!(judge(NOW + 119), Ok(()));
        assert_eq!(judge(NOW + 120), Err(TokenError::Expired { at: NOW + 60 }));
        assert_eq!(judge(u64::MAX), Err(TokenError::Expired { at: NOW + 60 }));
    }

    #[test]
    fn a_token_without_times_always_holds_and_without_rights_allows_nothing() {
        let read = verify_claims(json!({"iss": "shop", "aud": ["x"], "jti": "7"})).unwrap();
        assert_eq!(read, Claims::default());
        assert!(read.comet.actions.is_empty());
    }

    #[test]
    fn a_time_may_have_a_fraction_and_must_be_a_number() {
        assert_eq!(
            verify_claims(json!({"exp": NOW as f64 + 5.75})).unwrap().exp,
            Some(NOW + 5)
        );
        for exp in [json!("soon"), json!(-1), json!(-0.5), json!([])] {
            let error = verify_claims(json!({"exp": exp})).unwrap_err();
            assert!(matches!(error, TokenError::Malformed(_)), "{exp}: {error}");
        }
    }

    #[test]
    fn a_time_in_milliseconds_is_asked_about() {
        for name in ["exp", "nbf"] {
            for at in [
                json!(NOW * 1000),
                json!(LATEST + 1),
                json!(1e300),
                json!(u64::MAX),
            ] {
                let error = verify_claims(json!({name: at})).unwrap_err().to_string();
                assert!(error.contains(name) && error.contains("milliseconds?"), "{error}");
            }
        }
        assert_eq!(verify_claims(json!({"exp": LATEST})).unwrap().exp, Some(LATEST));
        // Nobody judges when it was made.
        assert!(verify_claims(json!({"iat": NOW * 1000})).is_ok());
    }

    #[test]
    fn a_user_may_be_a_whole_number() {
        for (sub, user) in [
            (json!(42), Some("42")),
            (json!(0), Some("0")),
            (json!(-7), Some("-7")),
            (json!(u64::MAX), Some("18446744073709551615")),
            (json!("0042"), Some("0042")),
            (json!(null), None),
        ] {
            assert_eq!(verify_claims(json!({"sub": sub})).unwrap().sub.as_deref(), user);
        }
        for sub in [
            json!(1.5),
            json!(1e30),
            json!(true),
            json!(["a"]),
            json!({"a": 1}),
        ] {
            let error = verify_claims(json!({"sub": sub})).unwrap_err().to_string();
            assert!(error.contains("sub"), "{sub}: {error}");
        }
    }

    #[test]
    fn unknown_actions_are_passed_over() {
        let read =
            verify_claims(json!({"comet": {"channels": ["a"], "actions": ["fly", "publish"]}})).unwrap();
        assert_eq!(read.comet.actions.iter().collect::<Vec<_>>(), [Action::Publish]);
    }

    #[test]
    fn rubbish_is_malformed_and_never_a_panic() {
        let good = sign(&claims(), "web", SECRET).unwrap();
        let mut rubbish: Vec<String> = [
            "",
            ".",
            "..",
            "...",
            "a",
            "a.b",
            "a.b.c",
            "a.b.c.d",
            "é.é.é",
            "\0.\0.\0",
            "e30.e30.e30",
        ]
        .map(str::to_owned)
        .to_vec();
        rubbish.push(format!("{good}="));
        rubbish.push(format!("{good}."));
        rubbish.push(format!(" {good}"));
        rubbish.push(good.replacen('.', "..", 1));
        for token in rubbish {
            let error = verifier().verify(&token, NOW).unwrap_err();
            assert!(matches!(error, TokenError::Malformed(_)), "{token:?}: {error}");
        }
        for claims in [
            json!(7),
            json!(null),
            json!({"sub": [7]}),
            json!({"comet": {"channels": "news"}}),
        ] {
            let error = verify_claims(claims).unwrap_err();
            assert!(matches!(error, TokenError::Malformed(_)), "{error}");
        }
    }

    #[test]
    fn size_is_bounded_when_signing_and_when_verifying() {
        let mut many = claims();
        many.comet.channels = vec![String::new(); MAX_NAMES - 1];
        let token = sign(&many, "web", SECRET).unwrap();
        assert_eq!(verifier().verify(&token, NOW), Ok(many.clone()));
        many.comet.channels.push(String::new());
        assert_eq!(sign(&many, "web", SECRET), Err(TokenError::TooLarge));
        let names = vec![""; MAX_NAMES + 1];
        assert_eq!(
            verify_claims(json!({"comet": {"patterns": names}})),
            Err(TokenError::TooLarge)
        );

        let long = Claims {
            sub: Some("x".repeat(MAX_TOKEN)),
            ..Claims::default()
        };
        assert_eq!(sign(&long, "web", SECRET), Err(TokenError::TooLarge));
        assert_eq!(
            verifier().verify(&"x".repeat(MAX_TOKEN + 1), NOW),
            Err(TokenError::TooLarge)
        );
    }

    #[test]
    fn an_empty_secret_is_no_key() {
        assert_eq!(sign(&claims(), "web", b""), Err(TokenError::NoKeys));
        let token = forge(&json!({"alg": "HS256"}), &json!({}), b"");
        assert_eq!(
            Verifier::new([("web", "")]).verify(&token, NOW),
            Err(TokenError::NoKeys)
        );
        let mixed = Verifier::new([("web", &b""[..]), ("w", SECRET)]);
        assert_eq!(mixed.verify(&token, NOW), Err(TokenError::BadSignature));
        let good = sign(&claims(), "w", SECRET).unwrap();
        assert_eq!(
            mixed.judge(&good, NOW),
            Ok((claims(), 1)),
            "its place is that in the list"
        );
    }

    #[test]
    fn inspecting_shows_everything_and_checks_nothing() {
        let token = forge(
            &json!({"alg": "none", "kid": "k"}),
            &json!({"exp": 1, "own": [1]}),
            b"whatever",
        );
        let seen = inspect(&token).unwrap();
        assert_eq!(seen.header, json!({"alg": "none", "kid": "k"}));
        assert_eq!(seen.claims, json!({"exp": 1, "own": [1]}));
        assert!(inspect("no token").is_err());
    }

    #[test]
    fn debug_output_shows_no_secret() {
        assert_eq!(format!("{:?}", verifier()), r#"{"first", "web"}"#);
    }
}
