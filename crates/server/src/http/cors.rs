//! Which pages of other origins may talk to us from a browser. None, unless the configuration names them.

use std::net::IpAddr;
use std::sync::Arc;

use super::ascii_host::ascii_host;
use super::request::{Method, Request};
use super::response::Head;

/// How long a browser may remember a preflight, in seconds. Chrome keeps at most two hours; ten minutes let a change of
/// the configuration through soon enough.
const PREFLIGHT_MAX_AGE: u64 = 600;

const METHODS: &str = "GET, POST, DELETE";
/// What a page may send: ours, and what tracing adds to every request of a page (W3C Trace Context and Baggage).
const HEADERS: &str = "authorization, content-type, x-api-key, last-event-id, cache-control, if-none-match, traceparent, \
                       tracestate, baggage";

/// The origins of the configuration, checked and in the form in which browsers send them.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    any: bool,
    exact: Vec<Arc<str>>,
}

/// An origin in the configuration that no browser could send.
#[derive(Debug, thiserror::Error)]
pub enum BadOrigin {
    /// It is none.
    #[error(
        "origin {0:?}: expected `*`, `null`, `file://`, or a scheme and a host such as https://example.com or http://localhost:8080"
    )]
    Malformed(String),
    /// Its host is not in ASCII.
    #[error("origin {origin:?}: browsers send it in ASCII: write {}", ascii.as_deref().unwrap_or("what the browser's console shows for location.origin"))]
    International {
        /// As it was written.
        origin: String,
        /// As browsers write it, if that is known.
        ascii: Option<String>,
    },
}

impl BadOrigin {
    fn new(origin: &str) -> Self {
        match origin.split_once("://") {
            Some((scheme, host)) if !host.is_ascii() => Self::International {
                origin: origin.to_owned(),
                ascii: ascii_host(host)
                    .map(|host| format!("{}://{host}", scheme.to_ascii_lowercase()))
                    .filter(|ascii| normalise(ascii).is_some()),
            },
            _ => Self::Malformed(origin.to_owned()),
        }
    }
}

/// No page but those of our own host.
pub static NO_ORIGINS: Origins = Origins {
    any: false,
    exact: Vec::new(),
};

impl Origins {
    /// Reads a list of `scheme://host[:port]`, `null`, `file://` (pages of the visitor's own disk: most browsers say `null`, apps
    /// often the other) and `*`.
    ///
    /// # Errors
    /// The first entry that is none of them (a path or a trailing slash is the usual cause).
    pub fn new<S: AsRef<str>>(list: impl IntoIterator<Item = S>) -> Result<Self, BadOrigin> {
        let mut origins = Self::default();
        for entry in list {
            match entry.as_ref() {
                "*" => origins.any = true,
                word @ ("null" | "file://") => origins.exact.push(word.into()),
                entry => origins
                    .exact
                    .push(normalise(entry).ok_or_else(|| BadOrigin::new(entry))?.into()),
            }
        }
        Ok(origins)
    }

    /// The headers for the answer to `request`.
    pub fn cors(&self, request: &Request<'_>) -> Cors {
        Cors {
            preflight: !self.is_empty() && is_preflight(request),
            ..self.cors_for(request.header("origin"))
        }
    }

    /// The same for what begins like a request and is refused before it is one: without them a page would be told of a
    /// broken connection, and try again. Where no `Origin` is seen, as the head breaks off before it, the answer is for
    /// every page that may read any.
    pub fn cors_of_head(&self, bytes: &[u8]) -> Cors {
        let origin = origin_in(bytes);
        match (&origin, &*self.exact, self.any) {
            (None, _, true) => self.cors_for(Some(b"*")),
            (None, [only], false) => self.cors_for(Some(only.as_bytes())),
            _ => self.cors_for(origin),
        }
    }

    fn cors_for(&self, origin: Option<&[u8]>) -> Cors {
        if self.is_empty() {
            return Cors::default();
        }
        let allow = match origin {
            None => Allow::Nobody,
            Some(origin) => match self.listed(origin) {
                Some(origin) => Allow::Exact(origin.clone()),
                None if self.any => match str::from_utf8(origin) {
                    Ok(origin) if is_value(origin) => Allow::Any(origin.into()),
                    _ => Allow::Nobody,
                },
                None => Allow::Nobody,
            },
        };
        Cors {
            allow,
            preflight: false,
            vary: true,
        }
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && !self.any
    }

    fn listed(&self, origin: &[u8]) -> Option<&Arc<str>> {
        self.exact.iter().find(|listed| listed.as_bytes() == origin)
    }
}

/// The value of the first `Origin` line in what begins like a head: nothing else about it needs to be right.
fn origin_in(bytes: &[u8]) -> Option<&[u8]> {
    let lines = bytes.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
    let mut fields = lines.skip(1).take_while(|line| !line.is_empty());
    fields.find_map(|line| {
        let (name, value) = line.split_at_checked(b"origin:".len())?;
        name.eq_ignore_ascii_case(b"origin:").then(|| value.trim_ascii())
    })
}

/// May this stand in a header of ours? What was no request has not been looked at.
fn is_value(text: &str) -> bool {
    !text.bytes().any(|byte| byte.is_ascii_control())
}

/// Whether this is a browser asking beforehand whether a page may send a request (Fetch, 4.8).
pub fn is_preflight(request: &Request<'_>) -> bool {
    request.method == Method::Options
        && request.header("origin").is_some()
        && request.header("access-control-request-method").is_some()
}

/// Whether a request may open a WebSocket, or act with what a browser adds by itself (cookies, network position).
///
/// Without `Origin` it does not come from a browser and is allowed. A page of our own host is allowed: whether by `http` or
/// `https` is ignored, because a front web server may have ended TLS, and with it the scheme's own ports 80 and 443. Any
/// other origin must be listed; `*` lists them all.
pub fn origin_allowed(origins: &Origins, host: Option<&[u8]>, origin: Option<&[u8]>) -> bool {
    let Some(origin) = origin else {
        return true;
    };
    origins.any || origins.listed(origin).is_some() || host.is_some_and(|host| is_same_host(host, origin))
}

/// Whether a request for this host cannot come from a page whose name was made to point at this machine: an address, or
/// `localhost`. Such a page counts as of our own host, since `Host` and `Origin` both say its name.
pub fn is_address_or_localhost(host: &str) -> bool {
    let (name, _) = split_port(host.as_bytes());
    if name.eq_ignore_ascii_case(b"localhost") {
        return true;
    }
    let name = str::from_utf8(name).unwrap_or_default();
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match (bare.unwrap_or(name).parse::<IpAddr>(), bare) {
        (Ok(address), bare) => address.is_ipv6() == bare.is_some(),
        (Err(_), _) => false,
    }
}

/// The CORS headers of one answer; outlives the request, for answers that come late.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    allow: Allow,
    preflight: bool,
    /// The answer would differ for another origin: caches must know.
    vary: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Allow {
    #[default]
    Nobody,
    /// Because of `*`: without credentials.
    Any(Box<str>),
    /// Because it is listed: with credentials.
    Exact(Arc<str>),
}

impl Cors {
    /// Whether the page that asks may read the answer.
    pub fn is_allowed(&self) -> bool {
        self.allow != Allow::Nobody
    }

    /// Adds the headers to an answer.
    pub fn write<'o>(&self, mut head: Head<'o>) -> Head<'o> {
        if self.vary {
            head = head.header("Vary", "Origin");
        }
        head = match &self.allow {
            Allow::Nobody => return head,
            Allow::Any(origin) => head.header("Access-Control-Allow-Origin", &**origin),
            Allow::Exact(origin) => head
                .header("Access-Control-Allow-Origin", &**origin)
                .header("Access-Control-Allow-Credentials", "true"),
        };
        if self.preflight {
            head.header("Access-Control-Allow-Methods", METHODS)
                .header("Access-Control-Allow-Headers", HEADERS)
                .number("Access-Control-Max-Age", PREFLIGHT_MAX_AGE)
        } else {
            head.header("Access-Control-Expose-Headers", "ETag, Retry-After")
        }
    }
}

/// The form in which a browser sends an origin: lower case, without the scheme's own port.
fn normalise(origin: &str) -> Option<String> {
    let origin = origin.to_ascii_lowercase();
    let (scheme, authority) = origin.split_once("://")?;
    let (host, port) = split_port(authority.as_bytes());
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let is_host = !host.is_empty()
        && host
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+;=[]:".contains(byte))
        && (host[0] == b'[') == host.contains(&b':');
    if !is_scheme || !is_host || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return None;
    }
    match (scheme, port) {
        ("http" | "ws", Some("80")) | ("https" | "wss", Some("443")) => {
            Some(origin[..origin.rfind(':')?].to_owned())
        }
        _ => Some(origin),
    }
}

fn is_same_host(host: &[u8], origin: &[u8]) -> bool {
    let Some(separator) = memchr::memmem::find(origin, b"://") else {
        return false; // `null`, or nothing a browser sends
    };
    let scheme = &origin[..separator];
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return false; // an app's own pages, or nothing a browser sends
    }
    let (host, host_port) = split_port(host);
    let (origin, origin_port) = split_port(&origin[separator + 3..]);
    let plain = |port: Option<&str>| match port {
        None | Some("80" | "443" | "") => None,
        Some(port) => Some(port.to_owned()),
    };
    !host.is_empty() && host.eq_ignore_ascii_case(origin) && plain(host_port) == plain(origin_port)
}

/// Splits `host[:port]`; the colons within `[…]` are the address's own.
fn split_port(authority: &[u8]) -> (&[u8], Option<&str>) {
    match memchr::memrchr(b':', authority) {
        Some(colon) if !authority[colon..].contains(&b']') => match str::from_utf8(&authority[colon + 1..]) {
            Ok(port) => (&authority[..colon], Some(port)),
            Err(_) => (authority, None),
        },
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::response::Terms;
    use super::super::{Limits, Parse, Progress, parse};
    use super::*;

    fn headers(origins: &[&str], request: &str) -> Vec<String> {
        let request = request.replace('\n', "\r\n") + "\r\n\r\n";
        let origins = Origins::new(origins).unwrap();
        let Ok(Parse::Complete { request, .. }) =
            parse(request.as_bytes(), &mut Progress::default(), &Limits::default())
        else {
            panic!("{request}");
        };
        let mut out = Vec::new();
        let cors = origins.cors(&request);
        cors.write(Head::new(
            &mut out,
            Terms {
                keep_alive: true,
                ..Terms::CLOSE
            },
            200,
        ))
        .no_body();
        let out = String::from_utf8(out).unwrap();
        assert_eq!(cors.is_allowed(), out.contains("Access-Control-Allow-Origin"));
        out.lines()
            .skip(1)
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn whose_page_it_is_is_seen_in_what_is_no_request() {
        for (head, origin) in [
            (
                "POST / HTTP/1.1\r\nHost: a\r\nORIGIN:\thttps://b \r\nX: ",
                Some("https://b"),
            ),
            ("POST / HTTP/9\nOrigin: null\n\n", Some("null")),
            (
                "POST / HTTP/1.1\r\nOrigin : a\r\nOrigins: b\r\nOrigin: c\r\nOrigin: d",
                Some("c"),
            ),
            ("Origin: a\r\nHost: a", None),
            ("POST / HTTP/1.1\r\nHost: a\r\n\r\nOrigin: in-the-body\r\n", None),
            ("", None),
        ] {
            assert_eq!(origin_in(head.as_bytes()), origin.map(str::as_bytes), "{head}");
        }
        let allow =
            |list: &[&str], head: &str| Origins::new(list).unwrap().cors_of_head(head.as_bytes()).allow;
        let unseen = "GET /long HTT";
        assert_eq!(allow(&[], unseen), Allow::Nobody);
        assert_eq!(allow(&["*"], unseen), Allow::Any("*".into()));
        assert_eq!(allow(&["https://b"], unseen), Allow::Exact("https://b".into()));
        assert_eq!(allow(&["https://b", "https://c"], unseen), Allow::Nobody);
        let seen = "GET / HTTP/1.1\r\nOrigin: https://d\r\n";
        assert_eq!(allow(&["https://b"], seen), Allow::Nobody);
        assert_eq!(allow(&["*", "https://d"], seen), Allow::Exact("https://d".into()));
        let split = "GET / HTTP/1.1\r\nOrigin: https://d\rSet-Cookie: a=b\r\n";
        assert_eq!(
            allow(&["*"], split),
            Allow::Nobody,
            "nothing of it becomes a line of ours"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_a_line_of_ours(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let head = [b"GET / HTTP/1.1\r\nOrigin: ", &bytes[..]].concat();
            let mut out = Vec::new();
            Origins::new(["*"]).unwrap().cors_of_head(&head).write(Head::new(&mut out, Terms::CLOSE, 400)).no_body();
            let text = String::from_utf8(out).unwrap();
            let known = ["HTTP/1.1 ", "Vary: ", "Access-Control-", "Connection: ", "Content-Length: ", "Date: "];
            let lines = text.split("\r\n").filter(|line| !line.is_empty());
            for line in lines {
                assert!(known.iter().any(|own| line.starts_with(own)) && !line.contains(['\r', '\n']), "{line:?}");
            }
        }
    }

    #[test]
    fn nobody_is_allowed_unless_configured() {
        let request = "GET / HTTP/1.1\nHost: a\nOrigin: https://b.example";
        assert!(headers(&[], request).is_empty());
        assert_eq!(headers(&["https://c.example"], request), ["Vary: Origin"]);
    }

    #[test]
    fn a_listed_origin_may_read_and_send_credentials() {
        let request = "GET / HTTP/1.1\nHost: a\nOrigin: https://b.example";
        assert_eq!(
            headers(&["*", "HTTPS://B.example:443"], request),
            [
                "Vary: Origin",
                "Access-Control-Allow-Origin: https://b.example",
                "Access-Control-Allow-Credentials: true",
                "Access-Control-Expose-Headers: ETag, Retry-After",
            ]
        );
    }

    #[test]
    fn a_star_allows_everybody_without_credentials() {
        let request = "GET / HTTP/1.1\nHost: a\nOrigin: null";
        assert_eq!(
            headers(&["*"], request),
            [
                "Vary: Origin",
                "Access-Control-Allow-Origin: null",
                "Access-Control-Expose-Headers: ETag, Retry-After",
            ]
        );
    }

    #[test]
    fn a_preflight_is_told_what_may_be_sent() {
        let request = "OPTIONS / HTTP/1.1\nHost: a\nOrigin: http://b:81\nAccess-Control-Request-Method: POST";
        let headers = headers(&["http://b:81"], request);
        assert!(headers.contains(&"Access-Control-Allow-Methods: GET, POST, DELETE".to_owned()));
        assert!(headers.contains(&"Access-Control-Max-Age: 600".to_owned()));
        assert!(
            headers
                .iter()
                .any(|header| header.starts_with("Access-Control-Allow-Headers: authorization, "))
        );
    }

    #[test]
    fn an_entry_that_no_browser_could_send_is_refused() {
        let bad = [
            "",
            "example.com",
            "https://",
            "https://a/",
            "https://a:x",
            "https://a:99999",
            "https://a b",
            "https://u@a",
            "https://*.a",
            "1://a",
            "https://::1",
        ];
        for entry in bad {
            assert!(Origins::new([entry]).is_err(), "{entry}");
        }
        assert!(
            Origins::new([
                "*",
                "null",
                "file://",
                "https://[::1]:8443",
                "chrome-extension://abc",
                "http://localhost"
            ])
            .is_ok()
        );
    }

    #[test]
    fn an_international_origin_is_told_its_ascii_form() {
        let told = |entry: &str| Origins::new([entry]).unwrap_err().to_string();
        assert!(told("https://müller.example:8443").ends_with("write https://xn--mller-kva.example:8443"));
        assert!(told("https://mu\u{308}ller.example").contains("location.origin"));
        assert!(told("https://müller.example/").contains("location.origin"));
        assert!(told("müller.example").contains("a scheme and a host"));
        // Which then is taken.
        assert!(Origins::new(["https://xn--mller-kva.example:8443"]).is_ok());
    }

    #[test]
    fn a_page_may_talk_to_its_own_host() {
        let own = |host: &str, origin: &str| {
            origin_allowed(
                &Origins::default(),
                Some(host.as_bytes()),
                Some(origin.as_bytes()),
            )
        };
        assert!(own("a.example", "https://a.example"));
        assert!(own("A.example:443", "https://a.example"));
        assert!(own("a.example:80", "https://a.example"));
        assert!(own("a.example:8080", "http://a.example:8080"));
        assert!(own("[::1]:8080", "http://[::1]:8080"));
        assert!(own("[::1]", "http://[::1]"));
        assert!(!own("a.example", "https://a.example:8443"));
        assert!(!own("a.example:8080", "http://a.example"));
        assert!(!own("a.example", "https://b.example"));
        assert!(!own("a.example", "https://xa.example"));
        assert!(!own("a.example", "https://a.example.evil"));
        assert!(!own("a.example", "null"));
        assert!(!own("", "https://"));
        assert!(!own("a.example", ""));
        for scheme in [
            "",
            " ",
            "x",
            "file",
            "https ",
            "capacitor",
            "chrome-extension",
            "http:",
        ] {
            assert!(!own("a.example", &format!("{scheme}://a.example")), "{scheme}");
        }
        assert!(own("a.example", "HTTP://a.example"));
    }

    #[test]
    fn an_address_and_localhost_are_nobodys_names() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:8081",
            "[::1]:8081",
            "[::1]",
            "LocalHost",
            "localhost:80",
        ] {
            assert!(is_address_or_localhost(host), "{host}");
        }
        for host in [
            "",
            ":80",
            "evil.example",
            "evil.example:8081",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "::1",
            "[127.0.0.1]",
            "[::1].evil.example",
            "2130706433",
        ] {
            assert!(!is_address_or_localhost(host), "{host}");
        }
    }

    #[test]
    fn who_is_no_browser_needs_no_origin() {
        assert!(origin_allowed(&Origins::default(), None, None));
        assert!(!origin_allowed(&Origins::default(), None, Some(b"https://a")));
        let listed = Origins::new(["https://a"]).unwrap();
        assert!(origin_allowed(&listed, Some(b"b"), Some(b"https://a")));
        assert!(!origin_allowed(&listed, Some(b"b"), Some(b"http://a")));
        assert!(origin_allowed(
            &Origins::new(["*"]).unwrap(),
            None,
            Some(b"https://a")
        ));
    }
}
