//! The socket hooks: a client's destination is swapped before a packet exists.

use proxy_abi::{
    Addr, AffinityKey, Be16, Facts, Peer, Slot, SocketKey, SocketOrigin, facts_flag, proto, socket_flag,
};

use crate::{
    packets::addresses::is_loopback,
    state::{
        choice::{Choice, Side},
        tables::Tables,
    },
    steps::service::{Client, Service, select},
};

/// The address a socket call names, and whose socket it is.
pub trait Socket {
    /// Destination of connect and sendmsg, peer of getpeername, sender of recvmsg.
    fn address(&self) -> (Addr, Be16);
    /// `addr` is of the family the socket call was made in: a mapped one for IPv4 on an IPv6 socket.
    fn set_address(&mut self, addr: &Addr, port: Be16);
    /// IANA's number. Sockets of other protocols than TCP and UDP come here, too, and are left alone.
    fn protocol(&self) -> u8;
    /// `bpf_get_socket_cookie`: no other socket gets it while the machine is up.
    fn cookie(&self) -> u64;
    /// `bpf_get_netns_cookie` of the socket's network namespace, which `Facts::host_netns_cookie` tells from
    /// pods'.
    fn netns_cookie(&self) -> u64;
}

/// What becomes of the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketVerdict {
    /// It goes on, with the address that the socket now names.
    Allow,
    /// `ECONNREFUSED`.
    Refuse,
}

/// connect(2): every TCP socket (pods' unless they are left alone), and the node's own UDP sockets. Pods'
/// datagrams are translated on their device, where a flow can move when its backend goes.
#[inline(always)]
pub fn sock_connect<S: Socket, T: Tables>(socket: &mut S, tables: &T) -> SocketVerdict {
    let Some(facts) = tables.facts() else { return SocketVerdict::Allow };
    match socket.protocol() {
        proto::TCP | proto::UDP if is_host(socket, facts) => {}
        proto::TCP if facts.flags & facts_flag::PODS_BY_PACKET == 0 => {
            if tables.is_left_out(socket.netns_cookie()) {
                return SocketVerdict::Allow;
            }
        }
        _ => return SocketVerdict::Allow,
    }
    let (addr, port) = socket.address();
    // A pod's loopback is its own, wherever the node's serves NodePorts.
    if is_loopback(&addr) && !is_host(socket, facts) {
        return SocketVerdict::Allow;
    }
    let mut choice = Choice::default();
    let verdict = draw(socket, tables, facts, (addr, port), &mut choice);
    let Slot { addr: backend, port: backend_port, service_id, .. } = choice.backend;
    if service_id == 0 {
        forget(socket, tables, (addr, port));
        return verdict;
    }
    remember(socket, tables, (backend, backend_port), (addr, port), service_id);
    socket.set_address(&backend, backend_port);
    SocketVerdict::Allow
}

/// sendmsg(2) with a destination: the node's own unconnected UDP sockets. One socket sticks to one backend of
/// a service, as QUIC needs it.
#[inline(always)]
pub fn sock_sendmsg<S: Socket, T: Tables>(socket: &mut S, tables: &T) -> SocketVerdict {
    let Some(facts) = tables.facts() else { return SocketVerdict::Allow };
    if socket.protocol() != proto::UDP || !is_host(socket, facts) {
        return SocketVerdict::Allow;
    }
    let (addr, port) = socket.address();
    let key = key(socket, addr, port);
    // What is known of it, all zero where nothing is: one state for the verifier, which would walk the draw
    // for each of several.
    let mut chosen = SocketOrigin::default();
    if let Some(known) = tables.socket(&key) {
        chosen = known;
    }
    if chosen.flags == socket_flag::CHOICE {
        socket.set_address(&chosen.addr, chosen.port);
        return SocketVerdict::Allow;
    }
    if chosen.flags & socket_flag::CHOICE == 0 {
        let mut choice = Choice::default();
        let verdict = draw(socket, tables, facts, (addr, port), &mut choice);
        let Slot { addr, port, service_id, .. } = choice.backend;
        if service_id == 0 {
            // A backend that a service has led to; no service has the port 0.
            if chosen.flags == 0 && chosen.port.raw() != 0 {
                set_aside(socket, tables, &key);
            }
            return verdict;
        }
        chosen.addr = addr;
        chosen.port = port;
        chosen.service_id = service_id;
    }
    chosen.flags = socket_flag::CHOICE;
    remember(socket, tables, (chosen.addr, chosen.port), (addr, port), chosen.service_id);
    tables.set_socket(&key, &chosen);
    socket.set_address(&chosen.addr, chosen.port);
    SocketVerdict::Allow
}

/// Draws a backend for a socket. What must be dropped, or needs the source that is chosen only after this, is
/// left to the pod's device; the node's own sockets have none.
#[inline(always)]
fn draw<S: Socket, T: Tables>(
    socket: &S,
    tables: &T,
    facts: &Facts,
    (addr, port): (Addr, Be16),
    choice: &mut Choice,
) -> SocketVerdict {
    let host = is_host(socket, facts);
    let identity = AffinityKey::of_netns(socket.netns_cookie());
    let client = Client {
        side: Side::Inside,
        identity: &identity,
        source: if host { Some(facts.node(addr.is_v4())) } else { None },
        port: tables.random(),
    };
    match select(tables, facts, (&addr, port, socket.protocol()), &client, choice) {
        Service::No | Service::SourceUnknown | Service::Backend => SocketVerdict::Allow,
        Service::Drop(_) if !host => SocketVerdict::Allow,
        // Nobody expects a datagram's socket to be refused: packets are, on their way out.
        Service::Reject | Service::Drop(_) if socket.protocol() == proto::UDP => SocketVerdict::Allow,
        Service::Reject | Service::Drop(_) => SocketVerdict::Refuse,
    }
}

/// recvmsg(2): the sender of an answer is the service that was asked.
#[inline(always)]
pub fn sock_recvmsg<S: Socket, T: Tables>(socket: &mut S, tables: &T) {
    let Some(facts) = tables.facts() else { return };
    if socket.protocol() == proto::UDP && is_host(socket, facts) {
        show_service(socket, tables);
    }
}

/// getpeername(2): the peer is the service that was dialled.
#[inline(always)]
pub fn sock_peername<S: Socket, T: Tables>(socket: &mut S, tables: &T) {
    show_service(socket, tables);
}

#[inline(always)]
fn is_host<S: Socket>(socket: &S, facts: &Facts) -> bool {
    socket.netns_cookie() == facts.host_netns_cookie
}

#[inline(always)]
fn show_service<S: Socket, T: Tables>(socket: &mut S, tables: &T) {
    let (addr, port) = socket.address();
    if socket.protocol() == proto::TCP
        && let Some(peer) = tables.peer(socket.cookie())
    {
        if peer.backend.same(&addr) && peer.backend_port.raw() == port.raw() {
            socket.set_address(&peer.service, peer.service_port);
        }
        return;
    }
    // Of TCP: what an older version noted.
    if let Some(origin) = tables.socket(&key(socket, addr, port))
        && origin.flags & (socket_flag::CHOICE | socket_flag::ASIDE) == 0
    {
        socket.set_address(&origin.addr, origin.port);
    }
}

#[inline(always)]
fn remember<S: Socket, T: Tables>(
    socket: &S,
    tables: &T,
    backend: (Addr, Be16),
    service: (Addr, Be16),
    service_id: u32,
) {
    if socket.protocol() == proto::TCP {
        let ((backend, backend_port), (service, service_port)) = (backend, service);
        let cookie = socket.cookie();
        tables.set_peer(&Peer { cookie, backend, service, backend_port, service_port, service_id });
        return;
    }
    let origin = SocketOrigin { addr: service.0, port: service.1, flags: 0, service_id };
    let key = key(socket, backend.0, backend.1);
    let before = tables.socket(&key).is_some_and(|before| {
        before.flags == 0 && (!before.addr.same(&service.0) || before.port.raw() != service.1.raw())
    });
    if before {
        set_aside(socket, tables, &key);
    }
    tables.set_socket(&key, &origin);
}

/// The socket speaks to what `key` names by another address than that of the service that it was found by: an
/// answer bears the address that was asked last. Two conversations with one peer from one port have the same
/// packets; nothing else tells them apart.
#[inline(always)]
fn set_aside<S: Socket, T: Tables>(socket: &S, tables: &T, key_of_backend: &SocketKey) {
    let Some(mut origin) = tables.socket(key_of_backend) else { return };
    if origin.flags != 0 {
        return;
    }
    origin.flags = socket_flag::ASIDE;
    tables.set_socket(key_of_backend, &origin);
    let key_of_service = key(socket, origin.addr, origin.port);
    if let Some(mut choice) = tables.socket(&key_of_service)
        && choice.flags == socket_flag::CHOICE
    {
        choice.flags |= socket_flag::ASIDE;
        tables.set_socket(&key_of_service, &choice);
    }
}

/// The socket is connected to no service: what it was to its peer before concerns it no more.
#[inline(always)]
fn forget<S: Socket, T: Tables>(socket: &S, tables: &T, (addr, port): (Addr, Be16)) {
    if socket.protocol() == proto::UDP {
        set_aside(socket, tables, &key(socket, addr, port));
    } else if tables.peer(socket.cookie()).is_some() {
        tables.set_peer(&Peer { cookie: socket.cookie(), ..Peer::default() });
    }
}

#[inline(always)]
fn key<S: Socket>(socket: &S, addr: Addr, port: Be16) -> SocketKey {
    SocketKey { cookie: socket.cookie(), addr, port, proto: socket.protocol(), reserved: [0; 5] }
}
