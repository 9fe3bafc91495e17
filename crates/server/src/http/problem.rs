//! An error as RFC 9457 writes it: `application/problem+json`.

use super::cors::Cors;
use super::response::{Head, Terms, reason};

/// An error on its way to a client. The codes are those of docs/protocol.md.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: &'static str,
    /// What to do, for a person.
    pub detail: &'a str,
    /// Seconds to stay away (`Retry-After`).
    pub retry_after: Option<u32>,
    /// The methods that would have been accepted (`Allow`), comma-separated; for 405.
    pub allow: Option<&'a str>,
}

impl<'a> Problem<'a> {
    /// A problem without `Retry-After` and `Allow`.
    pub fn new(status: u16, code: &'static str, detail: &'a str) -> Self {
        Self {
            status,
            code,
            detail,
            retry_after: None,
            allow: None,
        }
    }

    /// Appends the answer, with the headers that let a page of another origin read it.
    pub fn answer(&self, terms: Terms, cors: &Cors, out: &mut Vec<u8>) {
        let mut head = cors.write(Head::new(out, terms, self.status));
        head = head
            .header("Content-Type", "application/problem+json")
            .header("Cache-Control", "no-store");
        if self.status == 401 {
            head = head.header("WWW-Authenticate", "Bearer");
        }
        if self.status == 426 {
            // RFC 6455, 4.2.2: the versions that are spoken here; RFC 9110, 15.5.22: the protocol.
            head = head
                .header("Upgrade", "websocket")
                .header("Sec-WebSocket-Version", "13");
        }
        if let Some(seconds) = self.retry_after {
            head = head.number("Retry-After", seconds.into());
        }
        if let Some(methods) = self.allow {
            head = head.header("Allow", methods);
        }
        head.body(self.json().as_bytes());
    }

    fn json(&self) -> String {
        let detail = serde_json::Value::from(self.detail);
        let Self { status, code, .. } = self;
        let title = reason(*status);
        // Code and title are words of ours that need no escaping.
        format!(
            r#"{{"type":"about:blank#{code}","title":"{title}","status":{status},"detail":{detail},"code":"{code}"}}"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(problem: Problem<'_>) -> (String, serde_json::Value) {
        let mut out = Vec::new();
        problem.answer(
            Terms {
                keep_alive: true,
                ..Terms::CLOSE
            },
            &Cors::default(),
            &mut out,
        );
        let out = String::from_utf8(out).unwrap();
        let (head, body) = out.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        (head.to_owned(), serde_json::from_str(body).unwrap())
    }

    #[test]
    fn a_problem_has_the_fields_of_the_protocol() {
        let (head, body) = parts(Problem::new(404, "not_found", "no \"path\"\nlike this"));
        assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n"));
        assert!(head.contains("Content-Type: application/problem+json"));
        assert_eq!(
            body,
            serde_json::json!({"type": "about:blank#not_found", "title": "Not Found", "status": 404,
                "detail": "no \"path\"\nlike this", "code": "not_found"})
        );
    }

    #[test]
    fn a_problem_says_what_would_help() {
        assert!(
            parts(Problem::new(401, "unauthorized", ""))
                .0
                .contains("WWW-Authenticate: Bearer")
        );
        let wait = Problem {
            retry_after: Some(7),
            ..Problem::new(503, "unavailable", "")
        };
        assert!(parts(wait).0.contains("Retry-After: 7"));
        let method = Problem {
            allow: Some("GET, POST"),
            ..Problem::new(405, "method_not_allowed", "")
        };
        assert!(parts(method).0.contains("Allow: GET, POST"));
        let version = parts(Problem::new(426, "bad_request", "")).0;
        assert!(version.contains("Upgrade: websocket\r\n"));
        assert!(version.contains("Sec-WebSocket-Version: 13"));
    }
}
