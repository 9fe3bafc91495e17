//! What the kernel knows about a socket: who is at the other end, and what it still holds for it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use super::check;

/// Who was at the other end of a Unix stream when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
    /// The process; `None` if it lives in another process namespace.
    pub pid: Option<u32>,
}

/// Who is at the other end of a Unix stream.
///
/// # Errors
/// `InvalidInput` if it is no Unix socket, or whatever the system says.
#[cfg(target_os = "linux")]
pub fn peer_credentials(stream: impl AsFd) -> io::Result<PeerCredentials> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for the call; `peer` and `length` are valid for writes, and `length` is the
    // size of `peer`, so the kernel writes within it.
    check(unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    })?;
    // The kernel answers for TCP too, with nobody.
    if peer.uid == u32::MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a Unix socket: it has no peer credentials",
        ));
    }
    let pid = u32::try_from(peer.pid).ok().filter(|pid| *pid != 0);
    Ok(PeerCredentials {
        uid: peer.uid,
        gid: peer.gid,
        pid,
    })
}

/// Who is at the other end of a Unix stream.
///
/// # Errors
/// `InvalidInput` if it is no Unix socket, or whatever the system says.
#[cfg(target_os = "macos")]
pub fn peer_credentials(stream: impl AsFd) -> io::Result<PeerCredentials> {
    let fd = stream.as_fd().as_raw_fd();
    let (mut uid, mut gid) = (0, 0);
    // SAFETY: the descriptor is borrowed for the call; both pointers are valid for writes.
    check(unsafe { libc::getpeereid(fd, &raw mut uid, &raw mut gid) })?;
    let mut pid: libc::pid_t = 0;
    let mut length = size_of::<libc::pid_t>() as libc::socklen_t;
    // SAFETY: as above, and `length` is the size of `pid`.
    let told = check(unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_LOCAL,
            libc::LOCAL_PEERPID,
            (&raw mut pid).cast(),
            &raw mut length,
        )
    });
    let pid = told
        .ok()
        .and_then(|_| u32::try_from(pid).ok())
        .filter(|pid| *pid != 0);
    Ok(PeerCredentials { uid, gid, pid })
}

/// How many bytes the kernel holds that the other end has not yet acknowledged (TCP) or read (Unix).
///
/// # Errors
/// Whatever the system says, such as `ENOTTY` for something that is no socket.
#[cfg(target_os = "linux")]
pub fn unsent_bytes(socket: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is borrowed for the call; TIOCOUTQ (SIOCOUTQ on sockets) writes one int.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// How many bytes the kernel holds that the other end has not yet acknowledged (TCP) or read (Unix).
///
/// # Errors
/// Whatever the system says, such as `ENOTSOCK` for something that is no socket.
#[cfg(target_os = "macos")]
pub fn unsent_bytes(socket: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for the call; `length` is the size of `bytes`.
    check(unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NWRITE,
            (&raw mut bytes).cast(),
            &raw mut length,
        )
    })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Bounds what the kernel holds for a TCP peer beyond what is on its way: so much at most waits to be sent.
///
/// # Errors
/// As the system says.
#[cfg(target_os = "linux")]
pub fn bound_unsent(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).set_tcp_notsent_lowat(bytes)
}

/// Bounds what the kernel holds for a TCP peer beyond what is on its way: so much at most waits to be sent.
///
/// # Errors
/// As the system says.
#[cfg(target_os = "macos")]
pub fn bound_unsent(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    /// `TCP_NOTSENT_LOWAT` of netinet/tcp.h, which libc does not name there.
    const TCP_NOTSENT_LOWAT: libc::c_int = 0x201;
    let length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the option takes an int of that length, which the kernel only reads.
    check(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_NOTSENT_LOWAT,
            (&raw const bytes).cast(),
            length,
        )
    })?;
    Ok(())
}

/// Has the kernel end a TCP connection whose peer acknowledges nothing, or makes no room, for `patience`: also one on which
/// nothing is on its way, which is probed. Whole seconds count for that, and at least one.
///
/// # Errors
/// As the system says.
pub fn bound_silence(socket: impl AsFd, patience: Duration) -> io::Result<()> {
    let fd = socket.as_fd();
    let socket = SockRef::from(&fd);
    let second = Duration::from_secs(1);
    // Longer than a heartbeat: who is sent those, and acknowledges them, is not asked besides.
    let keepalive = TcpKeepalive::new()
        .with_time((patience / 2).max(second))
        .with_interval((patience / 4).max(second))
        .with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(patience))?;
    #[cfg(target_os = "macos")]
    bound_retransmission(fd, patience)?;
    Ok(())
}

/// How often a silent peer is asked within the patience that it is given.
const PROBES: u32 = 2;

/// Ends a connection on which something is sent again and again for so long.
#[cfg(target_os = "macos")]
fn bound_retransmission(socket: impl AsFd, patience: Duration) -> io::Result<()> {
    /// `TCP_RXT_CONNDROPTIME` of netinet/tcp.h, which libc does not name there: seconds.
    const TCP_RXT_CONNDROPTIME: libc::c_int = 0x80;
    let seconds = libc::c_int::try_from(patience.as_secs().max(1)).unwrap_or(libc::c_int::MAX);
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option takes an int of that length, which the kernel only reads.
    check(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_RXT_CONNDROPTIME,
            (&raw const seconds).cast(),
            length,
        )
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_other_end_of_a_unix_stream_is_known() {
        let (here, _there) = UnixStream::pair().unwrap();
        let peer = peer_credentials(&here).unwrap();
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getegid().as_raw());
        assert_eq!(peer.pid, Some(std::process::id()));
    }

    #[test]
    fn nobody_is_at_the_other_end_of_a_tcp_stream() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(peer_credentials(&stream).is_err());
    }

    #[test]
    fn what_the_reader_has_not_read_is_counted() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        assert_eq!(unsent_bytes(&here).unwrap(), 0);
        here.write_all(&[0; 1000]).unwrap();
        assert!(unsent_bytes(&here).unwrap() >= 1000);
        there.read_exact(&mut [0; 1000]).unwrap();
        assert_eq!(unsent_bytes(&here).unwrap(), 0);
    }
}
