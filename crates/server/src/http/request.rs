//! A request as the rest of the server sees it.

use std::borrow::Cow;

/// The version the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no chunked answers; closes unless both sides say `keep-alive`.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// The method, as far as we answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`: as GET, but the answer has no body.
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
    /// `OPTIONS`
    Options,
    /// Any other; methods are case-sensitive, so `get` is one of these.
    Other,
}

impl Method {
    pub(super) fn read(method: &str) -> Self {
        match method {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            _ => Self::Other,
        }
    }
}

/// One whole request, borrowing from the buffer it was read from.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// The path as sent, undecoded: begins with `/`, or is `*` (OPTIONS only). Of an absolute target only the path is here.
    pub path: &'a str,
    /// What follows the `?`, undecoded (see [`super::query`]); empty if there is none.
    pub query: &'a str,
    /// The client's version.
    pub version: Version,
    /// The body, chunks already put together. At most `Limits::body` bytes.
    pub body: Cow<'a, [u8]>,
    /// Whether the client can take another answer on this connection.
    pub keep_alive: bool,
    pub(super) host: Option<&'a str>,
    pub(super) headers: Vec<httparse::Header<'a>>,
}

impl<'a> Request<'a> {
    /// The value of the first header called `name` (any case), without the white space around it.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers_all(name).next()
    }

    /// As [`header`](Self::header), if the value is UTF-8.
    pub fn header_str(&self, name: &str) -> Option<&'a str> {
        self.header(name).and_then(|value| str::from_utf8(value).ok())
    }

    /// All header fields, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.headers.iter().map(|header| (header.name, header.value))
    }

    /// The values of all headers called `name` (any case), in order.
    pub fn headers_all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    }

    /// Whether `token` (any case) is in the comma-separated list that the headers called `name` make up together, as in
    /// `Connection: keep-alive, Upgrade`.
    pub fn header_has_token(&self, name: &str, token: &str) -> bool {
        self.headers_all(name).any(|value| has_token(value, token))
    }

    /// Whom the client believes to talk to: the authority of an absolute target, else the `Host` header.
    ///
    /// Checked to be a host with or without port, or empty. Always there in HTTP/1.1.
    pub fn host(&self) -> Option<&'a str> {
        self.host
    }
}

/// Whether `token` is in the comma-separated list `value`, ignoring case.
pub(super) fn has_token(value: &[u8], token: &str) -> bool {
    value
        .split(|&byte| byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}
