//! One non-blocking stream socket, TCP or Unix, for the event loop.

use std::io::{self, Read, Write};

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

use super::{Address, BenchError};

/// A connected, or connecting, socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Begins to connect; the socket is writable when that is done. `None`: the server's backlog is full, try again.
    pub(super) fn connect(address: &Address) -> Result<Option<Self>, BenchError> {
        let socket = match address {
            Address::Tcp(to) => TcpStream::connect(*to).map(Socket::Tcp),
            Address::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
        };
        match socket {
            Ok(socket) => Ok(Some(socket)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(source) => Err(BenchError::Connect {
                address: address.clone(),
                source,
            }),
        }
    }

    /// Connects and waits until that is done.
    pub(super) fn connect_now(address: &Address) -> Result<Self, BenchError> {
        let socket = match address {
            Address::Tcp(to) => std::net::TcpStream::connect(to).and_then(|socket| {
                socket.set_nonblocking(true)?;
                Ok(Socket::Tcp(TcpStream::from_std(socket)))
            }),
            Address::Unix(path) => std::os::unix::net::UnixStream::connect(path).and_then(|socket| {
                socket.set_nonblocking(true)?;
                Ok(Socket::Unix(UnixStream::from_std(socket)))
            }),
        };
        let socket = socket.map_err(|source| BenchError::Connect {
            address: address.clone(),
            source,
        })?;
        socket.connected(address)?;
        Ok(socket)
    }

    /// Called when the socket is first writable: the verdict on connecting. Sends small requests at once from now on.
    pub(super) fn connected(&self, address: &Address) -> Result<(), BenchError> {
        let verdict = match self {
            Socket::Tcp(socket) => match socket.take_error() {
                Ok(None) => socket.set_nodelay(true),
                Ok(Some(error)) | Err(error) => Err(error),
            },
            Socket::Unix(socket) => match socket.take_error() {
                Ok(None) => Ok(()),
                Ok(Some(error)) | Err(error) => Err(error),
            },
        };
        verdict.map_err(|source| BenchError::Connect {
            address: address.clone(),
            source,
        })
    }

    /// Reads once. `None`: nothing there now. 0: the other end has closed.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let result = match self {
            Socket::Tcp(socket) => socket.read(buffer),
            Socket::Unix(socket) => socket.read(buffer),
        };
        would_block(result)
    }

    /// Writes once. `None`: no room now.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let result = match self {
            Socket::Tcp(socket) => socket.write(bytes),
            Socket::Unix(socket) => socket.write(bytes),
        };
        would_block(result)
    }
}

fn would_block(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(n) => Ok(Some(n)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Source for Socket {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            Socket::Tcp(socket) => socket.register(registry, token, interests),
            Socket::Unix(socket) => socket.register(registry, token, interests),
        }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            Socket::Tcp(socket) => socket.reregister(registry, token, interests),
            Socket::Unix(socket) => socket.reregister(registry, token, interests),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Socket::Tcp(socket) => socket.deregister(registry),
            Socket::Unix(socket) => socket.deregister(registry),
        }
    }
}
