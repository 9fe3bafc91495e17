//! Channels: history, retained values, members, lists.

use std::fmt::Write as _;

use cometserver_core::Time;
use cometserver_core::channel::ChannelName;
use cometserver_core::fanout::Begin;
use cometserver_core::hub::{HistoryQuery, Hub};
use cometserver_core::protocol::native::{self};
use cometserver_core::publication::{Body, Kind, Publication};

use super::{Answer, Pair, Refused, Text, begin, bytes, flag, number, pattern, text};
use crate::http::response::Head;
use crate::seed;

/// The most channels in one answer.
pub(super) const CHANNELS: usize = 1000;

/// The most members in one answer.
pub const MEMBERS: usize = 1000;

pub(super) fn history(
    answer: Answer<'_>,
    name: &ChannelName,
    parameters: &[Pair<'_>],
) -> Result<(), Refused> {
    let hub = &answer.shared.hub;
    let since = match begin(hub, text(parameters, "since").unwrap_or("earliest"))? {
        Begin::Now => Some(cometserver_core::hub::Start {
            position: hub.now(),
            ..Default::default()
        }),
        Begin::Earliest => None,
        Begin::At(start) => Some(start),
    };
    let limit = number(parameters, "limit")?.map_or(0, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let query = HistoryQuery {
        since,
        limit,
        reverse: flag(parameters, "reverse"),
    };
    let mut body = Vec::with_capacity(256);
    history_object(hub, name, query, answer.now, &mut body);
    body.push(b'}');
    answer.json(200, &body);
    Ok(())
}

/// A channel's history as an object, open at its end.
pub(super) fn history_object(
    hub: &Hub,
    name: &ChannelName,
    query: HistoryQuery,
    now: Time,
    out: &mut Vec<u8>,
) {
    out.push(b'{');
    history_members(hub, name, query, now, out);
}

/// The same without the opening brace.
pub fn history_members(hub: &Hub, name: &ChannelName, query: HistoryQuery, now: Time, out: &mut Vec<u8>) {
    native::channel_member(name.as_bytes(), out);
    let Some(history) = hub.history(name, query, now) else {
        let lost = query.since.is_some_and(|start| start.lost_memory);
        let _ = write!(
            Text(out),
            ",\"epoch\":\"0\",\"offset\":0,\"gap\":{lost},\"publications\":[],\"cursor\":\""
        );
        hub.cursor(hub.now()).write(out);
        out.push(b'"');
        return;
    };
    let (epoch, offset, gap) = (history.channel.epoch, history.offset, history.gap);
    let _ = write!(
        Text(out),
        ",\"epoch\":\"{epoch}\",\"offset\":{offset},\"gap\":{gap},\"publications\":["
    );
    for (index, publication) in history.publications.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let place = publication.place_in(history.channel.id).unwrap_or(0);
        native::object(publication, place, out);
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"cursor\":\"");
    hub.cursor(history.at).write(out);
    out.push(b'"');
}

/// The retained value, with the token of the old wire if it `owns` the site's values.
pub(super) fn retained(
    answer: Answer<'_>,
    name: &ChannelName,
    owns: bool,
    parameters: &[Pair<'_>],
) -> Result<(), Refused> {
    let publication =
        answer.shared.hub.retained(name).ok_or_else(|| {
            Refused::not_found("nothing is retained in this channel: publish with `retain`")
        })?;
    if flag(parameters, "raw") {
        if let Body::Message { payload, .. } = &publication.body {
            let kind = match payload.kind() {
                Kind::Json => "application/json",
                Kind::Text => "text/plain; charset=utf-8",
                Kind::Binary => "application/octet-stream",
            };
            let head = answer.cors.write(Head::new(answer.out, answer.terms, 200));
            // What somebody published must not become a page of this origin.
            let head = head
                .header("Content-Type", kind)
                .header("X-Content-Type-Options", "nosniff");
            head.header("Cache-Control", "no-store").body(payload.bytes());
        }
        return Ok(());
    }
    let mut body = Vec::with_capacity(256);
    native::object(&publication, publication_place(&publication, name), &mut body);
    if owns {
        seed::token_member(&publication, &mut body);
    }
    body.push(b'}');
    answer.json(200, &body);
    Ok(())
}

pub(super) fn publication_place(publication: &Publication, name: &ChannelName) -> usize {
    publication
        .places
        .iter()
        .position(|place| place.channel.name == *name)
        .unwrap_or(0)
}

pub(super) fn presence(
    answer: Answer<'_>,
    name: &ChannelName,
    parameters: &[Pair<'_>],
) -> Result<(), Refused> {
    let limit = number(parameters, "limit")?.map_or(MEMBERS, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let mut body = b"{".to_vec();
    presence_members(&answer.shared.hub, name, limit, &mut body);
    body.push(b'}');
    answer.json(200, &body);
    Ok(())
}

/// Channel, count, members and cursor, as members of an object: the first members by name, at most `limit`, and
/// `"truncated":true` if there are more.
pub fn presence_members(hub: &Hub, name: &ChannelName, limit: usize, out: &mut Vec<u8>) {
    let members = hub.members(name, limit.min(MEMBERS));
    native::channel_member(name.as_bytes(), out);
    let _ = write!(Text(out), ",\"count\":{}", members.count);
    if members.members.len() < members.count {
        out.extend_from_slice(b",\"truncated\":true");
    }
    out.extend_from_slice(b",\"members\":[");
    for (index, (user, member)) in members.members.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"user\":");
        native::json_string(user, out);
        let _ = write!(Text(out), ",\"connections\":{}", member.connections);
        if let Some(info) = &member.info {
            out.extend_from_slice(b",\"info\":");
            out.extend_from_slice(info);
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"cursor\":\"");
    hub.cursor(members.at).write(out);
    out.push(b'"');
}

pub(super) fn channels(answer: Answer<'_>, parameters: &[Pair<'_>]) -> Result<(), Refused> {
    let wanted = bytes(parameters, "pattern")
        .map(|text| pattern(text, answer.settings))
        .transpose()?;
    let limit = number(parameters, "limit")?.map_or(100, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let after = number(parameters, "after")?.unwrap_or(0);
    let (with_values, only_retained) = (flag(parameters, "values"), flag(parameters, "retained"));
    let (found, next) = answer
        .shared
        .hub
        .channels(wanted.as_ref(), after, limit.clamp(1, CHANNELS));
    let mut body = b"{\"channels\":[".to_vec();
    let mut first = true;
    for summary in found
        .iter()
        .filter(|summary| !only_retained || summary.retained.is_some())
    {
        if !std::mem::take(&mut first) {
            body.push(b',');
        }
        body.push(b'{');
        native::channel_member(summary.channel.name.as_bytes(), &mut body);
        let _ = write!(
            Text(&mut body),
            ",\"offset\":{},\"publications\":{},\"bytes\":{},\"listened\":{},\"members\":{},\"retained\":",
            summary.offset,
            summary.publications,
            summary.bytes,
            summary.listened,
            summary.members,
        );
        body.extend_from_slice(if summary.retained.is_some() {
            b"true"
        } else {
            b"false"
        });
        if let Some(publication) = summary.retained.as_ref().filter(|_| with_values) {
            body.extend_from_slice(b",\"value\":");
            native::object(
                publication,
                publication_place(publication, &summary.channel.name),
                &mut body,
            );
            // Only who may see all channels comes here.
            seed::token_member(publication, &mut body);
            body.push(b'}');
        }
        body.push(b'}');
    }
    body.extend_from_slice(b"],\"next\":");
    match next {
        Some(next) => native::json_number(next, &mut body),
        None => body.extend_from_slice(b"null"),
    }
    body.push(b'}');
    answer.json(200, &body);
    Ok(())
}
