//! Where connections come in: doors with roles, their sockets, and the dealing of what they accept.

use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::event::Source;
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockAddr, Type};

use crate::platform;

/// For whom a door is. A front web server looks the same to the kernel whether it speaks for the site's own code or for
/// any visitor, so it is the door that decides, never who knocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The site's own code: everything is allowed. Who may connect is decided by file permissions, or by loopback.
    Backend,
    /// Browsers: nothing without a grant.
    Public,
    /// Monitoring: health and metrics only.
    Ops,
}

/// A listening socket with its role.
#[derive(Debug)]
pub struct Door {
    /// For whom.
    pub role: Role,
    /// Are health in detail and metrics shown here?
    pub ops: bool,
    /// A front web server stands before it, and says whose a request is.
    pub proxied: bool,
    /// Of a gateway that proves itself it is believed whose a request is.
    pub hears_gateways: bool,
    /// Where it is, as it was really bound.
    pub address: DoorAddress,
}

/// Where a door is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DoorAddress {
    /// A socket in the file system.
    Unix(PathBuf),
    /// An address and port.
    Tcp(SocketAddr),
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(mio::net::TcpListener),
    /// Unix.
    Unix(mio::net::UnixListener),
}

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(mio::net::TcpStream),
    /// Unix.
    Unix(mio::net::UnixStream),
}

impl Listener {
    /// Binds an address.
    ///
    /// # Errors
    /// As the system says, with the address.
    pub fn tcp(address: SocketAddr) -> io::Result<(Self, SocketAddr)> {
        let bind = || {
            let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            socket.listen(backlog())?;
            let listener = std::net::TcpListener::from(socket);
            let bound = listener.local_addr()?;
            Ok((Self::Tcp(mio::net::TcpListener::from_std(listener)), bound))
        };
        bind().map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => io::Error::new(
                error.kind(),
                format!("{address}: another program listens there already: choose another port, or port 0 for any that is free"),
            ),
            _ => named(error, &address.to_string()),
        })
    }

    /// Binds a path, which must be free, and gives it its mode and group before anybody is let in.
    ///
    /// # Errors
    /// As the system says, with the path.
    pub fn unix(path: &Path, mode: u32, group: Option<u32>) -> io::Result<Self> {
        let bind = || {
            let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            socket.bind(&SockAddr::unix(path)?)?;
            if let Some(group) = group {
                std::os::unix::fs::chown(path, None, Some(group))?;
            }
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
            // Only now: until here a connection is refused, whatever the mode was.
            socket.listen(backlog())?;
            Ok(Self::Unix(mio::net::UnixListener::from_std(socket.into())))
        };
        bind().map_err(|error: io::Error| named(error, &path.display().to_string()))
    }

    /// A listener that was inherited.
    ///
    /// # Errors
    /// As the system says.
    pub fn inherited(listener: platform::Listener) -> io::Result<(Self, DoorAddress)> {
        match listener {
            platform::Listener::Tcp(tcp) => {
                tcp.set_nonblocking(true)?;
                let address = DoorAddress::Tcp(tcp.local_addr()?);
                Ok((Self::Tcp(mio::net::TcpListener::from_std(tcp)), address))
            }
            platform::Listener::Unix(unix) => {
                unix.set_nonblocking(true)?;
                let path = unix
                    .local_addr()?
                    .as_pathname()
                    .map(Path::to_owned)
                    .unwrap_or_default();
                Ok((
                    Self::Unix(mio::net::UnixListener::from_std(unix)),
                    DoorAddress::Unix(path),
                ))
            }
        }
    }

    /// Accepts one connection.
    ///
    /// # Errors
    /// `WouldBlock` if there is none.
    pub fn accept(&self) -> io::Result<(Socket, Option<IpAddr>)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                Ok((Socket::Tcp(stream), Some(peer.ip())))
            }
            Listener::Unix(listener) => Ok((Socket::Unix(listener.accept()?.0), None)),
        }
    }

    /// Whom to ask mio about.
    pub fn source(&mut self) -> &mut dyn Source {
        match self {
            Listener::Tcp(listener) => listener,
            Listener::Unix(listener) => listener,
        }
    }
}

/// The longest queue the system allows: a Unix socket whose queue is full refuses at once, which a front web server
/// turns into a 502.
fn backlog() -> i32 {
    i32::try_from(platform::max_backlog()).unwrap_or(i32::MAX)
}

fn named(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

impl Socket {
    /// What every connection needs: no delay for small frames, a bound on what the kernel holds for a slow reader, in bytes,
    /// and one on how long it waits for a peer that has vanished.
    ///
    /// # Errors
    /// As the system says.
    pub fn prepare(&self, pending: usize, patience: Duration) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => {
                let socket = socket2::SockRef::from(stream);
                socket.set_tcp_nodelay(true)?;
                platform::bound_unsent(stream, u32::try_from(pending).unwrap_or(u32::MAX))?;
                platform::bound_silence(stream, patience)?;
            }
            Socket::Unix(stream) => socket2::SockRef::from(stream).set_send_buffer_size(pending)?,
        }
        Ok(())
    }

    /// Has the shard told, by edges, of what comes.
    ///
    /// # Errors
    /// As the system says.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(self.source(), token, Interest::READABLE)
    }

    /// Has the shard told, by an edge, of room to write as well, or no longer. If there is room already, it is told at once.
    ///
    /// # Errors
    /// As the system says.
    pub fn watch_room(&mut self, registry: &Registry, token: Token, watch: bool) -> io::Result<()> {
        let interest = if watch {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        registry.reregister(self.source(), token, interest)
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Socket::Tcp(stream) => stream,
            Socket::Unix(stream) => stream,
        }
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is.
    pub fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&mut &*stream).read(into),
            Socket::Unix(stream) => (&mut &*stream).read(into),
        }
    }

    /// Writes what fits.
    ///
    /// # Errors
    /// `WouldBlock` if nothing does.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&mut &*stream).write(bytes),
            Socket::Unix(stream) => (&mut &*stream).write(bytes),
        }
    }

    /// Writes what fits of several pieces.
    ///
    /// # Errors
    /// `WouldBlock` if nothing does.
    pub fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&mut &*stream).write_vectored(pieces),
            Socket::Unix(stream) => (&mut &*stream).write_vectored(pieces),
        }
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) {
        // The peer may be gone already, which is as good.
        let _ = match self {
            Socket::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
            Socket::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
        };
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}
