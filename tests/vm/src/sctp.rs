//! SCTP sockets in the one-to-one style (RFC 6458 section 4): they listen, connect and carry bytes as TCP's
//! do.

use std::{
    io,
    net::{SocketAddrV4, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

/// How long a connect and a read may take.
const PATIENCE: Duration = Duration::from_secs(10);
const BACKLOG: libc::c_int = 16;

/// # Errors
/// EPROTONOSUPPORT where the kernel has no SCTP.
pub fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed; the result is checked before it is owned.
    let fd =
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_SCTP) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given it to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What accepts and is accepted has the type of TCP's sockets, which ask the kernel for nothing that is TCP's
/// alone.
///
/// # Errors
/// As [`socket`], or the address is taken.
pub fn listen(at: SocketAddrV4) -> io::Result<TcpListener> {
    let (socket, address) = (socket()?, raw(at));
    // SAFETY: the address has the size that is named and lives through the call.
    check(unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32)
    })?;
    // SAFETY: no pointers are passed.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(TcpListener::from(socket))
}

/// # Errors
/// As [`socket`], or nobody answers within 10 seconds.
pub fn connect(to: SocketAddrV4) -> io::Result<TcpStream> {
    let (stream, address) = (TcpStream::from(socket()?), raw(to));
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // SAFETY: as in `listen`.
    check(unsafe {
        libc::connect(stream.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32)
    })?;
    Ok(stream)
}

fn raw(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

fn check(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
