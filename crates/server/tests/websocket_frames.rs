//! The WebSocket frame layer: what is understood, what is refused, and that cutting the bytes changes nothing.
#![allow(missing_docs)]

use std::ops::ControlFlow;

use cometserver::websocket::{self, Decoder, Event, Failure, Limits, Opcode};
use proptest::prelude::*;

const LIMITS: Limits = Limits { max_message: 100_000 };
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// An [`Event`] that can be kept.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Seen {
        match event {
            Event::Text(text) => Seen::Text(text.into()),
            Event::Binary(bytes) => Seen::Binary(bytes.into()),
            Event::Ping(bytes) => Seen::Ping(bytes.into()),
            Event::Pong(bytes) => Seen::Pong(bytes.into()),
            Event::Close(code, reason) => Seen::Close(code, reason.into()),
        }
    }
}

/// Feeds `pieces` one after the other and returns the events, and the failure that ended them.
fn decode_with<'a>(
    decoder: &mut Decoder,
    limits: Limits,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Seen>, Option<Failure>) {
    let mut seen = Vec::new();
    for piece in pieces {
        let outcome = decoder.decode(&mut piece.to_vec(), limits, &mut |event| {
            seen.push(event.into());
            ControlFlow::Continue(())
        });
        if let Err(failure) = outcome {
            return (seen, Some(failure));
        }
    }
    (seen, None)
}

fn decode(bytes: &[u8]) -> (Vec<Seen>, Option<Failure>) {
    decode_with(&mut Decoder::new(), LIMITS, [bytes])
}

fn decode_bytewise(bytes: &[u8]) -> (Vec<Seen>, Option<Failure>) {
    decode_with(&mut Decoder::new(), LIMITS, bytes.chunks(1))
}

fn masked(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    websocket::client_frame(opcode, payload, MASK, &mut out);
    out[0] = if fin { out[0] } else { out[0] & 0x7f };
    out
}

fn text(payload: &str) -> Seen {
    Seen::Text(payload.into())
}

// What is understood

#[test]
fn a_server_reads_what_a_client_writes_and_the_other_way_round() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
        let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let mut to_server = Vec::new();
        websocket::client_frame(Opcode::Binary, &payload, MASK, &mut to_server);
        assert_eq!(decode(&to_server), (vec![Seen::Binary(payload.clone())], None));
        let mut to_client = Vec::new();
        websocket::frame(Opcode::Binary, &payload, &mut to_client);
        let (seen, failure) = decode_with(&mut Decoder::for_client(), LIMITS, [&to_client[..]]);
        assert_eq!((seen, failure), (vec![Seen::Binary(payload)], None));
    }
}

#[test]
fn control_frames_come_between_fragments() {
    let bytes = [
        masked(false, Opcode::Text, "a€".as_bytes()),
        masked(true, Opcode::Ping, b"1"),
        masked(false, Opcode::Continuation, b""),
        masked(true, Opcode::Pong, b""),
        masked(true, Opcode::Continuation, b"z"),
        masked(true, Opcode::Text, b"next"),
    ]
    .concat();
    let expected = vec![
        Seen::Ping(b"1".to_vec()),
        Seen::Pong(Vec::new()),
        text("a€z"),
        text("next"),
    ];
    assert_eq!(decode(&bytes), (expected.clone(), None));
    assert_eq!(decode_bytewise(&bytes), (expected, None));
}

#[test]
fn a_character_may_be_cut_by_fragments() {
    let bytes = [
        masked(false, Opcode::Text, b"\xf0\x9f"),
        masked(true, Opcode::Continuation, b"\x98\x80"),
    ]
    .concat();
    assert_eq!(decode(&bytes), (vec![text("😀")], None));
}

#[test]
fn header_and_payload_may_come_apart() {
    let bytes = [
        masked(true, Opcode::Text, b"first"),
        masked(true, Opcode::Ping, b"ping"),
        masked(true, Opcode::Binary, b"second"),
    ]
    .concat();
    let expected = vec![
        text("first"),
        Seen::Ping(b"ping".to_vec()),
        Seen::Binary(b"second".to_vec()),
    ];
    for cut in 0..=bytes.len() {
        let mut decoder = Decoder::new();
        let outcome = decode_with(&mut decoder, LIMITS, [&bytes[..cut], &[], &bytes[cut..]]);
        assert_eq!(outcome, (expected.clone(), None), "cut at {cut}");
        assert_eq!(decoder.held_bytes(), 0);
    }
}

#[test]
fn a_whole_message_is_handed_out_where_it_lies() {
    let mut input = masked(true, Opcode::Text, b"Hello");
    let lies = input.as_ptr_range();
    let mut decoder = Decoder::new();
    let mut given = None;
    let outcome = decoder.decode(&mut input, LIMITS, &mut |event| {
        let Event::Text(text) = event else {
            panic!("{event:?}")
        };
        given = Some(text.as_ptr());
        ControlFlow::Continue(())
    });
    assert_eq!(outcome, Ok(()));
    assert!(lies.contains(&given.unwrap()));
    assert_eq!(decoder.held_bytes(), 0);
}

#[test]
fn memory_is_given_back_after_every_message() {
    let bytes = masked(true, Opcode::Binary, &[7; 50_000]);
    let mut decoder = Decoder::new();
    decode_with(&mut decoder, LIMITS, [&bytes[..20_000]]);
    assert!(
        (20_000..51_000).contains(&decoder.held_bytes()),
        "{}",
        decoder.held_bytes()
    );
    let (seen, _) = decode_with(&mut decoder, LIMITS, [&bytes[20_000..]]);
    assert_eq!(seen, [Seen::Binary(vec![7; 50_000])]);
    assert_eq!(decoder.held_bytes(), 0);
}

#[test]
fn a_length_that_is_only_announced_takes_no_memory() {
    let bytes = masked(true, Opcode::Binary, &[7; 90_000]);
    let mut decoder = Decoder::new();
    decode_with(&mut decoder, LIMITS, [&bytes[..15]]);
    assert!(decoder.held_bytes() < 5_000, "{}", decoder.held_bytes());
}

#[test]
fn nothing_is_read_after_a_close() {
    for (payload, expected) in [
        (&b""[..], Seen::Close(None, String::new())),
        (b"\x03\xe8", Seen::Close(Some(1000), String::new())),
        (b"\x0f\xa0bye", Seen::Close(Some(4000), "bye".into())),
    ] {
        let bytes = [
            masked(true, Opcode::Close, payload),
            masked(true, Opcode::Text, b"late"),
            vec![0xff],
        ]
        .concat();
        let mut decoder = Decoder::new();
        assert_eq!(
            decode_with(&mut decoder, LIMITS, [&bytes[..], &bytes[..]]),
            (vec![expected], None)
        );
        assert!(decoder.is_finished());
    }
}

#[test]
fn nothing_is_read_after_the_reader_broke_off() {
    let message = masked(true, Opcode::Text, b"a");
    let mut decoder = Decoder::new();
    let mut count = 0;
    for _ in 0..2 {
        let outcome = decoder.decode(&mut message.repeat(2), LIMITS, &mut |_| {
            count += 1;
            ControlFlow::Break(())
        });
        assert_eq!(outcome, Ok(()));
    }
    assert_eq!((count, decoder.is_finished()), (1, true));
}

#[test]
fn nothing_is_read_after_a_failure() {
    let mut decoder = Decoder::new();
    let begun = masked(false, Opcode::Text, b"begun");
    let (_, failure) = decode_with(&mut decoder, LIMITS, [&begun[..], &begun[..]]);
    assert_eq!(failure.unwrap().code, 1002);
    assert_eq!(decoder.held_bytes(), 0);
    let late = masked(true, Opcode::Text, b"late");
    assert_eq!(decode_with(&mut decoder, LIMITS, [&late[..]]), (Vec::new(), None));
}

// What is refused

/// A frame with a header of our own making; the mask is zero, so the payload is as it reads.
fn raw(head: &[u8], payload: &[u8]) -> Vec<u8> {
    [head, &[0; 4], payload].concat()
}

#[test]
fn every_broken_rule_has_its_code_however_the_bytes_come() {
    let begun = masked(false, Opcode::Text, b"a");
    let close = |code: u16| masked(true, Opcode::Close, &code.to_be_bytes());
    let mut bad: Vec<(&str, u16, Vec<u8>)> = vec![
        ("unmasked", 1002, vec![0x81, 0x01, b'a']),
        ("RSV1", 1002, raw(&[0xc1, 0x80], b"")),
        ("RSV2", 1002, raw(&[0xa1, 0x80], b"")),
        ("RSV3", 1002, raw(&[0x91, 0x80], b"")),
        ("RSV1 on a ping", 1002, raw(&[0xc9, 0x80], b"")),
        (
            "16-bit length of 125",
            1002,
            raw(&[0x82, 0xfe, 0, 125], &[0; 125]),
        ),
        (
            "64-bit length of 65535",
            1002,
            raw(&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], b""),
        ),
        (
            "top bit of the length",
            1002,
            raw(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], b""),
        ),
        ("ping of 126 bytes", 1002, raw(&[0x89, 0xfe, 0, 126], &[0; 126])),
        ("fragmented ping", 1002, raw(&[0x09, 0x80], b"")),
        ("fragmented close", 1002, raw(&[0x08, 0x80], b"")),
        (
            "continuation of nothing",
            1002,
            masked(true, Opcode::Continuation, b""),
        ),
        (
            "open continuation of nothing",
            1002,
            masked(false, Opcode::Continuation, b""),
        ),
        (
            "text inside a text",
            1002,
            [begun.clone(), masked(true, Opcode::Text, b"")].concat(),
        ),
        (
            "binary inside a text",
            1002,
            [begun.clone(), masked(false, Opcode::Binary, b"")].concat(),
        ),
        ("close of one byte", 1002, masked(true, Opcode::Close, b"\x03")),
        (
            "close with a bad reason",
            1007,
            masked(true, Opcode::Close, b"\x03\xe8\xff"),
        ),
        ("text with a bad byte", 1007, masked(true, Opcode::Text, b"a\xff")),
        (
            "text ends inside a character",
            1007,
            masked(true, Opcode::Text, b"a\xe2\x82"),
        ),
        (
            "fragments end inside one",
            1007,
            [begun.clone(), masked(true, Opcode::Continuation, b"\xe2")].concat(),
        ),
        ("too big", 1009, masked(true, Opcode::Binary, &[0; 100_001])),
        (
            "too big together",
            1009,
            [begun, masked(true, Opcode::Continuation, &[b'a'; 100_000])].concat(),
        ),
        (
            "beyond any memory",
            1009,
            raw(&[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], b""),
        ),
    ];
    bad.extend(
        [3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map(|op| ("unknown opcode", 1002, raw(&[0x80 | op, 0x80], b""))),
    );
    let codes = [
        0,
        1,
        999,
        1004,
        1005,
        1006,
        1015,
        1016,
        1100,
        2000,
        2999,
        5000,
        u16::MAX,
    ];
    bad.extend(codes.map(|code| ("close code", 1002, close(code))));
    for (what, code, bytes) in bad {
        let (seen, failure) = decode(&bytes);
        assert_eq!(
            (&seen[..], failure.map(|failure| failure.code)),
            (&[][..], Some(code)),
            "{what}"
        );
        assert_eq!(decode_bytewise(&bytes), (seen, failure), "{what}");
        assert!(failure.unwrap().reason.len() <= websocket::MAX_CLOSE_REASON);
    }
}

#[test]
fn every_legal_close_code_is_taken() {
    for code in (1000..=1003).chain(1007..=1014).chain([3000, 3999, 4000, 4999]) {
        let bytes = masked(true, Opcode::Close, &u16::to_be_bytes(code));
        assert_eq!(
            decode(&bytes),
            (vec![Seen::Close(Some(code), String::new())], None)
        );
    }
}

#[test]
fn a_client_refuses_masked_frames() {
    let bytes = masked(true, Opcode::Text, b"a");
    let (_, failure) = decode_with(&mut Decoder::for_client(), LIMITS, [&bytes[..]]);
    assert_eq!(failure.unwrap().code, 1002);
}

#[test]
fn a_message_of_exactly_the_limit_passes_and_control_frames_do_not_count() {
    let bytes = [
        masked(false, Opcode::Binary, &[1; 99_999]),
        masked(true, Opcode::Ping, &[2; 125]),
        masked(true, Opcode::Continuation, &[1; 1]),
    ]
    .concat();
    assert_eq!(
        decode(&bytes),
        (
            vec![Seen::Ping(vec![2; 125]), Seen::Binary(vec![1; 100_000])],
            None
        )
    );
}

#[test]
fn empty_fragments_without_end_are_too_many() {
    let endless = [
        masked(false, Opcode::Text, b""),
        masked(false, Opcode::Continuation, b"").repeat(65_536),
    ]
    .concat();
    assert_eq!(decode(&endless).1.map(|failure| failure.code), Some(1009));
}

#[test]
fn a_fault_is_told_at_the_first_byte_that_shows_it() {
    let text = masked(true, Opcode::Text, b"ab\xed\xa0\x80 and more");
    let first_bad = 6 + 3; // header, then "ab\xed" may still become something
    let (_, failure) = decode_with(&mut Decoder::new(), LIMITS, [&text[..first_bad]]);
    assert_eq!(failure, None);
    let (_, failure) = decode_with(&mut Decoder::new(), LIMITS, [&text[..=first_bad]]);
    assert_eq!(failure.unwrap().code, 1007);
    assert_eq!(decode(&[0x83]).1.unwrap().code, 1002, "the opcode alone");
    assert_eq!(decode(&[0x81, 0x05]).1.unwrap().code, 1002, "no mask announced");
    let big = masked(true, Opcode::Binary, &[0; 100_001]);
    assert_eq!(decode(&big[..10]).1.unwrap().code, 1009, "the length alone");
}

// Whatever comes

/// One well-formed message in fragments with control frames between, or a control frame; and what it must become.
fn valid_unit() -> impl Strategy<Value = (Vec<u8>, Vec<Seen>)> {
    let cuts = || prop::collection::vec((0..300_usize, any::<bool>()), 0..4);
    let control = prop::collection::vec(any::<u8>(), 0..=125);
    prop_oneof![
        ("\\PC{0,200}", cuts()).prop_map(|(text, cuts)| fragments(Opcode::Text, text.as_bytes(), &cuts)),
        (prop::collection::vec(any::<u8>(), 0..400), cuts()).prop_map(|(bytes, cuts)| fragments(
            Opcode::Binary,
            &bytes,
            &cuts
        )),
        control.prop_map(|bytes| (masked(true, Opcode::Ping, &bytes), vec![Seen::Ping(bytes)])),
    ]
}

fn fragments(opcode: Opcode, payload: &[u8], cuts: &[(usize, bool)]) -> (Vec<u8>, Vec<Seen>) {
    let (mut bytes, mut seen) = (Vec::new(), Vec::new());
    let (mut rest, mut next) = (payload, opcode);
    for (cut, ping) in cuts {
        let (fragment, after) = rest.split_at((*cut).min(rest.len()));
        bytes.extend(masked(false, next, fragment));
        (rest, next) = (after, Opcode::Continuation);
        if *ping {
            bytes.extend(masked(true, Opcode::Pong, b"between"));
            seen.push(Seen::Pong(b"between".to_vec()));
        }
    }
    bytes.extend(masked(true, next, rest));
    seen.push(match opcode {
        Opcode::Text => Seen::Text(String::from_utf8(payload.to_vec()).expect("made from a string")),
        _ => Seen::Binary(payload.to_vec()),
    });
    (bytes, seen)
}

/// `bytes` in pieces of the given lengths, over and over.
fn pieces<'a>(mut bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for length in lengths.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at((*length).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

proptest! {
    #[test]
    fn valid_bytes_give_the_same_events_however_they_are_cut(
        units in prop::collection::vec(valid_unit(), 0..6),
        lengths in prop::collection::vec(1..200_usize, 1..8),
    ) {
        let bytes: Vec<u8> = units.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let expected: Vec<Seen> = units.into_iter().flat_map(|(_, seen)| seen).collect();
        for cut in [vec![&bytes[..]], pieces(&bytes, &lengths), pieces(&bytes, &[1])] {
            let mut decoder = Decoder::new();
            let outcome = decode_with(&mut decoder, LIMITS, cut);
            prop_assert_eq!(outcome, (expected.clone(), None));
            prop_assert_eq!(decoder.held_bytes(), 0);
        }
    }

    #[test]
    fn damaged_bytes_give_the_same_verdict_however_they_are_cut(
        units in prop::collection::vec(valid_unit(), 1..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        lengths in prop::collection::vec(1..50_usize, 1..8),
        max_message in 0..500_usize,
    ) {
        let mut bytes: Vec<u8> = units.into_iter().flat_map(|(bytes, _)| bytes).collect();
        for (at, with) in damage {
            let at = at.index(bytes.len());
            bytes[at] = with;
        }
        let limits = Limits { max_message };
        let whole = decode_with(&mut Decoder::new(), limits, [&bytes[..]]);
        prop_assert_eq!(&decode_with(&mut Decoder::new(), limits, pieces(&bytes, &lengths)), &whole);
        prop_assert_eq!(&decode_with(&mut Decoder::new(), limits, pieces(&bytes, &[1])), &whole);
    }

    #[test]
    fn any_bytes_at_all_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        lengths in prop::collection::vec(1..50_usize, 1..8),
        client in any::<bool>(),
    ) {
        let new = || if client { Decoder::for_client() } else { Decoder::new() };
        let whole = decode_with(&mut new(), LIMITS, [&bytes[..]]);
        prop_assert_eq!(decode_with(&mut new(), LIMITS, pieces(&bytes, &lengths)), whole);
    }
}
