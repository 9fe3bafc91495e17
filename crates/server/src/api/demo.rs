//! The demo page.

use std::borrow::Cow;

use crate::endpoint::DEMO;
use crate::http::response::Head;
use crate::shared::Settings;

use super::Answer;

pub(super) fn demo(answer: Answer<'_>, file: usize) {
    let (path, kind, content) = DEMO[file];
    // The page shows a command that works as it is: with this program, and this server's folder.
    let content = match (path, std::str::from_utf8(content)) {
        ("/", Ok(page)) => Cow::Owned(
            page.replacen("<html", &demo_root(answer.settings), 1)
                .into_bytes(),
        ),
        _ => Cow::Borrowed(content),
    };
    let head = answer.cors.write(Head::new(answer.out, answer.terms, 200));
    head.header("Content-Type", kind)
        .header("Cache-Control", "no-cache")
        .header(
            "Content-Security-Policy",
            "default-src 'self'; frame-ancestors 'none'",
        )
        .header("X-Content-Type-Options", "nosniff")
        .body(&content);
}

pub(super) fn demo_root(settings: &Settings) -> String {
    let escaped = |text: &str| {
        text.replace('&', "&amp;")
            .replace('"', "&quot;")
            .replace('<', "&lt;")
    };
    let program = std::env::args().next().unwrap_or_else(|| "comet".to_owned());
    let folder = settings.config.data_dir.to_string_lossy();
    format!(
        "<html data-program=\"{}\" data-folder=\"{}\"",
        escaped(&program),
        escaped(&folder)
    )
}
