//! Where a destination lives, and what a packet needs to get there.

use proxy_abi::{Addr, Facts, Reason, endpoint_flag, facts_flag, path_known, pod_cidr_flag};

use crate::{
    packets::packet::{Packet, Way},
    state::{
        hop::{Hop, Place},
        scratch::Scratch,
        tables::Tables,
        verdict::Verdict,
    },
};

#[inline(always)]
pub(crate) fn locate<T: Tables>(tables: &T, facts: &Facts, addr: &Addr, hop: &mut Hop) {
    if let Some(endpoint) = tables.endpoint(addr) {
        hop.ifindex = endpoint.ifindex;
        hop.mac = endpoint.mac;
        hop.place = if endpoint.flags & endpoint_flag::POD != 0 { Place::Pod } else { Place::Node };
        return;
    }
    hop.place = match tables.pod_cidr(addr) {
        Some(cidr) if cidr.flags & pod_cidr_flag::LOCAL != 0 => Place::Nobody,
        Some(_) if facts.flags & facts_flag::TUNNEL == 0 => Place::Routed,
        Some(cidr) => {
            hop.node = cidr.node;
            Place::Remote
        }
        None => Place::Outside,
    };
}

/// Whether a packet that goes to `s.hop` would have to be forwarded and may not be, since this is its last
/// hop.
#[inline(always)]
pub(crate) fn ends_here(s: &Scratch) -> bool {
    s.view.ttl <= 1 && matches!(s.hop.place, Place::Pod | Place::Remote | Place::Outside)
}

/// Prepares a packet, already translated, for its way to where its destination lives; in `s.head` only.
#[inline(always)]
pub(crate) fn prepare<P: Packet>(packet: &P, s: &mut Scratch, facts: &Facts) -> Verdict {
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
        Place::Remote if facts.overlay_ifindex == 0 => Verdict::drop(Reason::TunnelDown),
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
            // The stack's neighbour table stays fresh by what it sends itself: a flow's first packet in each
            // second.
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
    if s.direct { s.head.name_backend(&s.to) } else { s.head.address_tunnel() }
}
