use std::{
    collections::HashSet,
    io,
    mem::{offset_of, size_of},
};

use bytemuck::{Pod, Zeroable, bytes_of, pod_read_unaligned};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use proxy_abi::{Addr, Be16, proto};

/// A connected socket: its cookie and its peer.
pub(crate) type Connected = (u64, Addr, Be16);

/// Which sockets are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    Udp,
    Tcp,
}

impl Protocol {
    fn number(self) -> u8 {
        match self {
            Protocol::Udp => proto::UDP,
            Protocol::Tcp => proto::TCP,
        }
    }

    /// A bit for each state (`net/tcp_states.h`). Of TCP those in which somebody may wait for the peer:
    /// SYN_SENT, ESTABLISHED, FIN_WAIT1, FIN_WAIT2 and CLOSE_WAIT.
    fn states(self) -> u32 {
        match self {
            Protocol::Udp => u32::MAX,
            Protocol::Tcp => [1, 2, 4, 5, 8].iter().fold(0, |bits, state| bits | 1 << state),
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Protocol::Udp { "UDP" } else { "TCP" })
    }
}

/// The sockets of a network namespace could not be looked through or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketsError {
    #[error("open a socket to the kernel's socket table")]
    Open(#[source] io::Error),
    #[error("list {protocol} sockets")]
    List { protocol: Protocol, source: io::Error },
    #[error("end a {protocol} socket")]
    End { protocol: Protocol, source: io::Error },
    #[error("this kernel ends no sockets: it is built without CONFIG_INET_DIAG_DESTROY")]
    NoDestroy,
}

/// `linux/sock_diag.h`, `linux/netlink.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// A dump is a row of datagrams that ends with `NLMSG_DONE`; more than this is no dump of sockets.
const MAX_DATAGRAMS: usize = 65_536;

/// `struct nlmsghdr`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Header {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// `struct inet_diag_sockid`: ports and addresses in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SocketId {
    source_port: u16,
    peer_port: u16,
    source: [u8; 16],
    peer: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2` behind its header.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Request {
    header: Header,
    family: u8,
    protocol: u8,
    extensions: u8,
    reserved: u8,
    states: u32,
    id: SocketId,
}

/// The beginning of `struct inet_diag_msg` behind its header.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Answer {
    header: Header,
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: SocketId,
}

/// Ends those of the sockets of the calling thread's network namespace that are in `stuck`: their owners get
/// ECONNABORTED and make new ones, which are balanced anew. A connected socket's peer can't be changed from
/// outside, so this is the only way off a backend that is gone. Returns how many ended.
pub(crate) fn end(protocol: Protocol, stuck: &HashSet<Connected>) -> Result<usize, SocketsError> {
    if stuck.is_empty() {
        return Ok(0);
    }
    let mut socket = Socket::new(NETLINK_SOCK_DIAG).map_err(SocketsError::Open)?;
    socket.bind_auto().map_err(SocketsError::Open)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(SocketsError::Open)?;
    let mut ended = 0;
    for family in [AF_INET, AF_INET6] {
        let listed = list(&socket, protocol, family);
        for found in listed.map_err(|source| SocketsError::List { protocol, source })? {
            if !stuck.contains(&connected(family, &found)) {
                continue;
            }
            let flags = NLM_F_REQUEST | NLM_F_ACK;
            match request(&socket, SOCK_DESTROY, flags, protocol, family, found, |_| {}) {
                Ok(()) => ended += 1,
                // Closed by its owner meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {
                    return Err(SocketsError::NoDestroy);
                }
                Err(source) => return Err(SocketsError::End { protocol, source }),
            }
        }
    }
    Ok(ended)
}

fn list(socket: &Socket, protocol: Protocol, family: u8) -> io::Result<Vec<SocketId>> {
    let mut found = Vec::new();
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    request(socket, SOCK_DIAG_BY_FAMILY, flags, protocol, family, SocketId::zeroed(), |answer| {
        found.push(answer.id);
    })?;
    Ok(found)
}

fn connected(family: u8, id: &SocketId) -> Connected {
    let peer = match family {
        AF_INET => Addr::from_v4([id.peer[0], id.peer[1], id.peer[2], id.peer[3]]),
        _ => Addr::from_v6(id.peer),
    };
    (u64::from(id.cookie[0]) | u64::from(id.cookie[1]) << 32, peer, Be16::from_raw(id.peer_port))
}

/// Sends one request and reads until its end, which is `NLMSG_DONE` or an (also empty) error.
fn request(
    socket: &Socket,
    kind: u16,
    flags: u16,
    protocol: Protocol,
    family: u8,
    id: SocketId,
    mut each: impl FnMut(&Answer),
) -> io::Result<()> {
    let header = Header { length: size_of::<Request>() as u32, kind, flags, sequence: 1, port: 0 };
    let (protocol, states) = (protocol.number(), protocol.states());
    let message = Request { header, family, protocol, extensions: 0, reserved: 0, states, id };
    socket.send(bytes_of(&message), 0)?;
    for _ in 0..MAX_DATAGRAMS {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while let Some(start) = rest.get(..size_of::<Header>()) {
            let header: Header = pod_read_unaligned(start);
            let length = (header.length as usize).clamp(size_of::<Header>(), rest.len());
            match header.kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return error_of(rest),
                _ => {
                    if let Some(bytes) = rest.get(..size_of::<Answer>()) {
                        each(&pod_read_unaligned(bytes));
                    }
                }
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Err(io::Error::other("the list does not end"))
}

/// The number behind the header: 0, or a negated errno.
fn error_of(message: &[u8]) -> io::Result<()> {
    let code = message.get(size_of::<Header>()..size_of::<Header>() + 4).map_or(0, pod_read_unaligned::<i32>);
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

const _: () = assert!(size_of::<Request>() == 72 && offset_of!(Answer, id) == 20);

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::UdpSocket};

    use super::*;

    #[test]
    fn only_the_connected_socket_that_was_named_ends() {
        let make = || {
            let (server, client) =
                (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
            client.connect(server.local_addr().unwrap()).unwrap();
            (server, client)
        };
        let ((stuck_server, stuck), (_other_server, other)) = (make(), make());
        let peer = stuck_server.local_addr().unwrap();
        let diag = Socket::new(NETLINK_SOCK_DIAG).unwrap();
        diag.connect(&SocketAddr::new(0, 0)).unwrap();
        let all: Vec<Connected> =
            list(&diag, Protocol::Udp, AF_INET).unwrap().iter().map(|id| connected(AF_INET, id)).collect();
        let named: HashSet<Connected> = all
            .into_iter()
            .filter(|(_, ip, port)| (ip.to_ip(), port.get()) == (peer.ip(), peer.port()))
            .collect();
        assert_eq!(named.len(), 1);
        assert_eq!(end(Protocol::Udp, &named).unwrap(), 1);
        assert!(stuck.send(b"?").is_err());
        assert!(other.send(b"?").is_ok());
        assert_eq!(end(Protocol::Udp, &named).unwrap(), 0);
    }
}
