//! A WebSocket echo server for the Autobahn judge, on the same frame layer as the server. For tests only.
//!
//! Listens on a free port of the loopback address and prints `host:port` as its first line.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

use cometserver::websocket::{self, Decoder, Event, Limits, Opcode, handshake};

/// Autobahn's largest message is 16 MiB, in section 9; the rest is room.
const LIMITS: Limits = Limits {
    max_message: 64 << 20,
};

/// How long a peer that was told to close may take to do it.
const LINGER: Duration = Duration::from_secs(2);

const MAX_HEAD: usize = 16 << 10;

fn main() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    for socket in listener.incoming() {
        let socket = socket?;
        thread::spawn(move || {
            if let Err(error) = serve(socket) {
                eprintln!("connection: {error}");
            }
        });
    }
    Ok(())
}

fn serve(mut socket: TcpStream) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let mut early = accept(&mut socket)?;
    let mut decoder = Decoder::new();
    let mut out = Vec::new();
    echo(&mut decoder, &mut early, &mut out);
    let mut input = vec![0; 64 << 10];
    loop {
        socket.write_all(&out)?;
        out.clear();
        if decoder.is_finished() {
            return close(socket, &mut input);
        }
        let read = socket.read(&mut input)?;
        if read == 0 {
            return Ok(());
        }
        echo(&mut decoder, &mut input[..read], &mut out);
    }
}

/// Answers the handshake and returns the bytes that came after it.
fn accept(socket: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let read = socket.read(&mut chunk)?;
        anyhow::ensure!(read > 0 && head.len() + read <= MAX_HEAD, "no request head");
        head.extend_from_slice(&chunk[..read]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(end) = request.parse(&head)? else {
            continue;
        };
        let fields = request.headers.iter().map(|header| (header.name, header.value));
        let mut answer = Vec::new();
        match handshake::check(fields, |_| true) {
            Ok(accept) => accept.write_head(&mut answer),
            Err(refusal) => {
                let status = refusal.status();
                write!(
                    socket,
                    "HTTP/1.1 {status} Refused\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n"
                )?;
                return Err(refusal.into());
            }
        }
        socket.write_all(&answer)?;
        return Ok(head.split_off(end));
    }
}

fn echo(decoder: &mut Decoder, input: &mut [u8], out: &mut Vec<u8>) {
    let outcome = decoder.decode(input, LIMITS, &mut |event| {
        match event {
            Event::Text(text) => websocket::frame(Opcode::Text, text.as_bytes(), out),
            Event::Binary(bytes) => websocket::frame(Opcode::Binary, bytes, out),
            Event::Ping(payload) => websocket::frame(Opcode::Pong, payload, out),
            Event::Pong(_) => {}
            Event::Close(code, _) => websocket::close_reply(code, out),
        }
        ControlFlow::Continue(())
    });
    if let Err(failure) = outcome {
        websocket::close(failure.code, failure.reason, out);
    }
}

/// Closes so that the close frame arrives: closing with unread input would reset the connection.
fn close(mut socket: TcpStream, scratch: &mut [u8]) -> anyhow::Result<()> {
    socket.shutdown(Shutdown::Write)?;
    socket.set_read_timeout(Some(LINGER))?;
    while socket.read(scratch).is_ok_and(|read| read > 0) {}
    Ok(())
}
