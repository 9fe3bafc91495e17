//! What a WebSocket client said, until its turn comes.

use cometserver_core::protocol::native::command::Command;

/// What a WebSocket client said, taken out of its frames.
pub enum Said {
    /// A command.
    Text(String),
    /// A command with a bare payload.
    Binary(Vec<u8>),
    /// A ping.
    Ping(Vec<u8>),
    /// The last word.
    Close(Option<u16>),
    /// It broke the protocol: it is told with this code and reason.
    Broke(u16, &'static str),
}

impl Said {
    /// Its bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) | Self::Ping(bytes) => bytes.len(),
            Self::Close(_) | Self::Broke(..) => 0,
        }
    }

    /// May it be obeyed while publications wait for the store?
    pub(super) fn goes_on(&self) -> bool {
        let is_publish = |text: &str| Command::parse(text).is_ok_and(|command| command.kind == "publish");
        match self {
            Self::Text(text) => is_publish(text),
            Self::Binary(bytes) => parts(bytes).is_some_and(|(head, _)| is_publish(head)),
            Self::Ping(_) | Self::Close(_) | Self::Broke(..) => true,
        }
    }
}

/// A binary message: a header with its length before it, and the payload behind it.
pub fn parts(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (head, payload) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(head).ok()?, payload))
}
