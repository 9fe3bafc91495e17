//! What the check of JSON takes, serde_json reads, and the other way round: random texts of what JSON is made of, whole and cut.
#![allow(clippy::unwrap_used)] // all of this is test, helpers included

use cometserver_core::json::{self, JsonError, MOST_DEPTH};
use proptest::prelude::*;
use serde_json::Value;

/// The most brackets that the server puts around a value.
const AROUND: usize = 4;

/// What JSON texts are made of, good and bad: any order of them is tried.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    " ",
    "\n",
    "\"",
    "\"a\"",
    "\"\":",
    "\\",
    "\\\"",
    "\\u",
    "\\u0041",
    "\\ud83d",
    "\\uDE00",
    "\\ud83d\\ude00",
    "\"\\ud83d\"",
    "\"\\ude00\\ud83d\"",
    "\"\\u00e9\"",
    "0",
    "1",
    "-",
    "+",
    ".",
    "e",
    "E",
    "12",
    "0.5",
    "1e5",
    "1e400",
    "-1E309",
    "1e-400",
    "0e999",
    "123456789012345678901234567890",
    "true",
    "false",
    "null",
    "tru",
    "é",
    "😀",
    "\u{1}",
    "\u{feff}",
    "/",
    "'",
];

/// JSON that is right but for what readers refuse: half characters, too large numbers, any depth.
fn nearly() -> impl Strategy<Value = String> {
    let string = prop::collection::vec(
        prop::sample::select(vec![
            "a",
            "é",
            "\\n",
            "\\u0001",
            "\\ud83d\\ude00",
            "\\ud83d",
            "\\udc00",
            "\\\\",
            "[",
            "{",
        ]),
        0..4,
    )
    .prop_map(|parts| format!("\"{}\"", parts.concat()));
    let number = (any::<i64>(), 0..10_000_u32, -420..420_i32)
        .prop_map(|(whole, part, exponent)| format!("{whole}.{part}e{exponent}"));
    let leaf = prop_oneof![
        string.clone(),
        number,
        any::<u64>().prop_map(|number| number.to_string()),
        prop::sample::select(vec!["true", "false", "null", "0", "-0.0"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(5, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(" , "))),
            prop::collection::vec((string.clone(), inner.clone()), 0..4).prop_map(|members| {
                let members: Vec<_> = members
                    .iter()
                    .map(|(key, value)| format!("{key}:{value}"))
                    .collect();
                format!("{{{}}}", members.join(","))
            }),
            (inner, 1..130_usize).prop_map(|(inner, depth)| "[".repeat(depth) + &inner + &"]".repeat(depth)),
        ]
    })
}

/// A text is taken exactly if serde_json reads it, unless it is too deep; and what is taken it reads in the deepest envelope.
fn agrees_with_serde(text: &str) -> Result<(), TestCaseError> {
    let read: Result<Value, _> = serde_json::from_str(text);
    match json::check(text, MOST_DEPTH) {
        Ok(()) => {
            prop_assert!(read.is_ok(), "{text} was taken, but {}", read.unwrap_err());
            let wrapped = format!("{}{text}{}", "[".repeat(AROUND), "]".repeat(AROUND));
            prop_assert!(
                serde_json::from_str::<Value>(&wrapped).is_ok(),
                "{text} in an envelope"
            );
        }
        Err(JsonError::Depth { .. }) => {}
        Err(error) => prop_assert!(read.is_err(), "{text} was refused: {error}"),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_pieces_in_any_order_are_taken_exactly_if_they_are_read(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..12)
    ) {
        agrees_with_serde(&pieces.concat())?;
    }

    #[test]
    fn what_is_nearly_right_is_taken_exactly_if_it_is_read(text in nearly()) {
        agrees_with_serde(&text)?;
    }

    #[test]
    fn what_is_cut_or_changed_is_taken_exactly_if_it_is_read(text in nearly(), at in any::<prop::sample::Index>(), piece in prop::sample::select(PIECES)) {
        let at = (0..=at.index(text.len() + 1)).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        agrees_with_serde(&text[..at])?;
        agrees_with_serde(&format!("{}{piece}{}", &text[..at], &text[at..]))?;
    }

    #[test]
    fn any_text_at_all_is_taken_exactly_if_it_is_read(text in any::<String>()) {
        agrees_with_serde(&text)?;
    }
}
