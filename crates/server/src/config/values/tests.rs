//! Values as they may and may not be written.

use super::*;

#[test]
fn durations_need_their_unit() {
    for (text, millis) in [
        ("90s", 90_000),
        ("250ms", 250),
        ("7d", 604_800_000),
        ("5 m", 300_000),
        ("1h", 3_600_000),
        ("0", 0),
        ("0s", 0),
    ] {
        assert_eq!(
            duration(&Raw::text(text)),
            Ok(Duration::from_millis(millis)),
            "{text}"
        );
    }
    for text in [
        "7",
        "",
        "s",
        "-1s",
        "1.5s",
        "7x",
        "1h30m",
        "+1s",
        "99999999999999999d",
        "٣s",
    ] {
        assert_eq!(
            duration(&Raw::text(text)),
            Err("expected a duration such as 90s or 7d".into()),
            "{text}"
        );
    }
}

#[test]
fn sizes_need_their_unit_and_keep_their_bounds() {
    let any = size(0, usize::MAX);
    for (text, bytes) in [
        ("64KiB", 65_536),
        ("1MiB", 1 << 20),
        ("2GiB", 2 << 30),
        ("12B", 12),
        ("0", 0),
    ] {
        assert_eq!(any(&Raw::text(text)), Ok(bytes), "{text}");
    }
    for text in [
        "64",
        "64KB",
        "64kib",
        "1TiB",
        "",
        "99999999999999999999GiB",
        "99999999999GiB",
    ] {
        assert_eq!(
            any(&Raw::text(text)),
            Err("expected a size such as 64KiB or 1MiB".into()),
            "{text}"
        );
    }
    assert_eq!(
        size(1, 8192)(&Raw::text("9KiB")),
        Err("expected at most 8KiB".into())
    );
    assert_eq!(
        size(1500, 8192)(&Raw::text("1KiB")),
        Err("expected at least 1500B".into())
    );
}

#[test]
fn modes_are_octal_and_say_so() {
    assert_eq!(mode(&Raw::text("0660")), Ok(0o660));
    assert_eq!(mode(&Raw::text("0o600")), Ok(0o600));
    for text in ["432", "660", "0680", "01777", "", "0", "rw"] {
        assert!(mode(&Raw::text(text)).is_err(), "{text}");
    }
}

#[test]
fn lists_come_with_commas_or_as_lists() {
    let two: Vec<SocketAddr> = vec!["127.0.0.1:80".parse().unwrap(), "[::1]:81".parse().unwrap()];
    assert_eq!(addresses(&Raw::text("127.0.0.1:80, [::1]:81")), Ok(two.clone()));
    assert_eq!(
        addresses(&Raw::list(vec!["127.0.0.1:80".into(), "[::1]:81".into()])),
        Ok(two)
    );
    assert_eq!(addresses(&Raw::text("[]")), Ok(vec![]));
    assert!(addresses(&Raw::text("localhost")).is_err());
    assert!(addresses(&Raw::text("8080")).is_err());
}

#[test]
fn origins_are_what_a_browser_sends() {
    assert_eq!(
        origins(&Raw::text("https://Example.org,*")),
        Ok(vec!["https://example.org".into(), "*".into()])
    );
    for text in [
        "example.org",
        "https://example.org/",
        "https://",
        "https://*.example.org",
    ] {
        assert!(origins(&Raw::text(text)).is_err(), "{text}");
    }
}

#[test]
fn a_base_path_starts_with_a_slash_and_does_not_end_with_one() {
    for text in ["", "/push", "/a/b"] {
        assert_eq!(base_path(&Raw::text(text)), Ok(text.into()));
    }
    for text in ["push", "/", "/push/", "/a//b", "/a b", "/a?b", "/%41"] {
        assert!(base_path(&Raw::text(text)).is_err(), "{text}");
    }
}

#[test]
fn a_pattern_does_not_end_in_half_an_escape() {
    for text in ["*", "news/**", r"a\*", r"a\\"] {
        assert_eq!(pattern(&Raw::text(text)), Ok(text.into()));
    }
    for text in ["", "\\", r"a\\\"] {
        assert!(pattern(&Raw::text(text)).is_err(), "{text}");
    }
}

#[test]
fn which_listeners_are_proxied_is_a_list_or_one_word_for_all_of_them() {
    let tcp: SocketAddr = "127.0.0.1:8080".parse().unwrap();
    let listed = |raw: &Raw| {
        let proxied = proxied(raw).unwrap();
        (proxied.has(None), proxied.has(Some(tcp)))
    };
    assert_eq!(listed(&Raw::text("socket")), (true, false));
    assert_eq!(listed(&Raw::text("127.0.0.1:8080")), (false, true));
    assert_eq!(listed(&Raw::text("socket, 127.0.0.1:8080")), (true, true));
    assert_eq!(
        listed(&Raw::list(vec!["socket".into(), "127.0.0.1:8081".into()])),
        (true, false)
    );
    assert_eq!(listed(&Raw::list(Vec::new())), (false, false));
    // As it was written when there was one switch for all.
    assert_eq!(listed(&Raw::text("true")), (true, true));
    assert_eq!(listed(&Raw::text("false")), (false, false));
    for wrong in ["yes", "127.0.0.1", "socket, true", "comet.sock"] {
        let problem = proxied(&Raw::text(wrong)).unwrap_err();
        assert!(
            problem.contains("\"socket\"") && problem.contains("public.listen"),
            "{problem}"
        );
    }
}
