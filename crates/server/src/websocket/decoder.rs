//! Turns a peer's bytes into events, whatever way they are cut.

use std::ops::ControlFlow;

use super::header::{self, Expected, Frame, MAX_HEADER};
use super::utf8::PartialText;
use super::{Event, Failure, Limits, Opcode};

/// The most frames one message may come in.
///
/// Empty fragments take no memory but time; this allows 4 MiB in pieces of 64 bytes, the smallest that Autobahn sends.
const MAX_FRAGMENTS: u32 = 65_536;

/// Room that a message not yet whole gets at once. Above it, room doubles as bytes arrive: what a peer announces
/// costs nothing until it is sent.
const FIRST_ROOM: usize = 4096;

/// The receiving half of one connection: two words while nothing is half-received.
#[derive(Debug)]
pub struct Decoder {
    held: Option<Box<Held>>,
    from_client: bool,
    finished: bool,
}

const _: () = assert!(
    size_of::<Decoder>() <= 16,
    "every idle connection holds a decoder"
);

impl Decoder {
    /// A server's decoder: the peer is a client and must mask its frames.
    #[must_use]
    pub fn new() -> Decoder {
        Decoder {
            held: None,
            from_client: true,
            finished: false,
        }
    }

    /// A client's decoder: the peer is a server and must not mask its frames.
    #[must_use]
    pub fn for_client() -> Decoder {
        Decoder {
            held: None,
            from_client: false,
            finished: false,
        }
    }

    /// Consumes all of `input` and calls `on` for every message and control frame that is complete with it.
    ///
    /// Payloads are unmasked in place; a message that lies whole in `input` is handed out without a copy, and only
    /// what is partial is kept, on the heap, until it is whole. A `Break` from `on`, a close frame and a failure
    /// finish the decoder: whatever follows, here or in later calls, is ignored.
    ///
    /// # Errors
    /// The peer broke a rule or a limit, told at the first byte that shows it, after all events before that byte.
    pub fn decode(
        &mut self,
        input: &mut [u8],
        limits: Limits,
        on: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        if self.finished {
            return Ok(());
        }
        let outcome = self.read(input, limits, on);
        self.finished = !matches!(outcome, Ok(ControlFlow::Continue(())));
        if self.finished || self.held.as_ref().is_some_and(|held| held.is_empty()) {
            self.held = None;
        }
        outcome.map(|_| ())
    }

    /// Whether a `Break`, a close frame or a failure ended the reading.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Bytes on the heap for what is half-received; 0 between messages.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| {
            size_of::<Held>() + held.control.capacity() + held.message_capacity()
        })
    }

    fn read(
        &mut self,
        mut rest: &mut [u8],
        limits: Limits,
        on: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Failure> {
        loop {
            let Some((mut frame, after_header)) = self.next_frame(rest, limits)? else {
                return Ok(ControlFlow::Continue(()));
            };
            let available = frame.missing().min(after_header.len());
            let (chunk, after) = after_header.split_at_mut(available);
            rest = after;
            frame.receive(chunk);
            if !chunk.is_empty() || frame.missing() == 0 {
                let flow = if frame.opcode.is_control() {
                    self.control(&frame, chunk, on)?
                } else {
                    self.data(&frame, chunk, on)?
                };
                if flow.is_break() {
                    return Ok(flow);
                }
            }
            if frame.missing() > 0 {
                self.held().frame = Some(frame);
                return Ok(ControlFlow::Continue(()));
            }
        }
    }

    /// The frame begun earlier or the one whose header completes in `input`, and the bytes after that header;
    /// `None` if `input` ends before: its bytes are kept then.
    fn next_frame<'a>(
        &mut self,
        input: &'a mut [u8],
        limits: Limits,
    ) -> Result<Option<(Frame, &'a mut [u8])>, Failure> {
        let message = self.held.as_ref().and_then(|held| held.message.as_ref());
        let expected = Expected {
            masked: self.from_client,
            continues: message.is_some(),
            room: limits
                .max_message
                .saturating_sub(message.map_or(0, |message| message.body.len())),
        };
        if let Some(held) = &mut self.held {
            if let Some(frame) = held.frame.take() {
                return Ok(Some((frame, input)));
            }
            if held.head_len > 0 {
                return held.continue_head(input, expected);
            }
        }
        match header::parse(input, expected)? {
            Some((frame, used)) => Ok(Some((frame, &mut input[used..]))),
            None if input.is_empty() => Ok(None),
            None => {
                let held = self.held();
                held.head[..input.len()].copy_from_slice(input); // shorter than a header, or it would be one
                held.head_len = input.len() as u8;
                Ok(None)
            }
        }
    }

    /// Handles the next bytes of a control frame.
    fn control(
        &mut self,
        frame: &Frame,
        chunk: &[u8],
        on: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Failure> {
        if chunk.len() == frame.len {
            return deliver_control(frame.opcode, chunk, on);
        }
        let held = self.held();
        held.control.extend_from_slice(chunk);
        if frame.missing() > 0 {
            return Ok(ControlFlow::Continue(()));
        }
        let payload = std::mem::take(&mut held.control);
        deliver_control(frame.opcode, &payload, on)
    }

    /// Handles the next bytes of a message.
    fn data(
        &mut self,
        frame: &Frame,
        chunk: &[u8],
        on: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Failure> {
        if frame.fin && chunk.len() == frame.len {
            match frame.opcode {
                Opcode::Text => {
                    let text = str::from_utf8(chunk).map_err(|_| Failure::not_utf8())?;
                    return Ok(on(Event::Text(text)));
                }
                Opcode::Binary => return Ok(on(Event::Binary(chunk))),
                _ => {}
            }
        }
        let held = self.held();
        let message = held.message.get_or_insert_with(|| Message::new(frame.opcode));
        message.body.push(chunk, frame.missing())?;
        if frame.missing() > 0 {
            return Ok(ControlFlow::Continue(()));
        }
        message.fragments += 1;
        if message.fragments > MAX_FRAGMENTS {
            return Err(Failure::too_big("message has too many fragments"));
        }
        match held.message.take_if(|_| frame.fin).map(|message| message.body) {
            None => Ok(ControlFlow::Continue(())),
            Some(Body::Text(text)) => {
                let text = text.finish().map_err(|_| Failure::not_utf8())?;
                Ok(on(Event::Text(&text)))
            }
            Some(Body::Binary(bytes)) => Ok(on(Event::Binary(&bytes))),
        }
    }

    fn held(&mut self) -> &mut Held {
        self.held.get_or_insert_default()
    }
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

/// What is half-received.
#[derive(Debug, Default)]
struct Held {
    head: [u8; MAX_HEADER],
    head_len: u8,
    frame: Option<Frame>,
    control: Vec<u8>,
    message: Option<Message>,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.head_len == 0 && self.frame.is_none() && self.message.is_none()
    }

    fn message_capacity(&self) -> usize {
        self.message.as_ref().map_or(0, |message| message.body.capacity())
    }

    /// Goes on with a header of which some bytes are here already, byte by byte: there are few.
    fn continue_head<'a>(
        &mut self,
        mut input: &'a mut [u8],
        expected: Expected,
    ) -> Result<Option<(Frame, &'a mut [u8])>, Failure> {
        while let Some((byte, rest)) = input.split_first_mut() {
            input = rest;
            self.head[usize::from(self.head_len)] = *byte; // fits: a header of 14 bytes is complete
            self.head_len += 1;
            if let Some((frame, _)) = header::parse(&self.head[..usize::from(self.head_len)], expected)? {
                self.head_len = 0;
                return Ok(Some((frame, input)));
            }
        }
        Ok(None)
    }
}

/// A message that is not whole yet.
#[derive(Debug)]
struct Message {
    body: Body,
    /// Frames completed.
    fragments: u32,
}

impl Message {
    fn new(opcode: Opcode) -> Message {
        let body = match opcode {
            Opcode::Text => Body::Text(PartialText::default()),
            _ => Body::Binary(Vec::new()),
        };
        Message { body, fragments: 0 }
    }
}

#[derive(Debug)]
enum Body {
    Text(PartialText),
    Binary(Vec<u8>),
}

impl Body {
    fn len(&self) -> usize {
        match self {
            Body::Text(text) => text.len(),
            Body::Binary(bytes) => bytes.len(),
        }
    }

    fn capacity(&self) -> usize {
        match self {
            Body::Text(text) => text.capacity(),
            Body::Binary(bytes) => bytes.capacity(),
        }
    }

    /// Appends `chunk`, after which `missing` bytes of the same frame are still to come.
    fn push(&mut self, chunk: &[u8], missing: usize) -> Result<(), Failure> {
        let needed = self.len() + chunk.len();
        if needed > self.capacity() {
            let target = needed.max((needed + missing).min(FIRST_ROOM.max(2 * self.capacity())));
            match self {
                Body::Text(text) => text.reserve_to(target),
                Body::Binary(bytes) => bytes.reserve_exact(target - bytes.len()),
            }
        }
        match self {
            Body::Text(text) => text.push(chunk).map_err(|_| Failure::not_utf8()),
            Body::Binary(bytes) => {
                bytes.extend_from_slice(chunk);
                Ok(())
            }
        }
    }
}

fn deliver_control(
    opcode: Opcode,
    payload: &[u8],
    on: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Failure> {
    match opcode {
        Opcode::Ping => Ok(on(Event::Ping(payload))),
        Opcode::Pong => Ok(on(Event::Pong(payload))),
        _ => {
            let (code, reason) = read_close(payload)?;
            let _ = on(Event::Close(code, reason));
            Ok(ControlFlow::Break(()))
        }
    }
}

fn read_close(payload: &[u8]) -> Result<(Option<u16>, &str), Failure> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return Ok((None, ""));
    };
    let code = u16::from_be_bytes(*code);
    // The rest is unassigned, or stands for "no code" and "broken connection", which nobody may send.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Failure::protocol("close code is not allowed"));
    }
    let reason = str::from_utf8(reason).map_err(|_| Failure::not_utf8())?;
    Ok((Some(code), reason))
}
