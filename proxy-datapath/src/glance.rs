//! The node's own traffic, which is most of what its uplink sees: told by one look at the headers, so that it costs next to
//! nothing. Whatever a look can't settle takes the long way.

use proxy_abi::{Addr, Be16, Config, FrontendKey, OwnPort, Tuple, config_flag, frontend_kind, proto};

use crate::{
    forward::is_loopback,
    packet::Packet,
    parse::{ETH, ETHERTYPE_V4, ETHERTYPE_V6, View, address, ports},
    tables::{Scratch, Tables},
};

/// Reads addresses and ports of a whole TCP segment or UDP datagram behind a header without options. False for all else.
#[inline(always)]
pub(crate) fn glance<P: Packet>(packet: &P, view: &mut View) -> bool {
    let Some(head) = packet.load::<38>(0) else { return false };
    let (raw_ports, flags_at);
    match [head[12], head[13]] {
        ETHERTYPE_V4 => {
            let fragment = u16::from_be_bytes([head[20], head[21]]) & 0x3fff != 0;
            if head[14] != 0x45 || fragment {
                return false;
            }
            view.v4 = true;
            view.proto = head[23];
            view.src = Addr::from_v4([head[26], head[27], head[28], head[29]]);
            view.dst = Addr::from_v4([head[30], head[31], head[32], head[33]]);
            raw_ports = [head[34], head[35], head[36], head[37]];
            flags_at = ETH + 20 + 13;
        }
        ETHERTYPE_V6 => {
            let Some(rest) = packet.load::<38>(ETH + 6) else { return false };
            view.v4 = false;
            view.proto = rest[0];
            view.src = address([
                rest[2], rest[3], rest[4], rest[5], rest[6], rest[7], rest[8], rest[9], rest[10], rest[11],
                rest[12], rest[13], rest[14], rest[15], rest[16], rest[17],
            ]);
            view.dst = address([
                rest[18], rest[19], rest[20], rest[21], rest[22], rest[23], rest[24], rest[25], rest[26],
                rest[27], rest[28], rest[29], rest[30], rest[31], rest[32], rest[33],
            ]);
            // Refused by who reads on.
            if view.src.is_v4() || view.dst.is_v4() {
                return false;
            }
            raw_ports = [rest[34], rest[35], rest[36], rest[37]];
            flags_at = ETH + 40 + 13;
        }
        _ => return false,
    }
    view.tuple = Tuple::new(view.src, Be16::ZERO, view.dst, Be16::ZERO, view.proto);
    ports(&mut view.tuple, raw_ports);
    match view.proto {
        proto::TCP => {
            let Some([flags]) = packet.load(flags_at) else { return false };
            view.flags = flags;
            true
        }
        proto::UDP => {
            view.flags = 0;
            true
        }
        _ => false,
    }
}

/// Whether a packet that came in by the uplink is for a socket of the node, of which no table of ours knows anything.
#[inline(always)]
pub(crate) fn is_for_own_socket<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    s: &mut Scratch,
    config: &Config,
) -> bool {
    if !packet.glance(s) {
        return false;
    }
    let View { tuple, v4, .. } = &s.view;
    let port = tuple.dport.get();
    // What could be a NodePort, or a port that we gave a flow of somebody's.
    let ours = (port >= config.nodeport_min && port <= config.nodeport_max)
        || (port >= config.snat_min && port <= config.snat_max);
    if ours || !tuple.dst.same(config.node(*v4)) || is_loopback(&tuple.src) {
        return false;
    }
    if tables.own_port(OwnPort::Asked, tuple.dport) || tables.own_port(OwnPort::Answers, tuple.dport) {
        return false;
    }
    // A segment that opens nothing: had it to do with a flow of ours, the port would be marked.
    if s.view.is_midway() {
        return true;
    }
    let key =
        FrontendKey { addr: tuple.dst, port: tuple.dport, proto: tuple.proto, kind: frontend_kind::ADDRESS };
    // A source that only the tunnel may bring is the long way's to drop.
    tables.frontend(&key).is_none()
        && (config.flags & config_flag::TUNNEL == 0 || tables.pod_cidr(&tuple.src).is_none())
}

/// Whether a packet on its way out is a socket's of the node, and no answer to a flow that we translated.
#[inline(always)]
pub(crate) fn is_from_own_socket<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    s: &mut Scratch,
    config: &Config,
) -> bool {
    packet.glance(s)
        && s.view.src.same(config.node(s.view.v4))
        && !tables.own_port(OwnPort::Answers, s.view.tuple.sport)
}
