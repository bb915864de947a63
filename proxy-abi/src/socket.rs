use crate::{Addr, Be16};
use bytemuck::{Pod, Zeroable};

/// Key of `SOCKETS` (LRU): a UDP socket of the node's own that was translated at connect or sendmsg, and the
/// backend it was given.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Pod, Zeroable)]
pub struct SocketKey {
    /// `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// Of the backend; of an entry flagged [`socket_flag::CHOICE`], of the service.
    pub addr: Addr,
    /// See `addr`.
    pub port: Be16,
    /// IANA's number, see [`crate::proto`].
    pub proto: u8,
    /// Always 0: maps compare keys byte by byte.
    pub reserved: [u8; 5],
}

/// Value of `SOCKETS`. By (socket, backend): the service address that getpeername and recvmsg show. Flagged
/// `CHOICE`, by (socket, service address): the backend that the socket's datagrams stick to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct SocketOrigin {
    /// The service's; flagged `CHOICE`, the backend's.
    pub addr: Addr,
    /// See `addr`.
    pub port: Be16,
    /// Bits of [`socket_flag`].
    pub flags: u16,
    /// [`crate::Frontend::service_id`] of the service port that it was balanced by.
    pub service_id: u32,
}

/// Bits of [`SocketOrigin::flags`].
pub mod socket_flag {
    /// `addr` and `port` name a backend, not the service.
    pub const CHOICE: u16 = 1 << 0;
    /// Of (socket, backend): the socket has spoken to the backend by another address since, and what comes
    /// from there bears that one. Of a `CHOICE`: its backend's entry says so, or names another service.
    pub const ASIDE: u16 = 1 << 1;
}

/// Element of `PEERS`, an array: what a TCP connection dialled and whom it got, for getpeername. Each socket
/// has one place, by its cookie; the cookies follow each other, so that the places of the last
/// [`Peer::PLACES`] sockets are their own. An insertion into an LRU hash costs more than all else that is
/// done at connect.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Peer {
    /// `bpf_get_socket_cookie` of the socket that has the place.
    pub cookie: u64,
    /// What it got: the connection's real peer.
    pub backend: Addr,
    /// What was dialled.
    pub service: Addr,
    /// Of `backend`.
    pub backend_port: Be16,
    /// Of `service`.
    pub service_port: Be16,
    /// [`crate::Frontend::service_id`] of the service port that it was balanced by; 0: the socket has dialled
    /// something else since.
    pub service_id: u32,
}

impl Peer {
    /// Elements of the map; a power of two.
    pub const PLACES: u32 = 65_536;

    /// The socket's element of the map.
    #[inline(always)]
    pub const fn place(cookie: u64) -> u32 {
        cookie as u32 & (Peer::PLACES - 1)
    }
}

const _: () = assert!(size_of::<Peer>() == 48);
const _: () = assert!(size_of::<SocketKey>() == 32);
const _: () = assert!(size_of::<SocketOrigin>() == 24);
