//! Where a client that wants to listen begins: what it had seen last, as its kind of client says it.

use cometserver_core::cursor::Marks;
use cometserver_core::fanout::Begin;
use cometserver_core::hub::Start;
use cometserver_core::{Cursor, Position};

use super::Shard;
use super::requests::Parameters;
use crate::api::{self, Refused};
use crate::endpoint::Endpoint;
use crate::http::Request;
use crate::http::entity_tag::{known_tags, without_marks};

/// The names under which replacements of a browser's EventSource, which cannot set a header, put its `Last-Event-ID` into
/// the query.
const LAST_EVENT_ID: [&[u8]; 3] = [b"lastEventId", b"lastEventID", b"Last-Event-ID"];

/// The longest entity tag in which a cursor is looked for, in bytes: a cursor has up to 40, marks some more.
const MAX_TAG: usize = 80;

/// Where a client begins.
pub(super) struct Beginning {
    pub(super) begin: Begin,
    /// The cursor that the client came with: whoever is sent away before it was told of a loss keeps that.
    pub(super) cursor: Option<Cursor>,
    /// It was taken from `If-None-Match`: if there is nothing new, 304 says so.
    pub(super) is_conditional: bool,
}

impl Shard {
    /// What a client that reconnects says it saw last wins: it repeats its first URL for ever.
    pub(super) fn where_to_begin(
        &self,
        endpoint: Endpoint,
        request: &Request<'_>,
        parameters: &Parameters<'_>,
    ) -> Result<Beginning, Refused> {
        let own = api::bytes(parameters, "cursor");
        let known = match (endpoint, own) {
            (Endpoint::Sse, _) => last_event_id(request, parameters).map(|id| read(id).unwrap_or(NOWHERE)),
            (Endpoint::Poll, None) => known_tags(request).find_map(cursor_within),
            _ => None,
        };
        if let Some(cursor) = known {
            let begin = match cursor == NOWHERE {
                // A browser shows an error once and gives up for ever; a cursor of ours it cannot be, so all is a gap.
                true => Begin::At(Start {
                    lost_memory: true,
                    lost_durable: true,
                    ..Start::default()
                }),
                false => Begin::At(self.hub.resolve(&cursor)),
            };
            return Ok(Beginning {
                begin,
                cursor: Some(cursor),
                is_conditional: endpoint == Endpoint::Poll,
            });
        }
        // What is not UTF-8 is no cursor either, and must not pass for `now`.
        let text = std::str::from_utf8(own.unwrap_or(b"now")).unwrap_or("\u{fffd}");
        Ok(Beginning {
            begin: api::begin(&self.hub, text)?,
            cursor: text.parse().ok(),
            is_conditional: false,
        })
    }
}

/// The cursor of a client that comes with something that cannot be read.
const NOWHERE: Cursor = Cursor {
    marks: Marks {
        durable: 0,
        memory: 0,
    },
    position: Position {
        durable: 0,
        memory: 0,
    },
};

/// What an EventSource saw last. Its header wins; of several in the query the last one, as what replaces an EventSource adds
/// it behind what the page wrote. Empty is what some send when they have none.
fn last_event_id<'a>(request: &Request<'a>, parameters: &'a Parameters<'_>) -> Option<&'a [u8]> {
    let header = request.header("last-event-id");
    header.filter(|id| !id.is_empty()).or_else(|| {
        let named = parameters.iter().rev();
        let mut ids = named.filter(|(name, id)| LAST_EVENT_ID.contains(&&**name) && !id.is_empty());
        ids.next().map(|(_, id)| &**id)
    })
}

fn read(bytes: &[u8]) -> Option<Cursor> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// The cursor in an entity tag. There is one at most: no cursor is the beginning of another.
fn cursor_within(tag: &[u8]) -> Option<Cursor> {
    without_marks(tag, MAX_TAG).find_map(read)
}
