use proxy_abi::{Addr, Config, Reason, config_flag, endpoint_flag, path_known, pod_cidr_flag};

use crate::{
    packets::packet::{Packet, Way},
    state::{
        tables::{Scratch, Tables},
        verdict::{Action, Verdict},
    },
    steps::direct,
};

/// Where an address lives, seen from this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Place {
    #[default]
    Outside = 0,
    /// A pod of this node.
    Pod = 1,
    /// The node itself: one of its addresses or its router address.
    Node = 2,
    /// A pod of another node, through the tunnel.
    Remote = 3,
    /// In this node's pod CIDR, but no pod has it.
    Nobody = 4,
    /// A remote pod without the tunnel: the kernel's routes know the way.
    Routed = 5,
}

impl Place {
    /// By its number; what is none passes for [`Place::Nobody`].
    #[inline(always)]
    pub(crate) const fn of(number: u8) -> Place {
        match number {
            0 => Place::Outside,
            1 => Place::Pod,
            2 => Place::Node,
            3 => Place::Remote,
            5 => Place::Routed,
            _ => Place::Nobody,
        }
    }
}

/// A place and what it takes to get there.
#[derive(Clone, Copy, Default, Debug)]
pub struct Hop {
    pub place: Place,
    /// [`Place::Pod`]: the host side of its veth pair.
    pub ifindex: u32,
    /// [`Place::Pod`]: its own address.
    pub mac: [u8; 6],
    /// [`Place::Remote`]: outer destination.
    pub node: Addr,
}

#[inline(always)]
pub(crate) fn locate<T: Tables>(tables: &T, config: &Config, addr: &Addr, hop: &mut Hop) {
    if let Some(endpoint) = tables.endpoint(addr) {
        hop.ifindex = endpoint.ifindex;
        hop.mac = endpoint.mac;
        hop.place = if endpoint.flags & endpoint_flag::POD != 0 { Place::Pod } else { Place::Node };
        return;
    }
    hop.place = match tables.pod_cidr(addr) {
        Some(cidr) if cidr.flags & pod_cidr_flag::LOCAL != 0 => Place::Nobody,
        Some(_) if config.flags & config_flag::TUNNEL == 0 => Place::Routed,
        Some(cidr) => {
            hop.node = cidr.node;
            Place::Remote
        }
        None => Place::Outside,
    };
}

/// Whether a packet that goes to `s.hop` would have to be forwarded and may not be, since this is its last hop.
#[inline(always)]
pub(crate) fn ends_here(s: &Scratch) -> bool {
    s.view.ttl <= 1 && matches!(s.hop.place, Place::Pod | Place::Remote | Place::Outside)
}

/// Sends a packet, already translated, to where its destination lives, and writes its headers: `s.verdict`.
#[inline(always)]
pub(crate) fn forward<P: Packet>(packet: &mut P, s: &mut Scratch, config: &Config) {
    s.verdict = prepare(packet, s, config);
    if !matches!(s.verdict.action, Action::Drop) {
        packet.write(s);
    }
}

#[inline(always)]
fn prepare<P: Packet>(packet: &P, s: &mut Scratch, config: &Config) -> Verdict {
    let Scratch { view, head, hop, .. } = s;
    if s.direct && !matches!(hop.place, Place::Remote) {
        return Verdict::drop(Reason::UnknownEndpoint);
    }
    match hop.place {
        Place::Node => Verdict::PASS,
        Place::Nobody => Verdict::drop(Reason::UnknownEndpoint),
        Place::Pod => match head.count_hop(view) {
            Ok(()) => {
                head.address_to(&hop.mac);
                Verdict::deliver(hop.ifindex)
            }
            Err(reason) => Verdict::drop(reason),
        },
        Place::Remote if config.overlay_ifindex == 0 => Verdict::drop(Reason::TunnelDown),
        Place::Remote => match head.count_hop(view) {
            Ok(()) => {
                let node = hop.node;
                address_tunnel(s);
                Verdict::tunnel(node)
            }
            Err(reason) => Verdict::drop(reason),
        },
        Place::Routed | Place::Outside => {
            if s.known & path_known::NEXT_HOP == 0 {
                packet.way_out(&view.tuple, &mut s.next);
            }
            let Some(ifindex) = s.next.device() else { return Verdict::drop(Reason::Unroutable) };
            if let Err(reason) = head.count_hop(view) {
                return Verdict::drop(reason);
            }
            // The stack's neighbour table stays fresh by what it sends itself: a flow's first packet in each second.
            if !s.lively || !matches!(s.next.way, Way::Found) {
                return Verdict::out(ifindex);
            }
            head.address(&s.next.macs);
            Verdict::addressed(ifindex)
        }
    }
}

/// The frame's addresses on its way through the tunnel.
#[inline(always)]
pub(crate) fn address_tunnel(s: &mut Scratch) {
    if s.direct { direct::address(&mut s.head, &s.to) } else { s.head.address_tunnel() }
}

/// 127.0.0.0/8 and ::1, which never belong on a device (RFC 1122 section 3.2.1.3).
#[inline(always)]
pub(crate) const fn is_loopback(addr: &Addr) -> bool {
    if addr.is_v4() {
        return addr.v4_raw().to_ne_bytes()[0] == 127;
    }
    addr.0[0] == 0 && addr.0[1] == 0 && addr.0[2] == 0 && addr.0[3] == 1_u32.to_be()
}

/// Multicast and the limited broadcast: never routed, the kernel's own.
#[inline(always)]
pub(crate) const fn is_multicast(addr: &Addr) -> bool {
    if addr.is_v4() {
        let [a, ..] = addr.v4_raw().to_ne_bytes();
        return a & 0xf0 == 0xe0 || addr.v4_raw() == u32::MAX;
    }
    addr.0[0].to_ne_bytes()[0] == 0xff
}

/// `fe80::/10`.
#[inline(always)]
pub(crate) const fn is_link_local_v6(addr: &Addr) -> bool {
    let [a, b, ..] = addr.0[0].to_ne_bytes();
    a == 0xfe && b & 0xc0 == 0x80
}
