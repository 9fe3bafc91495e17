//! Entity tags as a client sends them back, perhaps changed on the way.
//!
//! What compresses an answer marks its tag (`"x-gzip"`, `"x;gzip"`, `W/"x"`), and not all of it takes the mark off again.

use super::Request;

/// The tags of `If-None-Match`, in order, without what only surrounds them: `W/`, quotes, white space. Marks that were
/// put behind a tag within its quotes are still there. `*` comes as it is.
pub fn known_tags<'r>(request: &Request<'r>) -> impl Iterator<Item = &'r [u8]> {
    request
        .headers_all("if-none-match")
        // A comma within quotes parts a tag that is not ours.
        .flat_map(|list| list.split(|byte| *byte == b','))
        .map(opaque)
        .filter(|tag| !tag.is_empty())
}

fn opaque(tag: &[u8]) -> &[u8] {
    let tag = tag.trim_ascii();
    let tag = tag
        .strip_prefix(b"W/")
        .or_else(|| tag.strip_prefix(b"w/"))
        .unwrap_or(tag);
    let tag = tag.strip_prefix(b"\"").unwrap_or(tag);
    tag.strip_suffix(b"\"").unwrap_or(tag)
}

/// The tag and what may be left of it without the marks behind it, longest first: a mark begins with what is no letter or
/// digit. At most `most` bytes are looked at; a longer tag is none of ours.
pub fn without_marks(tag: &[u8], most: usize) -> impl Iterator<Item = &[u8]> {
    let tag = if tag.len() > most { &[] } else { tag };
    let cuts = (1..tag.len())
        .rev()
        .filter(|at| !tag[*at].is_ascii_alphanumeric());
    std::iter::once(tag).chain(cuts.map(|at| &tag[..at]))
}
