//! Where packets belong and where they go.

use proxy_abi::{Addr, Be16, Link, Reason, Tuple, endpoint_flag, facts_flag, pod_cidr_flag, proto};

use super::{Model, Place, Seen, Source};
use crate::{
    connections::{ACK, FIN, RST, SYN},
    expect::{Fate, Way, reset, told, told_by},
    read::{Body, Ip},
    services::{dialled, is_address_of_service, is_in_service_range},
};

impl Model {
    /// Looks the packet's connection up; a fragment's by what the first one said.
    pub(super) fn meet(&mut self, ip: &Ip) -> Option<Tuple> {
        self.meet_as(ip, ip.src)
    }

    /// As [`Model::meet`], where direct connections come: the backend, and whether it is one.
    pub(super) fn meet_any(&mut self, ip: &Ip) -> Option<(Tuple, bool)> {
        self.look_up(ip, ip.src)
    }

    /// As [`Model::meet`], as if the packet came from `source`.
    pub(super) fn meet_as(&mut self, ip: &Ip, source: Addr) -> Option<Tuple> {
        self.look_up(ip, source).filter(|(_, direct)| !direct).map(|(to, _)| to)
    }

    fn look_up(&mut self, ip: &Ip, source: Addr) -> Option<(Tuple, bool)> {
        let mut tuple = ip.tuple();
        if source != ip.src {
            tuple.src = source;
        }
        if let Some(piece) = ip.piece {
            let key = (ip.src, ip.dst, piece.id, ip.proto);
            match ip.body {
                Body::Ports { .. } | Body::Echo { .. } => {
                    self.fragments.insert(key, (tuple.sport.get(), tuple.dport.get()));
                }
                Body::Later => {
                    if let Some((sport, dport)) = self.fragments.get(&key) {
                        (tuple.sport, tuple.dport) = (Be16::new(*sport), Be16::new(*dport));
                    }
                }
                _ => {}
            }
        }
        if matches!(ip.body, Body::Report(_)) {
            return self.connections.peek(&tuple);
        }
        let facts = self.state.facts;
        self.connections.meet(&facts, &tuple, ip.flags(), self.now_s)
    }

    pub(super) fn pod_cidr(&self, addr: &Addr) -> Option<(Addr, bool)> {
        let bits = |addr: &Addr| u128::from_be_bytes(addr.octets());
        let mut cidrs = self.state.pod_cidrs.iter();
        cidrs
            .find(|(len, prefix, _)| (bits(prefix) ^ bits(addr)) >> (128 - len) == 0)
            .map(|(.., cidr)| (cidr.node, cidr.flags & pod_cidr_flag::LOCAL != 0))
    }

    pub(super) fn place(&self, addr: &Addr) -> Place {
        if let Some((_, endpoint)) = self.state.endpoints.iter().find(|(known, _)| known == addr) {
            return if endpoint.flags & endpoint_flag::POD != 0 {
                Place::Pod(endpoint.ifindex, endpoint.mac)
            } else {
                Place::Node
            };
        }
        match self.pod_cidr(addr) {
            Some((_, true)) => Place::Nobody,
            Some(_) if !self.has(facts_flag::TUNNEL) => Place::Routed,
            Some((node, _)) => Place::Remote(node),
            None => Place::Outside,
        }
    }

    /// On to where the packet's destination lives, which counts a hop unless it is the node itself.
    pub(super) fn send(&self, ip: &Ip, to: Option<Tuple>) -> Fate {
        if let Some(fate) = to.and_then(|to| cut_sctp(ip, &to)) {
            return fate;
        }
        let dst = to.map_or(ip.dst, |to| to.dst);
        let way = match self.place(&dst) {
            Place::Node => return to.map_or(Fate::Same, Fate::Changed),
            Place::Nobody => return Fate::Dropped(Reason::UnknownEndpoint),
            Place::Remote(_) if self.facts().overlay_ifindex == 0 => {
                return Fate::Dropped(Reason::TunnelDown);
            }
            Place::Routed | Place::Outside if !has_route(&dst) => return Fate::Dropped(Reason::Unroutable),
            Place::Pod(ifindex, mac) => Way::Pod(ifindex, mac),
            Place::Remote(node) => Way::Node(node),
            Place::Routed | Place::Outside => Way::Out(self.facts().uplink_ifindex),
        };
        if ip.ttl <= 1 { Fate::Dropped(Reason::TtlExpired) } else { Fate::Sent(way, to) }
    }

    /// A packet that would have to be forwarded and is on its last hop at `here`; none: it may go on.
    pub(super) fn last_hop(&self, ip: &Ip, input: &[u8], dst: &Addr, here: &Addr) -> Option<Fate> {
        let goes_on = matches!(self.place(dst), Place::Pod(..) | Place::Remote(_) | Place::Outside);
        if ip.ttl > 1 || !goes_on {
            return None;
        }
        let plain = if ip.v4 { ip.header == 20 } else { ip.l4 == 54 };
        Some(if ip.is_report() || matches!(ip.body, Body::Later) || here.is_unspecified() {
            Fate::Dropped(Reason::TtlExpired)
        } else if !plain || ip.end < 14 + ip.header + 8 {
            Fate::Refused(Reason::TtlExpired)
        } else {
            let kind = if ip.v4 { (11, 0) } else { (3, 0) };
            Fate::Answered(Reason::TtlExpired, told_by(ip, input, here, kind, 0))
        })
    }

    /// As it came, to the node of the backend, if that is another one.
    pub(super) fn hand_on(&self, ip: &Ip, to: Tuple) -> Fate {
        match self.place(&to.dst) {
            Place::Remote(_) if self.facts().overlay_ifindex == 0 => Fate::Dropped(Reason::TunnelDown),
            Place::Remote(_) if ip.ttl <= 1 => Fate::Dropped(Reason::TtlExpired),
            Place::Remote(node) => Fate::Sent(Way::Backend(node, to.dst, to.dport), None),
            _ => Fate::Dropped(Reason::UnknownEndpoint),
        }
    }

    /// The node's own traffic: no translated connection has ever had the port.
    pub(super) fn is_for_own_socket(&self, ip: &Ip) -> bool {
        let Body::Ports { dport, .. } = ip.body else { return false };
        let facts = self.facts();
        let given = (facts.nodeport_min..=facts.nodeport_max).contains(&dport)
            || (facts.snat_min..=facts.snat_max).contains(&dport);
        is_plain(ip)
            && !given
            && ip.dst == *facts.node(ip.v4)
            && !is_loopback(&ip.src)
            && !self.asked.contains(&dport)
            && !self.answering.contains(&dport)
            && (is_midway(ip)
                || !(is_address_of_service(&self.state, ip, dport) || self.is_from_tunnel_only(ip)))
    }

    /// A source that only the tunnel may bring.
    fn is_from_tunnel_only(&self, ip: &Ip) -> bool {
        self.has(facts_flag::TUNNEL) && self.pod_cidr(&ip.src).is_some()
    }

    pub(super) fn is_from_own_socket(&self, ip: &Ip) -> bool {
        let Body::Ports { sport, .. } = ip.body else { return false };
        is_plain(ip)
            && ip.src == *self.facts().node(ip.v4)
            && (self.is_tunnel(ip)
                || !(self.answering.contains(&sport)
                    || self.asks_service(ip)
                    || self.speaks_as_service(ip)
                    || self.shares_port(ip)))
    }

    /// A datagram to an address of the service ranges.
    pub(super) fn asks_service(&self, ip: &Ip) -> bool {
        ip.proto == proto::UDP && is_in_service_range(&self.state, &ip.dst)
    }

    /// It opens something from an address and port that are a service's here.
    pub(super) fn speaks_as_service(&self, ip: &Ip) -> bool {
        let Body::Ports { sport, .. } = ip.body else { return false };
        !is_midway(ip) && dialled(&self.state, &ip.src, sport, ip.proto).is_some()
    }

    /// It opens something from a port that a connection may have been given.
    fn shares_port(&self, ip: &Ip) -> bool {
        let Body::Ports { sport, .. } = ip.body else { return false };
        !is_midway(ip) && (self.facts().snat_min..=self.facts().snat_max).contains(&sport)
    }

    /// The node's own packet from there: its answers are not balanced.
    pub(super) fn remember_own(&mut self, ip: &Ip, seen: &Seen<'_>) -> Result<Fate, String> {
        // What answers a client belongs to that one's connection.
        if !self.speaks_as_service(ip) || self.connections.peek(&ip.tuple().flip()).is_some() {
            return Ok(Fate::Same);
        }
        self.keep_own(ip, seen)
    }

    /// The node's own packet from a port that a connection may have been given: it steps aside for that one,
    /// or none is given the port any more.
    pub(super) fn share(&mut self, ip: &Ip, seen: &Seen<'_>) -> Result<Fate, String> {
        if self.speaks_as_service(ip) || !self.shares_port(ip) {
            return self.remember_own(ip, seen);
        }
        let answers = ip.tuple().flip();
        let is_known = self.connections.peek(&answers).is_some();
        let is_anothers = self.connections.is_answered_for_another(&ip.tuple());
        if (is_known && !is_anothers) || (!is_known && ip.proto != proto::TCP) {
            return Ok(Fate::Same);
        }
        self.keep_own(ip, seen)
    }

    /// As [`Model::share`], of what leaves by the router address: what it becomes, if it was looked up.
    pub(super) fn keep_apart(&mut self, ip: &Ip, seen: &Seen<'_>) -> Result<Option<Tuple>, String> {
        let answers = match ip.body {
            Body::Ports { sport, .. } => self.answering.contains(&sport),
            Body::Later => true,
            _ => false,
        };
        let shares = self.shares_port(ip);
        if !shares && !answers {
            return Ok(None);
        }
        if let Some(to) = self.meet(ip) {
            return Ok(Some(to));
        }
        if !shares {
            return Ok(None);
        }
        match self.share(ip, seen)? {
            Fate::Changed(to) => Ok(Some(to)),
            _ => Ok(None),
        }
    }

    fn keep_own(&mut self, ip: &Ip, seen: &Seen<'_>) -> Result<Fate, String> {
        self.answering.insert(ip.tuple().sport.get());
        if ip.tuple() == ip.tuple().flip() {
            // To itself: question and answer are one, and no connection.
            return Ok(Fate::Same);
        }
        let opened = self.begin(ip, (ip.dst, ip.tuple().dport), Source::Kept, seen)?;
        Ok(opened.map_or(Fate::Same, |to| cut_sctp(ip, &to).unwrap_or(Fate::Changed(to))))
    }

    /// It goes to a backend itself that its sender has reached by a service before, from the same port.
    pub(super) fn asks_backend_itself(&self, ip: &Ip) -> bool {
        matches!(ip.body, Body::Ports { dport, .. } if self.answering.contains(&dport))
            && !is_midway(ip)
            && self.connections.is_answered_for_another(&ip.tuple())
    }

    /// What only nodes may say goes to a node, and none of its own sockets has sent it.
    pub(super) fn is_nodes_alone(&self, ip: &Ip, to: &Tuple) -> bool {
        let has_ports = matches!(ip.body, Body::Ports { .. } | Body::Later);
        let to_tunnel = has_ports && ip.proto == proto::UDP && to.dport.get() == self.facts().tunnel_port;
        let is_nodes =
            matches!(self.place(&to.dst), Place::Node) || self.state.tunnel_peers.contains(&to.dst);
        (to_tunnel || [4, 41].contains(&ip.proto)) && is_nodes
    }

    /// Where a packet goes that no table translates, and as which fragment of what.
    pub(super) fn as_it_is(&self, ip: &Ip) -> Tuple {
        let mut to = ip.tuple();
        to.dst = ip.dst;
        if let (Some(piece), Body::Later) = (&ip.piece, &ip.body)
            && let Some((sport, dport)) = self.fragments.get(&(ip.src, ip.dst, piece.id, ip.proto))
        {
            (to.sport, to.dport) = (Be16::new(*sport), Be16::new(*dport));
        }
        to
    }

    pub(super) fn is_tunnel(&self, ip: &Ip) -> bool {
        ip.proto == proto::UDP
            && matches!(ip.body, Body::Ports { dport, .. } if dport == self.facts().tunnel_port)
    }

    pub(super) fn fits(&self, ip: &Ip) -> bool {
        let length = (ip.end - 14) as u32;
        length <= self.facts().pod_mtu || !ip.whole || ip.piece.is_some()
    }

    pub(super) fn too_big(&self, ip: &Ip, input: &[u8]) -> Fate {
        let (kind, options) = if ip.v4 { ((3, 4), ip.header != 20) } else { ((2, 0), ip.l4 != 54) };
        if ip.is_report() || matches!(ip.body, Body::Later) {
            Fate::Dropped(Reason::TooBig)
        } else if options {
            Fate::Refused(Reason::TooBig)
        } else {
            Fate::Answered(Reason::TooBig, told(ip, input, kind, self.facts().pod_mtu))
        }
    }
}

/// Who may send at all; none: go on.
pub(super) fn admission(ip: &Ip, link: &Link) -> Option<Fate> {
    if is_loopback(&ip.src) || is_loopback(&ip.dst) {
        return Some(Fate::Dropped(Reason::LoopbackSource));
    }
    let octets = ip.dst.octets();
    let multicast = if ip.v4 { octets[12] >> 4 == 14 || octets[12..] == [255; 4] } else { octets[0] == 255 };
    if ip.src == if ip.v4 { link.v4 } else { link.v6 } {
        return multicast.then_some(Fate::Same);
    }
    let source = ip.src.octets();
    let link_local = !ip.v4
        && (source[..2] == [0xfe, 0x80]
            || ip.src.is_unspecified()
            || (source[0] == 0xfe && source[1] >> 6 == 2));
    let kind = match ip.body {
        Body::Other { icmp: Some(kind), .. } if ip.proto == proto::ICMPV6 => Some(kind),
        _ => None,
    };
    if link_local && kind.is_some_and(|kind| [131, 132, 133, 135, 136, 143].contains(&kind)) {
        return Some(Fate::Same);
    }
    Some(Fate::Dropped(Reason::SourceSpoofed))
}

/// A segment that does not open a connection.
pub(super) fn is_midway(ip: &Ip) -> bool {
    ip.proto == proto::TCP && ip.flags() & (SYN | ACK | RST | FIN) != SYN
}

/// A whole segment or datagram behind a plain header.
pub(super) fn is_plain(ip: &Ip) -> bool {
    let plain = if ip.v4 { ip.header == 20 } else { ip.l4 == 54 };
    plain && ip.piece.is_none() && matches!(ip.proto, proto::TCP | proto::UDP)
}

/// Nothing but SYN and ACK opens a connection.
pub(super) fn opens_nothing(ip: &Ip) -> bool {
    let flags = ip.flags();
    ip.proto == proto::TCP
        && matches!(ip.body, Body::Ports { .. })
        && (flags & (SYN | ACK) == SYN | ACK || flags & (RST | FIN) != 0)
}

pub(super) fn is_loopback(addr: &Addr) -> bool {
    match addr.to_ip() {
        std::net::IpAddr::V4(v4) => v4.is_loopback(),
        std::net::IpAddr::V6(v6) => v6.is_loopback(),
    }
}

/// The standard node's routes.
pub(super) fn has_route(dst: &Addr) -> bool {
    !(dst.is_v4() && dst.octets()[12..15] == [198, 51, 100])
}

/// A piece's SCTP sum covers the whole datagram.
pub(super) fn cut_sctp(ip: &Ip, to: &Tuple) -> Option<Fate> {
    let tuple = ip.tuple();
    let changed = (tuple.sport, tuple.dport) != (to.sport, to.dport);
    let cut = !ip.unsummed
        && ip.proto == proto::SCTP
        && matches!(ip.body, Body::Ports { .. })
        && ip.piece.is_some()
        && changed;
    cut.then_some(Fate::Refused(Reason::RewriteFailed))
}

/// No endpoints: the client is told, by what its protocol has for that.
pub(super) fn refuse(ip: &Ip, input: &[u8]) -> Fate {
    let is_tcp = ip.proto == proto::TCP && matches!(ip.body, Body::Ports { .. });
    if ip.is_report() || matches!(ip.body, Body::Later) || (is_tcp && ip.flags() & RST != 0) {
        return Fate::Dropped(Reason::Rejected);
    }
    if is_tcp {
        return Fate::Answered(Reason::Rejected, reset(ip, input));
    }
    let plain = if ip.v4 { ip.header == 20 } else { ip.l4 == 54 };
    if !plain || ip.end < 14 + ip.header + 8 {
        return Fate::Refused(Reason::Rejected);
    }
    let kind = if ip.v4 { (3, 3) } else { (1, 4) };
    Fate::Answered(Reason::Rejected, told(ip, input, kind, 0))
}
