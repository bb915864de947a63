use crate::{Addr, Be16};
use bytemuck::{Pod, Zeroable};

/// Key of `SOCKETS` (LRU): a socket that was translated at connect or sendmsg, and the backend it was given.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Pod, Zeroable)]
pub struct SocketKey {
    /// `bpf_get_socket_cookie`.
    pub cookie: u64,
    pub addr: Addr,
    pub port: Be16,
    pub proto: u8,
    pub reserved: [u8; 5],
}

/// Value of `SOCKETS`. By (socket, backend): the service address that getpeername and recvmsg show. Flagged `CHOICE`,
/// by (socket, service address): the backend that the socket's datagrams stick to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct SocketOrigin {
    pub addr: Addr,
    pub port: Be16,
    /// Bits of [`socket_flag`].
    pub flags: u16,
    pub service_id: u32,
}

/// Bits of [`SocketOrigin::flags`].
pub mod socket_flag {
    /// `addr` and `port` name a backend, not the service.
    pub const CHOICE: u16 = 1 << 0;
}

const _: () = assert!(size_of::<SocketKey>() == 32);
const _: () = assert!(size_of::<SocketOrigin>() == 24);
