//! The file of what memory kept: it says what was written, and whatever else it holds is refused without harm.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use bytes::Bytes;
use cometserver::kept::FILE;
use cometserver::kept::file::{
    ReadError, WriteError, Writer, read, read_from, read_incarnation, write_incarnation,
};
use cometserver::kept::format::{FRAME, Framed, HEADER, VERSION, decode, put};
use cometserver_core::channel::{ChannelName, Realm};
use cometserver_core::cursor::Marks;
use cometserver_core::kept::{
    Channel, Former, Head, History, Kept, Key, Listened, Piece, Place, Publication,
};
use cometserver_core::log::Trimmed;
use cometserver_core::position::{Position, Source};
use cometserver_core::publication::{Attributes, Body, Kind, Payload, Writer as Author};
use proptest::prelude::*;

const MARK: u32 = 0xfeed_beef;

const MOST: u64 = 1 << 20;

fn at(durable: u64, memory: u64) -> Position {
    Position { durable, memory }
}

fn trimmed(durable: u64, memory: u64) -> Trimmed {
    Trimmed {
        durable,
        memory: at(durable, memory),
    }
}

fn channel(name: &[u8], history: Option<History>) -> Piece {
    Piece::Channel(Channel {
        name: ChannelName::in_realm(Realm(3), name).unwrap(),
        epoch: 0x0123_4567_89ab_cdef,
        history,
    })
}

fn publication(memory: u64, kind: Kind, payload: &'static [u8], attributes: Option<Attributes>) -> Piece {
    let place = |channel, in_history, is_value| Place {
        channel,
        offset: 300 + memory,
        in_history,
        is_value,
    };
    Piece::Publication(Publication {
        source: match kind {
            Kind::Json => Source::Durable,
            _ => Source::Memory,
        },
        at: at(200, memory),
        time: 1_700_000_000_000,
        body: Body::Message {
            payload: Payload::stored(kind, Bytes::from_static(payload)).unwrap(),
            attributes: attributes.map(Box::new),
            retain: kind == Kind::Text,
        },
        places: vec![place(0, true, memory == 2), place(1, false, false)],
    })
}

/// A piece of every kind, with all that one can say.
fn pieces() -> Vec<Piece> {
    let rich = Attributes {
        event: Some("event".into()),
        id: Some("id".into()),
        user: Some("user".into()),
        exclude_session: Some("session".into()),
        tags: vec![("tag".into(), "é".into()), ("empty".into(), "".into())],
        writer: Some(Author::Token(Bytes::from_static(b"%22token%22"))),
    };
    vec![
        Piece::Head(Head {
            marks: Marks {
                durable: 77,
                memory: MARK,
            },
            visible: at(200, 1_000),
            former: vec![
                Former { mark: 1, until: 10 },
                Former {
                    mark: u32::MAX,
                    until: 900,
                },
            ],
            durabilities: Some(u64::MAX),
            trimmed: trimmed(5, 700),
            forgotten: trimmed(4, 600),
        }),
        channel(
            b"memory \xff",
            Some(History {
                offset: 302,
                last: at(200, 2),
                trimmed: trimmed(0, 500),
                of_site: true,
            }),
        ),
        channel(b"stored", None),
        publication(1, Kind::Json, br#"{"a":[1,null]}"#, Some(rich)),
        publication(2, Kind::Text, "text \u{1f600}".as_bytes(), None),
        publication(3, Kind::Binary, &[0, 255, 7], None),
        Piece::Listened(Listened {
            realm: Realm(3),
            text: (*b"m*").into(),
            trimmed: trimmed(1, 2),
        }),
        Piece::Key(Key {
            key: "key é".into(),
            digest: u64::MAX - 1,
            time: 1_700_000_000_000,
            at: at(200, 1),
            places: vec![(0, 301), (1, 302)],
        }),
    ]
}

fn kept(pieces: &[Piece]) -> Kept {
    let mut kept = Kept::default();
    pieces.iter().for_each(|piece| kept.add(piece.clone()));
    kept
}

fn write(folder: &Path, pieces: &[Piece]) -> PathBuf {
    let mut writer = Writer::create(folder, MARK, MOST).unwrap();
    pieces.iter().for_each(|piece| writer.add(piece).unwrap());
    let written = writer.finish().unwrap();
    let path = folder.join(FILE);
    assert_eq!(fs::metadata(&path).unwrap().len(), written.bytes);
    path
}

fn whole() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    fs::read(write(folder.path(), &pieces())).unwrap()
}

/// A header that is whole.
static HEAD: LazyLock<Vec<u8>> = LazyLock::new(|| whole()[..HEADER].to_vec());

fn parse(bytes: &[u8]) -> Result<Kept, ReadError> {
    read_from(bytes, bytes.len() as u64)
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), &pieces());
    assert_eq!(read(&path, MOST).unwrap(), Some(kept(&pieces())));
    let names = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 1, "nothing is left beside it");
}

#[test]
fn each_stored_format_is_read_by_this_build() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/memory-v1");
    assert_eq!(
        VERSION, 1,
        "a new format: keep a file of it in tests/fixtures too"
    );
    assert_eq!(read(&path, MOST).unwrap(), Some(kept(&pieces())));
}

#[test]
#[ignore = "writes the fixture of the version that this build writes: never to change one that is there"]
fn write_the_fixture() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/memory-v{VERSION}"));
    fs::write(path, whole()).unwrap();
}

#[test]
fn any_bit_that_is_turned_and_any_end_that_is_cut_off_is_seen() {
    let good = whole();
    for at in 0..good.len() {
        for bit in [1, 0x80] {
            let mut bytes = good.clone();
            bytes[at] ^= bit;
            assert!(parse(&bytes).is_err(), "byte {at}");
        }
        assert!(parse(&good[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn frames_left_out_doubled_exchanged_or_of_another_file_are_seen() {
    let good = whole();
    let mut frames = Vec::new();
    let mut at = HEADER;
    while at < good.len() {
        let length = u32::from_le_bytes(good[at..at + 4].try_into().unwrap()) as usize;
        frames.push(&good[at..at + FRAME + length]);
        at += FRAME + length;
    }
    let join = |frames: &[&[u8]]| parse(&[&good[..HEADER], &frames.concat()].concat());
    assert!(join(&frames).is_ok());
    for index in 0..frames.len() {
        let mut without = frames.clone();
        without.remove(index);
        assert!(join(&without).is_err(), "without {index}");
        let mut doubled = frames.clone();
        doubled.insert(index, frames[index]);
        assert!(join(&doubled).is_err(), "doubled {index}");
        if index > 0 {
            let mut exchanged = frames.clone();
            exchanged.swap(index, index - 1);
            assert!(join(&exchanged).is_err(), "exchanged {index}");
        }
    }
    // Written a second time it is the same to readers, but other bytes.
    let other = whole();
    assert!(parse(&[&other[..HEADER], &good[HEADER..]].concat()).is_err());
}

#[test]
fn a_later_version_is_named_and_not_guessed_at() {
    let mut bytes = whole();
    bytes[8..10].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let check = crc32fast::hash(&bytes[..20]);
    bytes[20..24].copy_from_slice(&check.to_le_bytes());
    let error = parse(&bytes).unwrap_err();
    assert!(matches!(error, ReadError::Newer(2)), "{error}");
    assert!(error.to_string().contains("later version"));
}

#[test]
fn what_is_no_file_or_too_large_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    assert!(matches!(read(&path, MOST), Ok(None)));
    let target = write(folder.path(), &pieces());
    let link = folder.path().join("link");
    symlink(&target, &link).unwrap();
    assert!(read(&link, MOST).is_err(), "a link is not followed");
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(
        matches!(read(&pipe, MOST), Err(ReadError::NoFile)),
        "nobody waits for a writer"
    );
    assert!(read(folder.path(), MOST).is_err());
    let sparse = folder.path().join("sparse");
    fs::File::create(&sparse).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(read(&sparse, MOST), Err(ReadError::TooLarge(_))));
}

#[test]
fn a_length_that_the_file_does_not_have_asks_for_no_memory() {
    let mut bytes = whole();
    bytes[HEADER..HEADER + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(parse(&bytes), Err(ReadError::Damaged(at)) if at == HEADER as u64));
}

#[test]
fn a_file_is_never_larger_than_it_may_be_and_leaves_nothing_behind_if_it_would() {
    let pieces = pieces();
    let length = whole().len() as u64;
    for most in 0..=length + 1 {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(folder.path(), MARK, most).unwrap();
        let added = pieces.iter().try_for_each(|piece| writer.add(piece));
        match added {
            Ok(()) => assert!(writer.finish().unwrap().bytes <= most),
            Err(error) => {
                assert!(matches!(error, WriteError::Full), "{error}");
                assert!(most < length);
                drop(writer);
                assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
            }
        }
    }
}

#[test]
fn keys_that_do_not_fit_are_left_out_and_the_rest_is_whole() {
    let (pieces, folder) = (pieces(), tempfile::tempdir().unwrap());
    let most = whole().len() as u64 - 1;
    let mut writer = Writer::create(folder.path(), MARK, most).unwrap();
    let added = pieces.iter().try_for_each(|piece| writer.add(piece));
    assert!(matches!(added, Err(WriteError::Full)) && writer.has_only_keys_left());
    assert!(writer.finish().unwrap().keys_left);
    let found = read(&folder.path().join(FILE), most).unwrap();
    assert_eq!(found, Some(kept(&pieces[..pieces.len() - 1])));
}

#[test]
fn the_mark_of_the_last_start_is_whole_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mark");
    assert_eq!(read_incarnation(&path), None);
    for mark in [0, 7, u32::MAX] {
        write_incarnation(&path, mark).unwrap();
        assert_eq!(read_incarnation(&path), Some(mark));
    }
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(read_incarnation(&path), None);
        fs::write(&path, &good[..at]).unwrap();
        assert_eq!(read_incarnation(&path), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever a body says, nothing panics, and what is made of it is not much larger than it.
    #[test]
    fn random_bodies_are_read_or_refused(kind in 0..8u8, rest in prop::collection::vec(any::<u8>(), 0..400)) {
        let body = [&[kind][..], &rest].concat();
        if let Some(Framed::Piece(piece)) = decode(&Bytes::from(body.clone())) {
            let entries = match &*piece {
                Piece::Publication(publication) => publication.places.capacity(),
                Piece::Key(key) => key.places.capacity(),
                Piece::Head(head) => head.former.capacity(),
                _ => 0,
            };
            prop_assert!(entries <= 2 * body.len() + 4);
        }
    }

    #[test]
    fn changed_bodies_are_read_or_refused(
        which in 0..8usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut body = Vec::new();
        put(&mut body, &pieces()[which]);
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let _ = decode(&Bytes::from(body.clone()));
        body.truncate(cut.index(body.len()));
        let _ = decode(&Bytes::from(body));
    }

    #[test]
    fn random_files_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        prop_assert!(parse(&bytes).is_err());
        // And behind a header that is whole.
        let bytes = [&HEAD[..], &bytes].concat();
        prop_assert!(parse(&bytes).is_err());
    }
}
