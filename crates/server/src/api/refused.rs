//! A request that is refused.

use std::borrow::Cow;
use std::fmt::Write as _;

use cometserver_core::action::Action;
use cometserver_core::broker::BrokerError;
use cometserver_core::grant::Grant;
use cometserver_core::hub::{ListenError, PublishError};
use cometserver_core::protocol::native::command::RequestError;
use cometserver_core::protocol::native::{self};
use cometserver_core::quota::OverQuota;

use super::Text;
use crate::http::cors::Cors;
use crate::http::problem::Problem;
use crate::http::response::Terms;
use crate::metrics::{Refusal, ShardMetrics};

/// A request that is refused: answered as a problem.
#[derive(Debug)]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// The code of `docs/protocol.md`.
    pub code: &'static str,
    /// What to do.
    pub detail: Cow<'static, str>,
    /// The methods that the path takes.
    pub allow: Option<String>,
    /// When to try again, in seconds.
    pub retry_after: Option<u32>,
}

impl Refused {
    /// With a status, a code, and what to do.
    pub fn new(status: u16, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            allow: None,
            retry_after: None,
        }
    }

    /// Something is missing or malformed.
    pub fn bad(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "bad_request", detail)
    }

    /// There is no such thing.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(404, "not_found", detail)
    }

    /// Later, please.
    pub fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(503, "unavailable", detail)
        }
    }

    /// Counts it.
    pub fn count(&self, metrics: &ShardMetrics) {
        if let Some(refusal) = Refusal::from_code(self.code) {
            metrics.refused.of(refusal).add(1);
        }
    }

    /// As the answer to a request.
    pub fn answer(&self, terms: Terms, cors: &Cors, out: &mut Vec<u8>) {
        let mut problem = Problem::new(self.status, self.code, &self.detail);
        problem.allow = self.allow.as_deref();
        problem.retry_after = self.retry_after;
        problem.answer(terms, cors, out);
    }

    /// As the member of a list of results.
    pub fn member(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"error\":{\"code\":");
        native::json_string(self.code, out);
        let _ = write!(Text(out), ",\"status\":{},\"detail\":", self.status);
        native::json_string(&self.detail, out);
        out.extend_from_slice(b"}}");
    }
}

impl From<RequestError> for Refused {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::TooLarge(_) => Self::new(413, "too_large", error.to_string()),
            _ => Self::bad(error.to_string()),
        }
    }
}

impl From<PublishError> for Refused {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Conflict => Self::new(409, "conflict", error.to_string()),
            PublishError::TooManyChannels(_) | PublishError::Quota(_) => {
                Self::new(429, "limit_reached", error.to_string())
            }
            PublishError::NoChannel => Self::bad(error.to_string()),
            PublishError::Broker(error) => Self::from(error),
            _ => Self::unavailable(error.to_string()),
        }
    }
}

impl From<BrokerError> for Refused {
    fn from(error: BrokerError) -> Self {
        match error {
            // A retry at once may publish twice: whoever cannot have that uses an idempotency key.
            BrokerError::Unknown(_) => Self::new(503, "unknown_outcome", error.to_string()),
            _ => Self::unavailable(error.to_string()),
        }
    }
}

impl From<OverQuota> for Refused {
    fn from(error: OverQuota) -> Self {
        Self::new(429, "limit_reached", error.to_string())
    }
}

impl From<ListenError> for Refused {
    fn from(error: ListenError) -> Self {
        Self::new(429, "limit_reached", error.to_string())
    }
}

/// What a grant lacks: a token, or a better one.
pub fn lacking(grant: &Grant, action: Action) -> Refused {
    if grant.is_anonymous() {
        return Refused::new(
            401,
            "unauthorized",
            format!("this needs a key or a token that allows `{action}`"),
        );
    }
    Refused::new(
        403,
        "forbidden",
        format!("the token or key does not allow `{action}` here"),
    )
}
