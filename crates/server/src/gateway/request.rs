//! From the variables of CGI (RFC 3875) to a request of HTTP/1.0. Everything in them may be what a visitor has written.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::gateway_key;

/// The largest body that is passed on; the server has its own, mostly smaller, bound.
const MAX_BODY: u64 = 64 << 20;

/// The largest head that is passed on; web servers have about this bound themselves.
const MAX_HEAD: usize = 32 << 10;

/// The headers that mean something to the server, as variables and on the wire.
const PASSED: &[(&str, &str)] = &[
    ("HTTP_ACCEPT", "Accept"),
    (
        "HTTP_ACCESS_CONTROL_REQUEST_HEADERS",
        "Access-Control-Request-Headers",
    ),
    (
        "HTTP_ACCESS_CONTROL_REQUEST_METHOD",
        "Access-Control-Request-Method",
    ),
    ("HTTP_COOKIE", "Cookie"),
    ("HTTP_HOST", "Host"),
    ("HTTP_IF_NONE_MATCH", "If-None-Match"),
    ("HTTP_LAST_EVENT_ID", "Last-Event-ID"),
    ("HTTP_ORIGIN", "Origin"),
    ("HTTP_SEC_FETCH_SITE", "Sec-Fetch-Site"),
    ("HTTP_USER_AGENT", "User-Agent"),
    ("HTTP_X_API_KEY", "X-API-Key"),
    ("CONTENT_TYPE", "Content-Type"),
];

/// Where the credentials may be: Apache keeps them back unless told otherwise, and renames them on a rewrite.
const AUTHORIZATION: &[&str] = &[
    "HTTP_AUTHORIZATION",
    "REDIRECT_HTTP_AUTHORIZATION",
    "REDIRECT_REDIRECT_HTTP_AUTHORIZATION",
];

/// A request's variables.
pub trait Variables {
    /// The value of one; empty counts as not there.
    fn get(&self, name: &str) -> Option<Vec<u8>>;
}

impl<F: Fn(&str) -> Option<OsString>> Variables for F {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        self(name)
            .map(OsStringExt::into_vec)
            .filter(|value| !value.is_empty())
    }
}

/// What is to be sent to the server.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// First line and headers, to their end.
    pub head: Vec<u8>,
    /// The length of the body that follows.
    pub body: u64,
    /// An event stream: whoever reads it knows no error, and takes comments.
    pub is_sse: bool,
}

/// Why a request is not passed on.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The code of `docs/protocol.md`.
    pub code: &'static str,
    /// What to do.
    pub detail: &'static str,
}

fn refuse<T>(status: u16, code: &'static str, detail: &'static str) -> Result<T, Refusal> {
    Err(Refusal { status, code, detail })
}

impl Asked {
    /// The request that the variables tell of.
    ///
    /// # Errors
    /// [`Refusal`]: something in it cannot be passed on without changing what it means.
    pub fn new(variables: &impl Variables) -> Result<Self, Refusal> {
        let method = variables.get("REQUEST_METHOD").unwrap_or_default();
        if !matches!(&*method, b"GET" | b"HEAD" | b"POST" | b"DELETE" | b"OPTIONS") {
            return refuse(
                405,
                "method_not_allowed",
                "this gateway passes on GET, HEAD, POST, DELETE and OPTIONS",
            );
        }
        let query = query(variables)?;
        let path = path(variables, &query)?;
        if path == b"/v1/ws" {
            return refuse(
                501,
                "bad_request",
                "no WebSocket passes a CGI program: use /v1/sse or /v1/poll",
            );
        }
        let body = body_length(variables, &method)?;
        let mut head = Vec::with_capacity(512);
        head.extend_from_slice(&method);
        head.push(b' ');
        head.extend_from_slice(&path);
        head.push(b'?');
        head.extend_from_slice(&query);
        if !query.is_empty() {
            head.push(b'&');
        }
        // Behind what the visitor wrote: the last one counts.
        head.extend_from_slice(b"route=cgi HTTP/1.0\r\n");
        for (variable, name) in PASSED {
            header(&mut head, name, variables.get(variable))?;
        }
        let credentials = AUTHORIZATION.iter().find_map(|name| variables.get(name));
        header(&mut head, "Authorization", credentials)?;
        header(&mut head, "X-Forwarded-For", forwarded_for(variables))?;
        if variables.get("HTTPS").is_some_and(|value| value != b"off") {
            header(&mut head, "X-Forwarded-Proto", Some(b"https".to_vec()))?;
        }
        if body > 0 || method == b"POST" {
            header(&mut head, "Content-Length", Some(body.to_string().into_bytes()))?;
        }
        head.extend_from_slice(b"\r\n");
        if head.len() > MAX_HEAD {
            return refuse(431, "too_large", "the head of this request is too large");
        }
        Ok(Self {
            head,
            body,
            is_sse: path == b"/v1/sse",
        })
    }
}

impl Asked {
    /// Shows the server with its key (see [`crate::gateway_key`]) that the site's own gateway asks.
    pub fn prove(&mut self, key: &[u8]) {
        let end = self.head.len() - b"\r\n".len();
        let line = [gateway_key::HEADER.as_bytes(), b": ", key, b"\r\n"].concat();
        self.head.splice(end..end, line);
    }
}

/// As it was written: a front server decodes paths, but not queries.
fn query(variables: &impl Variables) -> Result<Vec<u8>, Refusal> {
    let query = variables.get("QUERY_STRING").unwrap_or_default();
    // A blank or a line break would end the first line, and what follows would be another request.
    if query
        .iter()
        .any(|byte| *byte <= b' ' || *byte == 0x7f || *byte == b'#')
    {
        return refuse(400, "bad_request", "the query holds what must be percent-encoded");
    }
    Ok(query)
}

/// The path that is meant: what follows the program's own, or a rewritten one, from its first `/v1/` on; where neither arrives,
/// `call=poll` at the beginning of the query.
fn path(variables: &impl Variables, query: &[u8]) -> Result<Vec<u8>, Refusal> {
    let named = query.strip_prefix(b"call=").map(|rest| {
        let end = rest.iter().position(|byte| *byte == b'&').unwrap_or(rest.len());
        [b"/v1/", &rest[..end]].concat()
    });
    let told = ["PATH_INFO", "ORIG_PATH_INFO", "SCRIPT_NAME"]
        .iter()
        .filter_map(|name| variables.get(name));
    let path = told.chain(named).find_map(|path| {
        let begins = |at: &usize| path[*at..].starts_with(b"/v1/") || path[*at..].starts_with(b"/health/");
        (0..path.len()).find(begins).map(|at| path[at..].to_vec())
    });
    let is_plain = |path: &Vec<u8>| {
        let plain = |byte: &u8| byte.is_ascii_lowercase() || matches!(byte, b'/' | b'_' | b'0'..=b'9');
        path.iter().all(plain)
    };
    match path.filter(is_plain) {
        Some(path) => Ok(path),
        None => refuse(
            404,
            "not_found",
            "call this program with a path behind its own, such as /v1/poll",
        ),
    }
}

fn body_length(variables: &impl Variables, method: &[u8]) -> Result<u64, Refusal> {
    if variables.get("HTTP_TRANSFER_ENCODING").is_some() {
        return refuse(411, "bad_request", "send the body with its Content-Length");
    }
    let Some(length) = variables.get("CONTENT_LENGTH") else {
        return Ok(0);
    };
    let digits = length.iter().all(u8::is_ascii_digit);
    let length = std::str::from_utf8(&length).ok().filter(|_| digits);
    match length.and_then(|length| length.parse::<u64>().ok()) {
        Some(0) => Ok(0),
        Some(_) if matches!(method, b"GET" | b"HEAD" | b"OPTIONS") => {
            refuse(400, "bad_request", "this method takes no body")
        }
        Some(length) if length <= MAX_BODY => Ok(length),
        Some(_) => refuse(413, "too_large", "the body is too large for this gateway"),
        None => refuse(400, "bad_request", "Content-Length is no number"),
    }
}

/// Who asks, as the web server sees it, behind what others have claimed. The server believes the last: without an address
/// of the web server's nothing is passed on.
fn forwarded_for(variables: &impl Variables) -> Option<Vec<u8>> {
    let address = variables.get("REMOTE_ADDR")?;
    Some(match variables.get("HTTP_X_FORWARDED_FOR") {
        Some(claimed) => [&claimed[..], b", ", &address].concat(),
        None => address,
    })
}

fn header(head: &mut Vec<u8>, name: &str, value: Option<Vec<u8>>) -> Result<(), Refusal> {
    let Some(value) = value else { return Ok(()) };
    // Web servers refuse such; a variable of theirs that holds one anyway must not become two headers.
    if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return refuse(400, "bad_request", "a header holds control characters");
    }
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(&value);
    head.extend_from_slice(b"\r\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Given<'a> = [(&'a str, &'a [u8])];

    fn asked(variables: &Given<'_>) -> Result<Asked, Refusal> {
        let variables: Vec<_> = [("REQUEST_METHOD", &b"GET"[..]), ("PATH_INFO", b"/v1/poll")]
            .iter()
            .filter(|(name, _)| !variables.iter().any(|(own, _)| own == name))
            .chain(variables)
            .copied()
            .collect();
        let get = move |name: &str| -> Option<OsString> {
            let found = variables.iter().rev().find(|(own, _)| *own == name);
            found.map(|(_, value)| OsString::from_vec(value.to_vec()))
        };
        Asked::new(&get)
    }

    fn head(variables: &Given<'_>) -> String {
        String::from_utf8(asked(variables).unwrap().head).unwrap()
    }

    #[test]
    fn a_request_keeps_its_query_and_says_through_what_it_came() {
        let odd = b"channel=a%2Fb%3Fc+d%26e%25%C3%A9&route=bridge";
        assert_eq!(
            head(&[("QUERY_STRING", odd)]),
            "GET /v1/poll?channel=a%2Fb%3Fc+d%26e%25%C3%A9&route=bridge&route=cgi HTTP/1.0\r\n\r\n"
        );
        assert_eq!(head(&[]), "GET /v1/poll?route=cgi HTTP/1.0\r\n\r\n");
    }

    #[test]
    fn credentials_origin_and_address_go_along() {
        let head = head(&[
            ("HTTP_HOST", b"example.org"),
            ("HTTP_ORIGIN", b"https://example.org"),
            ("HTTP_COOKIE", b"a=b"),
            ("REDIRECT_HTTP_AUTHORIZATION", b"Bearer x.y.z"),
            ("HTTP_X_FORWARDED_FOR", b"10.0.0.1"),
            ("REMOTE_ADDR", b"192.0.2.7"),
            ("HTTPS", b"on"),
            ("HTTP_CONNECTION", b"Upgrade"),
            ("HTTP_X_ACCEL_REDIRECT", b"/etc"),
        ]);
        for line in [
            "Host: example.org",
            "Origin: https://example.org",
            "Cookie: a=b",
            "Authorization: Bearer x.y.z",
            "X-Forwarded-For: 10.0.0.1, 192.0.2.7",
            "X-Forwarded-Proto: https",
        ] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
        }
        assert!(!head.contains("Upgrade") && !head.contains("/etc"), "{head}");
    }

    #[test]
    fn an_address_that_only_the_visitor_claims_is_not_passed_on() {
        let head = head(&[("HTTP_X_FORWARDED_FOR", b"10.0.0.1")]);
        assert!(!head.contains("10.0.0.1"), "{head}");
    }

    #[test]
    fn a_gateway_shows_the_servers_key_and_never_one_of_the_visitors() {
        let mut asked = asked(&[("HTTP_COMET_GATEWAY", b"guessed"), ("HTTP_HOST", b"example.org")]).unwrap();
        asked.prove(b"c0ffee");
        assert_eq!(
            String::from_utf8(asked.head).unwrap(),
            "GET /v1/poll?route=cgi HTTP/1.0\r\nHost: example.org\r\ncomet-gateway: c0ffee\r\n\r\n"
        );
    }

    #[test]
    fn the_path_is_found_wherever_the_web_server_puts_it() {
        for (name, value) in [
            ("PATH_INFO", &b"/v1/sse"[..]),
            ("PATH_INFO", b"/comet/v1/sse"),
            ("ORIG_PATH_INFO", b"/cgi-bin/comet.cgi/v1/sse"),
            ("SCRIPT_NAME", b"/push/v1/sse"),
            ("QUERY_STRING", b"call=sse&channel=a"),
        ] {
            let asked = asked(&[("PATH_INFO", b""), (name, value)]).unwrap();
            assert!(asked.head.starts_with(b"GET /v1/sse?"), "{name}: {asked:?}");
            assert!(asked.is_sse);
        }
    }

    #[test]
    fn the_path_begins_with_what_looks_like_one_first() {
        for (path, head) in [
            (&b"/v1/poll/v1/admin/stop"[..], "GET /v1/poll/v1/admin/stop?"),
            (
                b"/cgi-bin/comet.cgi/v1/now/health/live",
                "GET /v1/now/health/live?",
            ),
            (b"/health/live/v1/now", "GET /health/live/v1/now?"),
        ] {
            let asked = asked(&[("PATH_INFO", path)]).unwrap();
            assert!(asked.head.starts_with(head.as_bytes()), "{asked:?}");
        }
    }

    #[test]
    fn what_cannot_be_passed_on_unchanged_is_refused() {
        let long = vec![b'x'; MAX_HEAD];
        let table: &[(u16, &Given<'_>)] = &[
            (
                400,
                &[("QUERY_STRING", b"a HTTP/1.1\r\nHost: evil\r\n\r\nGET /v1/poll")],
            ),
            (400, &[("QUERY_STRING", b"channel=a b")]),
            (400, &[("QUERY_STRING", b"a\n")]),
            (400, &[("QUERY_STRING", b"a\0b")]),
            (400, &[("HTTP_COOKIE", b"a\r\nX-API-Key: guessed")]),
            (400, &[("HTTP_AUTHORIZATION", b"Bearer a\n\nb")]),
            (400, &[("REMOTE_ADDR", b"1.2.3.4\r\nX: y")]),
            (404, &[("PATH_INFO", b"")]),
            (404, &[("PATH_INFO", b"/v1/poll HTTP/1.1\r\n")]),
            (404, &[("PATH_INFO", b"/v1/poll?x")]),
            (404, &[("PATH_INFO", b"/v1/../v1/Poll")]),
            (404, &[("PATH_INFO", b"/etc/passwd")]),
            (404, &[("PATH_INFO", b""), ("QUERY_STRING", b"call=../../x")]),
            (405, &[("REQUEST_METHOD", b"CONNECT")]),
            (405, &[("REQUEST_METHOD", b"GET /v1/stop HTTP/1.1\r\n")]),
            (405, &[("REQUEST_METHOD", b"")]),
            (400, &[("REQUEST_METHOD", b"POST"), ("CONTENT_LENGTH", b"-1")]),
            (400, &[("REQUEST_METHOD", b"POST"), ("CONTENT_LENGTH", b"1\r\n2")]),
            (
                400,
                &[
                    ("REQUEST_METHOD", b"POST"),
                    ("CONTENT_LENGTH", b"99999999999999999999"),
                ],
            ),
            (
                413,
                &[("REQUEST_METHOD", b"POST"), ("CONTENT_LENGTH", b"999999999999")],
            ),
            (400, &[("CONTENT_LENGTH", b"5")]),
            (
                411,
                &[
                    ("REQUEST_METHOD", b"POST"),
                    ("HTTP_TRANSFER_ENCODING", b"chunked"),
                ],
            ),
            (431, &[("QUERY_STRING", &long)]),
            (501, &[("PATH_INFO", b"/v1/ws")]),
        ];
        for (status, variables) in table {
            let refusal = asked(variables).unwrap_err();
            assert_eq!(refusal.status, *status, "{variables:?}: {refusal:?}");
        }
    }
}
