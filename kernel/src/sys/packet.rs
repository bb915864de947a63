//! Packet sockets, packet(7).

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use super::socket;
use crate::packet::ClassicInstruction;

/// A raw packet socket that does not block. Until it is bound it receives nothing.
pub(crate) fn open() -> io::Result<OwnedFd> {
    socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)
}

pub(crate) fn bind(socket: BorrowedFd<'_>, device: u32, ether_type: u16) -> io::Result<()> {
    let mut address = unspecified();
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ether_type.to_be();
    address.sll_ifindex = device.try_into().map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address lives across the call and the length is its own.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The kind (`ARPHRD_…`) and the address of the device that the socket is bound to.
pub(crate) fn device_address(socket: BorrowedFd<'_>) -> io::Result<(u16, [u8; 8])> {
    let mut address = unspecified();
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which the address has.
    let result = unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &mut length) };
    if result == 0 { Ok((address.sll_hatype, address.sll_addr)) } else { Err(io::Error::last_os_error()) }
}

/// Replaces the socket's filter, from one packet to the next.
pub(crate) fn set_filter(socket: BorrowedFd<'_>, filter: &[ClassicInstruction]) -> io::Result<()> {
    let count = filter.len().try_into().map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    // `ClassicInstruction` has the layout of `sock_filter`; the kernel only reads behind the pointer.
    let program = libc::sock_fprog { len: count, filter: filter.as_ptr().cast_mut().cast() };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: `count` instructions lie behind the pointer, and both they and the struct live across the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn unspecified() -> libc::sockaddr_ll {
    // SAFETY: all zeroes is a valid address of no family.
    unsafe { std::mem::zeroed() }
}
