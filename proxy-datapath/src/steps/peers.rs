//! What nodes believe of each other: a VXLAN datagram that bears a node's address, and a packet inside a
//! packet that bears a balancer's. A pod's datagram bears its node's address once it is masqueraded, an
//! outsider's once it is balanced: neither may go where such a thing would be believed.

use proxy_abi::{Facts, Prefix, Tuple, endpoint_flag, proto};

use crate::{
    packets::{
        outer::{around, is_around},
        view::{Kind, View},
    },
    state::{hop::Place, scratch::Scratch, tables::Tables},
};

/// The tunnel's own packets: their inner ones meet the VXLAN device's programs.
#[inline(always)]
pub(crate) const fn is_tunnel(view: &View, facts: &Facts) -> bool {
    matches!(view.kind, Kind::Ports) && is_to_tunnel(view, view.tuple.dport.get(), facts)
}

#[inline(always)]
const fn is_to_tunnel(view: &View, dport: u16, facts: &Facts) -> bool {
    view.proto == proto::UDP && facts.tunnel_port != 0 && dport == facts.tunnel_port
}

/// Whether a packet, as `to`, is such as a node believes of those that may speak to it.
#[inline(always)]
const fn is_believed(view: &View, to: &Tuple, facts: &Facts) -> bool {
    // Later fragments have the first one's ports.
    let has_ports = matches!(view.kind, Kind::Ports | Kind::Fragment);
    is_around(view.proto) || (has_ports && is_to_tunnel(view, to.dport.get(), facts))
}

/// Whether a packet that none of the node's own sockets has sent goes, as `s.to`, to where only nodes may
/// speak. Asked of every packet, not only of a flow's first: the flow may be older than its receiver is a
/// node.
#[inline(always)]
pub(crate) fn speaks_as_node<T: Tables>(tables: &T, s: &Scratch, facts: &Facts) -> bool {
    is_believed(&s.view, &s.to, facts)
        && (matches!(s.hop.place, Place::Node) || tables.is_tunnel_peer(&s.to.dst))
}

/// As [`speaks_as_node`], of what leaves the node and was not located.
#[inline(always)]
pub(crate) fn speaks_to_peer<T: Tables>(tables: &T, s: &Scratch, facts: &Facts) -> bool {
    is_believed(&s.view, &s.to, facts) && tables.is_tunnel_peer(&s.to.dst)
}

/// Whether a packet of the tunnel, as the wire brought it, is none: nodes send to each other's first address
/// only, but the kernel takes it at any of this node's, and not all of them are known to who judges what pods
/// send.
#[inline(always)]
pub(crate) fn is_forged_tunnel<T: Tables>(tables: &T, view: &View, facts: &Facts) -> bool {
    !view.dst.same(facts.node(view.v4))
        && tables.is_tunnel_peer(&view.src)
        && tables.endpoint(&view.dst).is_some_and(|own| own.flags & endpoint_flag::POD == 0)
}

/// Bytes of the IP header around a packet that one of the balancers in front (DSR by IPIP) sent to this node;
/// 0: it is no such packet, or one that is left to the kernel.
#[inline(always)]
pub(crate) fn wrapped_in<T: Tables>(tables: &T, view: &View, facts: &Facts) -> u32 {
    let outer = around(view);
    if outer == 0 || !Prefix::any_has(&facts.balancers, &view.src) {
        return 0;
    }
    let is_ours =
        tables.endpoint(&view.dst).is_some_and(|endpoint| endpoint.flags & endpoint_flag::NODE != 0);
    if is_ours { outer } else { 0 }
}
