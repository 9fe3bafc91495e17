//! A host's name as browsers write it: international names in their ASCII form (RFC 3492, `xn--`).
//!
//! Only to tell people what to write: names are neither normalised nor checked as IDNA wants it.

/// The parameters of RFC 3492, 5.
const BASE: u32 = 36;
const T_MIN: u32 = 1;
const T_MAX: u32 = 26;
const SKEW: u32 = 38;
const DAMP: u32 = 700;
const FIRST_BIAS: u32 = 72;
const FIRST_CODE: u32 = 128;

/// The longest label of a name, in bytes.
const LABEL_MAX: usize = 63;

/// The ASCII form of a name, or none if it cannot be told without tables: of marks that combine with the letter before them, or of
/// a label that is too long.
pub(super) fn ascii_host(name: &str) -> Option<String> {
    let combines = |letter: char| matches!(letter, '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{20d0}'..='\u{20ff}');
    if name.contains(combines) {
        return None;
    }
    let name = name.to_lowercase();
    let labels = name.split(['.', '\u{3002}', '\u{ff0e}']);
    let labels = labels.map(|label| match label.is_ascii() {
        true => Some(label.to_owned()),
        false => encode(label).map(|code| format!("xn--{code}")),
    });
    let labels = labels.collect::<Option<Vec<String>>>()?;
    labels
        .iter()
        .all(|label| label.len() <= LABEL_MAX)
        .then(|| labels.join("."))
}

/// RFC 3492, 6.3. None for what is too long for a label anyway.
fn encode(label: &str) -> Option<String> {
    let codes: Vec<u32> = label.chars().map(u32::from).collect();
    if codes.len() > LABEL_MAX {
        return None;
    }
    let mut out: String = label.chars().filter(char::is_ascii).collect();
    let basic = out.len() as u32;
    if basic > 0 {
        out.push('-');
    }
    let (mut next, mut delta, mut bias, mut handled) = (FIRST_CODE, 0u32, FIRST_BIAS, basic);
    while (handled as usize) < codes.len() {
        let least = codes.iter().copied().filter(|code| *code >= next).min()?;
        delta = delta.checked_add((least - next).checked_mul(handled + 1)?)?;
        next = least;
        for &code in &codes {
            if code < next {
                delta = delta.checked_add(1)?;
            } else if code == next {
                digits(delta, bias, &mut out);
                bias = adapt(delta, handled + 1, handled == basic);
                delta = 0;
                handled += 1;
            }
        }
        delta = delta.checked_add(1)?;
        next += 1;
    }
    Some(out)
}

/// A number in digits of growing worth.
fn digits(mut number: u32, bias: u32, out: &mut String) {
    for k in (BASE..).step_by(BASE as usize) {
        let threshold = k.saturating_sub(bias).clamp(T_MIN, T_MAX);
        if number < threshold {
            break;
        }
        let rest = number - threshold;
        out.push(digit(threshold + rest % (BASE - threshold)));
        number = rest / (BASE - threshold);
    }
    out.push(digit(number));
}

/// 0 to 25 are `a` to `z`, 26 to 35 are `0` to `9`.
fn digit(value: u32) -> char {
    char::from_digit((value + 10) % BASE, BASE).expect("it is below the base")
}

fn adapt(delta: u32, handled: u32, is_first: bool) -> u32 {
    let mut delta = if is_first { delta / DAMP } else { delta / 2 };
    delta += delta / handled;
    let mut k = 0;
    while delta > (BASE - T_MIN) * T_MAX / 2 {
        delta /= BASE - T_MIN;
        k += BASE;
    }
    k + (BASE - T_MIN + 1) * delta / (delta + SKEW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_the_form_that_browsers_send() {
        for (name, ascii) in [
            ("müller.example", "xn--mller-kva.example"),
            ("MÜLLER.Example", "xn--mller-kva.example"),
            ("bücher.ch", "xn--bcher-kva.ch"),
            ("straße.de", "xn--strae-oqa.de"),
            ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
            ("пример.рф", "xn--e1afmkfd.xn--p1ai"),
            ("ليهمابتكلموشعربي؟", "xn--egbpdaj6bu4bxfgehfvwxn"),
            ("他们为什么不说中文", "xn--ihqwcrb4cv8a8dqg056pqjye"),
            ("plain.example", "plain.example"),
        ] {
            assert_eq!(ascii_host(name).as_deref(), Some(ascii), "{name}");
        }
        assert_eq!(ascii_host("mu\u{308}ller.example"), None);
        assert_eq!(ascii_host(&"ü".repeat(64)), None);
    }

    proptest::proptest! {
        #[test]
        fn every_name_has_a_form_or_none_in_ascii(name in "\\PC{0,80}") {
            if let Some(ascii) = ascii_host(&name) {
                assert!(ascii.is_ascii(), "{ascii}");
            }
        }
    }
}
