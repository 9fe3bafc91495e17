//! Amounts on the command line, with their unit as in the configuration: `90s`, `64KiB`.

use std::time::Duration;

/// Parses a time such as `250ms`, `90s`, `5m`, `1h`, `7d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let units = [
        ("ms", 1),
        ("s", 1_000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    let milliseconds = amount(text, &units).ok_or("expected a time such as 90s, 5m, 1h or 7d")?;
    Ok(Duration::from_millis(milliseconds))
}

/// Parses a size such as `100B`, `4KiB`, `1MiB`; a number alone is bytes.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("B", 1), ("", 1)];
    let bytes = amount(text, &units).and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| "expected a size such as 100B, 4KiB or 1MiB".to_owned())
}

/// A size for people: `17 B`, `4.0 KiB`, `1.3 GiB`.
pub(super) fn shown(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        // What would be shown as 1024.0 is one of the next.
        if size < 1023.95 {
            break;
        }
        (size, unit) = (size / 1024.0, larger);
    }
    match unit {
        "B" => format!("{bytes} B"),
        _ => format!("{size:.1} {unit}"),
    }
}

fn amount(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_the_unit_that_leaves_few_digits() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (3 << 29, "1.5 GiB"),
            (5 << 50, "5120.0 TiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(shown(bytes), text);
        }
    }

    #[test]
    fn amounts_need_a_number_and_a_known_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(size("4KiB"), Ok(4096));
        assert_eq!(size("100"), Ok(100));
        for bad in [
            "",
            "1",
            "s",
            "1 s",
            "-1s",
            "1y",
            "99999999999999999999s",
            "99999999999999999d",
            "é",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for bad in ["", "KiB", "1kb", "1GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
