//! Channels as they are shown: history, values, members, lists.

use std::fmt::Write as _;

use cometserver_core::channel::ChannelName;
use cometserver_core::hub::{ChannelSummary, History, Hub};
use cometserver_core::protocol::native::{self};
use cometserver_core::publication::Publication;

use super::{Answer, Pair, Refused, Text, number};
use crate::seed;

/// The most members in one answer.
pub const MEMBERS: usize = 1000;

/// A channel's history as members of an object.
pub fn history_members(hub: &Hub, history: &History, out: &mut Vec<u8>) {
    native::channel_member(history.channel.name.as_bytes(), out);
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

/// The same of a channel that does not exist; `lost`: it may have had something that is gone.
pub fn no_history_members(hub: &Hub, name: &ChannelName, lost: bool, out: &mut Vec<u8>) {
    native::channel_member(name.as_bytes(), out);
    let _ = write!(
        Text(out),
        ",\"epoch\":\"0\",\"offset\":0,\"gap\":{lost},\"publications\":[],\"cursor\":\""
    );
    hub.cursor(hub.now()).write(out);
    out.push(b'"');
}

/// A retained value as an object, open at its end, with the token of the old wire for who `owns` the site's values.
pub fn value_object(publication: &Publication, name: &ChannelName, owns: bool, out: &mut Vec<u8>) {
    native::object(publication, publication_place(publication, name), out);
    if owns {
        seed::token_member(publication, out);
    }
}

/// A channel in a list, with its value if that is wanted.
pub fn summary_object(summary: &ChannelSummary, value: Option<&Publication>, out: &mut Vec<u8>) {
    out.push(b'{');
    native::channel_member(summary.name.as_bytes(), out);
    let _ = write!(
        Text(out),
        ",\"offset\":{},\"publications\":{},\"bytes\":{},\"listened\":{},\"members\":{},\"retained\":{}",
        summary.offset,
        summary.publications,
        summary.bytes,
        summary.listened,
        summary.members,
        summary.retained,
    );
    if let Some(publication) = value {
        out.extend_from_slice(b",\"value\":");
        // Only who may see all channels is shown this.
        value_object(publication, &summary.name, true, out);
        out.push(b'}');
    }
    out.push(b'}');
}

/// The end of a list: where it goes on.
pub fn list_end(next: Option<u64>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"],\"next\":");
    match next {
        Some(next) => native::json_number(next, out),
        None => out.extend_from_slice(b"null"),
    }
}

fn publication_place(publication: &Publication, name: &ChannelName) -> usize {
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
