//! What each hook should do with a frame.

use std::collections::HashMap;

use proxy_abi::{
    Addr, Affinity, AffinityKey, Be16, Config, Link, Reason, Tuple, config_flag, endpoint_flag,
    frontend_flag, member_of, pod_cidr_flag, proto,
};
use proxy_datapath::{Action, FlowTable, Tables, Verdict};

use crate::{
    cases::{Hook, POD_A_IFINDEX, State, state::addr},
    connections::{ACK, Connections, RST, SYN},
    expect::{Fate, Way, reset, told},
    memory::Maps,
    read::{Body, Frame, Ip, frame},
    services::{Found, Service, endpoint_flags, find},
};

/// What was seen of the datapath: needed where it draws lots.
pub struct Seen<'a> {
    pub verdict: Verdict,
    pub maps: &'a Maps,
}

impl Seen<'_> {
    /// What the datapath has recorded for a connection's first tuple.
    fn recorded(&self, key: &Tuple) -> Option<Tuple> {
        [FlowTable::New, FlowTable::Established]
            .into_iter()
            .find_map(|table| self.maps.flow(table, key, |flow| flow.to))
    }

    fn is_drop(&self, reason: Reason) -> bool {
        self.verdict.action == Action::Drop && self.verdict.reason == reason
    }
}

pub struct Model {
    pub state: State,
    pub connections: Connections,
    fragments: HashMap<(Addr, Addr, u32, u8), (u16, u16)>,
    affinity: HashMap<AffinityKey, Affinity>,
    /// Maglev: what a client was given, by service, generation of nothing, address and port.
    given: HashMap<(u32, bool, Addr, u16), (Addr, Be16)>,
    pub now_s: u32,
}

enum Place {
    Pod(u32, [u8; 6]),
    Node,
    Remote(Addr),
    Nobody,
    /// Another node's pod, without the tunnel.
    Routed,
    Outside,
}

/// The source that a new connection needs.
#[derive(Clone, Copy)]
enum Source {
    Kept,
    Other(Addr),
}

impl Model {
    pub fn new(state: State, now_s: u32) -> Model {
        Model {
            state,
            connections: Connections::default(),
            fragments: HashMap::new(),
            affinity: HashMap::new(),
            given: HashMap::new(),
            now_s,
        }
    }

    /// What should have become of a frame; an error where what was drawn by chance could not be drawn.
    pub fn judge(&mut self, hook: Hook, input: &[u8], seen: &Seen<'_>) -> Result<(Fate, Option<Ip>), String> {
        let read = frame(input);
        if self.state.config.abi_version == 0 {
            return Ok((Fate::Same, None));
        }
        if let Frame::Ip(ip) = &read
            && matches!(ip.body, Body::Other { doubtful: true, .. })
        {
            return Ok((Fate::Anything, None));
        }
        let fate = match hook {
            Hook::FromPod => self.from_pod(&read, input, seen)?,
            Hook::ToPod => self.to_pod(&read),
            Hook::FromOverlay(peer, vni) => self.from_overlay(&read, &addr(peer), vni),
            Hook::ToOverlay => self.to_overlay(&read, seen)?,
            Hook::FromUplink => self.from_uplink(&read, input, seen)?,
            Hook::ToUplink => self.to_uplink(&read, seen)?,
        };
        let ip = if let Frame::Ip(ip) = read { Some(ip) } else { None };
        Ok((fate, ip))
    }

    fn config(&self) -> &Config {
        &self.state.config
    }

    fn has(&self, flag: u32) -> bool {
        self.config().flags & flag != 0
    }

    fn from_pod(&mut self, read: &Frame, input: &[u8], seen: &Seen<'_>) -> Result<Fate, String> {
        let Some((_, link)) = self.state.links.iter().find(|(ifindex, _)| *ifindex == POD_A_IFINDEX).copied()
        else {
            return Ok(Fate::Dropped(Reason::UnknownLink));
        };
        let foreign_mac = input.len() >= 12 && input[6..12] != link.mac;
        let ip = match read {
            Frame::Broken => return Ok(Fate::Dropped(Reason::Malformed)),
            Frame::Mapped => return Ok(Fate::Dropped(Reason::MappedOnWire)),
            _ if foreign_mac => return Ok(Fate::Dropped(Reason::MacSpoofed)),
            Frame::Foreign => return Ok(Fate::Dropped(Reason::UnknownProtocol)),
            // Rows of the case table look at ARP.
            Frame::Arp => return Ok(Fate::Anything),
            Frame::Ip(ip) => ip,
        };
        if let Some(fate) = admission(ip, &link) {
            return Ok(fate);
        }
        if let Some(to) = self.meet(ip) {
            return Ok(self.send(ip, Some(to)));
        }
        match find(&self.state, ip, false) {
            Found::Drop(reason) => Ok(Fate::Dropped(reason)),
            Found::Reject => Ok(refuse(ip, input)),
            Found::Served(_) if opens_nothing(ip) => Ok(Fate::Dropped(Reason::NoFlow)),
            Found::Served(service) => self.serve(ip, input, &service, false, seen),
            Found::No => self.leave(ip, seen),
        }
    }

    /// A pod's packet to no service.
    fn leave(&mut self, ip: &Ip, seen: &Seen<'_>) -> Result<Fate, String> {
        let node = *self.config().node(ip.v4);
        match self.place(&ip.dst) {
            Place::Routed => return Ok(Fate::Same),
            Place::Outside => {}
            _ => return Ok(self.send(ip, None)),
        }
        if !self.has(config_flag::MASQUERADE) || node.is_unspecified() || !has_route(&ip.dst) {
            return Ok(Fate::Same);
        }
        match ip.body {
            Body::Report(_) => return Ok(Fate::Dropped(Reason::NoFlow)),
            Body::Later => return Ok(Fate::Dropped(Reason::FragmentUnknown)),
            _ if opens_nothing(ip) => return Ok(Fate::Dropped(Reason::NoFlow)),
            _ => {}
        }
        self.begin(ip, (ip.tuple().dst, ip.tuple().dport), Source::Other(node), seen)
            .map(|opened| opened.map_or_else(Fate::Dropped, |to| self.send(ip, Some(to))))
    }

    fn from_uplink(&mut self, read: &Frame, input: &[u8], seen: &Seen<'_>) -> Result<Fate, String> {
        let ip = match read {
            Frame::Mapped => return Ok(Fate::Dropped(Reason::MappedOnWire)),
            Frame::Ip(ip) => ip,
            _ => return Ok(Fate::Same),
        };
        if self.is_tunnel(ip) {
            return Ok(Fate::Same);
        }
        if is_loopback(&ip.src) || is_loopback(&ip.dst) {
            return Ok(Fate::Dropped(Reason::LoopbackSource));
        }
        if let Some(to) = self.meet(ip) {
            if matches!(self.place(&to.dst), Place::Remote(_)) && !self.fits(ip) {
                return Ok(self.too_big(ip, input));
            }
            return Ok(self.send(ip, Some(to)));
        }
        if self.has(config_flag::TUNNEL) && self.pod_cidr(&ip.src).is_some() {
            return Ok(Fate::Dropped(Reason::SourceSpoofed));
        }
        match find(&self.state, ip, true) {
            Found::No => Ok(Fate::Same),
            Found::Drop(reason) => Ok(Fate::Dropped(reason)),
            Found::Reject => Ok(refuse(ip, input)),
            Found::Served(service) => {
                if service.some_stale && seen.is_drop(Reason::StaleSlot) {
                    return Ok(Fate::Dropped(Reason::StaleSlot));
                }
                let maglev = service.frontend.flags & frontend_flag::MAGLEV != 0;
                if ip.proto == proto::TCP && ip.flags() & (SYN | ACK) != SYN && !maglev {
                    return Ok(Fate::Same);
                }
                self.serve(ip, input, &service, true, seen)
            }
        }
    }

    fn from_overlay(&mut self, read: &Frame, peer: &Addr, vni: u32) -> Fate {
        if vni != self.config().vni {
            return Fate::Dropped(Reason::WrongVni);
        }
        if !self.state.tunnel_peers.contains(peer) {
            return Fate::Dropped(Reason::UnknownTunnelPeer);
        }
        let ip = match read {
            Frame::Broken => return Fate::Dropped(Reason::Malformed),
            Frame::Mapped => return Fate::Dropped(Reason::MappedOnWire),
            Frame::Arp | Frame::Foreign => return Fate::Dropped(Reason::UnknownProtocol),
            Frame::Ip(ip) => ip,
        };
        if self.pod_cidr(&ip.src).is_none_or(|(node, _)| node != *peer) {
            return Fate::Dropped(Reason::SourceSpoofed);
        }
        if let Some(to) = self.meet(ip) {
            return self.send(ip, Some(to));
        }
        match self.place(&ip.dst) {
            Place::Pod(..) | Place::Node => self.send(ip, None),
            _ => Fate::Dropped(Reason::UnknownEndpoint),
        }
    }

    fn to_overlay(&mut self, read: &Frame, seen: &Seen<'_>) -> Result<Fate, String> {
        let ip = match read {
            Frame::Broken => return Ok(Fate::Dropped(Reason::Malformed)),
            Frame::Mapped => return Ok(Fate::Dropped(Reason::MappedOnWire)),
            Frame::Arp | Frame::Foreign => return Ok(Fate::Dropped(Reason::UnknownProtocol)),
            Frame::Ip(ip) => ip,
        };
        let Place::Remote(node) = self.place(&ip.dst) else { return Ok(Fate::Dropped(Reason::Unroutable)) };
        let way = Way::Keyed(node);
        if endpoint_flags(&self.state, &ip.src).is_none_or(|flags| flags & endpoint_flag::NODE == 0) {
            return Ok(Fate::Sent(way, None));
        }
        if let Some(to) = self.meet(ip) {
            return Ok(cut_sctp(ip, &to).unwrap_or(Fate::Sent(way, Some(to))));
        }
        match ip.body {
            Body::Report(_) | Body::Later => return Ok(Fate::Anything),
            _ => {}
        }
        let router = *self.config().router(ip.v4);
        let opened = self.begin(ip, (ip.dst, ip.tuple().dport), Source::Other(router), seen)?;
        Ok(opened.map_or_else(Fate::Dropped, |to| cut_sctp(ip, &to).unwrap_or(Fate::Sent(way, Some(to)))))
    }

    fn to_pod(&mut self, read: &Frame) -> Fate {
        let Frame::Ip(ip) = read else { return Fate::Same };
        let own = endpoint_flags(&self.state, &ip.src).unwrap_or(0);
        if own & (endpoint_flag::NODE | endpoint_flag::ROUTER) == 0 && !matches!(ip.body, Body::Report(_)) {
            return Fate::Same;
        }
        // The node may answer by its router address what it was asked at its own.
        let as_node = own & endpoint_flag::ROUTER != 0 && matches!(ip.body, Body::Ports { .. } | Body::Later);
        let source = if as_node { *self.config().node(ip.v4) } else { ip.src };
        let met = self.meet_as(ip, source);
        met.map_or(Fate::Same, |to| cut_sctp(ip, &to).unwrap_or(Fate::Changed(to)))
    }

    fn to_uplink(&mut self, read: &Frame, seen: &Seen<'_>) -> Result<Fate, String> {
        let Frame::Ip(ip) = read else { return Ok(Fate::Same) };
        let Some(own) = endpoint_flags(&self.state, &ip.src) else { return Ok(Fate::Same) };
        if self.is_tunnel(ip) {
            return Ok(Fate::Same);
        }
        if let Some(to) = self.meet(ip) {
            return Ok(cut_sctp(ip, &to).unwrap_or(Fate::Changed(to)));
        }
        if own & endpoint_flag::NODE != 0 || !self.has(config_flag::MASQUERADE) {
            return Ok(Fate::Same);
        }
        let node = *self.config().node(ip.v4);
        match ip.body {
            Body::Report(_) => return Ok(Fate::Dropped(Reason::NoFlow)),
            Body::Later => return Ok(Fate::Dropped(Reason::FragmentUnknown)),
            _ if node.is_unspecified() => return Ok(Fate::Dropped(Reason::Unroutable)),
            _ => {}
        }
        let opened = self.begin(ip, (ip.dst, ip.tuple().dport), Source::Other(node), seen)?;
        Ok(opened.map_or_else(Fate::Dropped, |to| cut_sctp(ip, &to).unwrap_or(Fate::Changed(to))))
    }

    /// The first packet to a service.
    fn serve(
        &mut self,
        ip: &Ip,
        input: &[u8],
        service: &Service,
        outside: bool,
        seen: &Seen<'_>,
    ) -> Result<Fate, String> {
        if service.some_stale && seen.is_drop(Reason::StaleSlot) {
            return Ok(Fate::Dropped(Reason::StaleSlot));
        }
        let recorded = seen.recorded(&ip.tuple());
        let allowed = self.allowed(ip, service, outside);
        let Some(recorded) = recorded else {
            // Nothing was begun: some backend must account for that.
            let mut fates = allowed.iter().filter_map(|backend| self.unbegun(ip, input, *backend, outside));
            return fates
                .find(|fate| match fate {
                    Fate::Dropped(reason) => seen.is_drop(*reason),
                    Fate::Answered(reason, _) | Fate::Refused(reason) => seen.verdict.reason == *reason,
                    _ => false,
                })
                .ok_or_else(|| {
                    format!("{:?}, and no connection to one of {allowed:?} is recorded", seen.verdict)
                });
        };
        let chosen = (recorded.dst, recorded.dport);
        if !allowed.contains(&chosen) {
            return Err(format!("{chosen:?} was drawn, not one of {allowed:?}"));
        }
        self.remember(ip, service, outside, chosen);
        let source = match self.source(ip, &chosen.0, outside) {
            Ok(source) => source,
            Err(reason) => return Ok(Fate::Dropped(reason)),
        };
        let opened = self.begin(ip, chosen, source, seen)?;
        Ok(opened.map_or_else(Fate::Dropped, |to| self.send(ip, Some(to))))
    }

    /// Why a packet for a backend may end before anything is recorded.
    fn unbegun(&self, ip: &Ip, input: &[u8], backend: (Addr, Be16), outside: bool) -> Option<Fate> {
        if outside && matches!(self.place(&backend.0), Place::Remote(_)) && !self.fits(ip) {
            return Some(self.too_big(ip, input));
        }
        match self.source(ip, &backend.0, outside) {
            Err(reason) => Some(Fate::Dropped(reason)),
            Ok(source) => {
                let ports = self.free_ports(ip, backend, source);
                ports.is_empty().then_some(Fate::Dropped(Reason::SnatExhausted))
            }
        }
    }

    /// A backend on another node must answer to us.
    fn source(&self, ip: &Ip, backend: &Addr, outside: bool) -> Result<Source, Reason> {
        let other = |addr: &Addr| {
            if addr.is_unspecified() { Err(Reason::Unroutable) } else { Ok(Source::Other(*addr)) }
        };
        let (router, node) = (self.config().router(ip.v4), self.config().node(ip.v4));
        match self.place(backend) {
            Place::Pod(..) if !outside && *backend == ip.src => other(router),
            Place::Remote(_) if outside => other(router),
            Place::Routed if outside => other(node),
            Place::Outside if outside || self.has(config_flag::MASQUERADE) => other(node),
            _ => Ok(Source::Kept),
        }
    }

    fn allowed(&self, ip: &Ip, service: &Service, outside: bool) -> Vec<(Addr, Be16)> {
        let frontend = &service.frontend;
        if frontend.affinity_s != 0 {
            let key = AffinityKey { client: ip.src, service_id: frontend.service_id };
            if let Some(last) = self.affinity.get(&key)
                && self.now_s - last.seen_s <= frontend.affinity_s
                && self.is_member(frontend.service_id, (last.addr, last.port), outside)
            {
                return vec![(last.addr, last.port)];
            }
        }
        match self.given.get(&self.maglev_key(ip, service, outside)) {
            Some(backend) if frontend.flags & frontend_flag::MAGLEV != 0 => vec![*backend],
            _ => service.backends.clone(),
        }
    }

    fn maglev_key(&self, ip: &Ip, service: &Service, outside: bool) -> (u32, bool, Addr, u16) {
        let port = if service.frontend.affinity_s != 0 { 0 } else { ip.tuple().sport.get() };
        (service.frontend.service_id, outside, ip.src, port)
    }

    fn is_member(&self, service_id: u32, backend: (Addr, Be16), outside: bool) -> bool {
        let bit = if outside { member_of::OUTSIDE } else { member_of::INSIDE };
        let mut members = self.state.members.iter().rev();
        members
            .find(|(member, _)| member.service_id == service_id && (member.addr, member.port) == backend)
            .is_some_and(|(_, windows)| windows & bit != 0)
    }

    fn remember(&mut self, ip: &Ip, service: &Service, outside: bool, (addr, port): (Addr, Be16)) {
        let frontend = &service.frontend;
        let remembered = self.allowed(ip, service, outside).len() == 1 && service.backends.len() > 1;
        if frontend.flags & frontend_flag::MAGLEV != 0 && !(remembered && frontend.affinity_s != 0) {
            self.given.insert(self.maglev_key(ip, service, outside), (addr, port));
        }
        if frontend.affinity_s != 0 {
            let key = AffinityKey { client: ip.src, service_id: frontend.service_id };
            self.affinity.insert(key, Affinity { addr, port, reserved: 0, seen_s: self.now_s });
        }
    }

    /// The draw notes the client's backend even where the packet goes no further.
    pub fn take_affinity(&mut self, maps: &Maps) {
        self.affinity.clone_from(&maps.affinity.borrow());
    }

    /// Tuples that a connection may become.
    fn free_ports(&self, ip: &Ip, (dst, dport): (Addr, Be16), source: Source) -> Vec<Tuple> {
        let natural = Tuple { dst, dport, ..ip.tuple() };
        let config = self.config();
        let free = |to: &Tuple| self.connections.could_be_freed(config, to, self.now_s);
        let with = |src: Addr, port: u16| {
            let mut to = Tuple { src, sport: Be16::new(port), ..natural };
            if matches!(ip.body, Body::Echo { .. }) {
                to.dport = Be16::new(port);
            }
            to
        };
        let has_ports = matches!(ip.body, Body::Ports { .. } | Body::Echo { .. });
        let range = if config.snat_min == 0 { 1..=0 } else { config.snat_min..=config.snat_max };
        match source {
            Source::Kept if self.connections.is_free(config, &natural, self.now_s) => vec![natural],
            Source::Kept if has_ports => range.map(|port| with(natural.src, port)).filter(free).collect(),
            Source::Kept => Vec::new(),
            Source::Other(src) if has_ports => range.map(|port| with(src, port)).filter(free).collect(),
            Source::Other(src) => {
                let to = Tuple { src, ..natural };
                if self.connections.is_free(config, &to, self.now_s) { vec![to] } else { Vec::new() }
            }
        }
    }

    /// A new connection: what the datapath recorded must be one of what is possible.
    fn begin(
        &mut self,
        ip: &Ip,
        to: (Addr, Be16),
        source: Source,
        seen: &Seen<'_>,
    ) -> Result<Result<Tuple, Reason>, String> {
        let key = ip.tuple();
        let possible = self.free_ports(ip, to, source);
        match seen.recorded(&key) {
            Some(recorded) if possible.contains(&recorded) => {
                self.connections.begin(key, recorded, self.now_s);
                Ok(Ok(recorded))
            }
            Some(recorded) => {
                let some: Vec<&Tuple> = possible.iter().take(3).collect();
                Err(format!("{key:?} became {recorded:?}, not one of {} such as {some:?}", possible.len()))
            }
            None if possible.is_empty() => Ok(Err(Reason::SnatExhausted)),
            None => Err(format!("{key:?} was not recorded: {:?}", seen.verdict)),
        }
    }

    /// Looks the packet's connection up; a fragment's by what the first one said.
    fn meet(&mut self, ip: &Ip) -> Option<Tuple> {
        self.meet_as(ip, ip.src)
    }

    /// As [`Model::meet`], as if the packet came from `source`.
    fn meet_as(&mut self, ip: &Ip, source: Addr) -> Option<Tuple> {
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
        let config = self.state.config;
        self.connections.meet(&config, &tuple, ip.flags(), self.now_s)
    }

    fn pod_cidr(&self, addr: &Addr) -> Option<(Addr, bool)> {
        let bits = |addr: &Addr| u128::from_be_bytes(addr.octets());
        let mut cidrs = self.state.pod_cidrs.iter();
        cidrs
            .find(|(len, prefix, _)| (bits(prefix) ^ bits(addr)) >> (128 - len) == 0)
            .map(|(.., cidr)| (cidr.node, cidr.flags & pod_cidr_flag::LOCAL != 0))
    }

    fn place(&self, addr: &Addr) -> Place {
        if let Some((_, endpoint)) = self.state.endpoints.iter().find(|(known, _)| known == addr) {
            return if endpoint.flags & endpoint_flag::POD != 0 {
                Place::Pod(endpoint.ifindex, endpoint.mac)
            } else {
                Place::Node
            };
        }
        match self.pod_cidr(addr) {
            Some((_, true)) => Place::Nobody,
            Some(_) if !self.has(config_flag::TUNNEL) => Place::Routed,
            Some((node, _)) => Place::Remote(node),
            None => Place::Outside,
        }
    }

    /// On to where the packet's destination lives, which counts a hop unless it is the node itself.
    fn send(&self, ip: &Ip, to: Option<Tuple>) -> Fate {
        if let Some(fate) = to.and_then(|to| cut_sctp(ip, &to)) {
            return fate;
        }
        let dst = to.map_or(ip.dst, |to| to.dst);
        let way = match self.place(&dst) {
            Place::Node => return to.map_or(Fate::Same, Fate::Changed),
            Place::Nobody => return Fate::Dropped(Reason::UnknownEndpoint),
            Place::Remote(_) if self.config().overlay_ifindex == 0 => {
                return Fate::Dropped(Reason::TunnelDown);
            }
            Place::Routed | Place::Outside if !has_route(&dst) => return Fate::Dropped(Reason::Unroutable),
            Place::Pod(ifindex, mac) => Way::Pod(ifindex, mac),
            Place::Remote(node) => Way::Node(node),
            Place::Routed | Place::Outside => Way::Out(self.config().uplink_ifindex),
        };
        if ip.ttl <= 1 { Fate::Dropped(Reason::TtlExpired) } else { Fate::Sent(way, to) }
    }

    fn is_tunnel(&self, ip: &Ip) -> bool {
        ip.proto == proto::UDP
            && matches!(ip.body, Body::Ports { dport, .. } if dport == self.config().tunnel_port)
    }

    fn fits(&self, ip: &Ip) -> bool {
        let length = (ip.end - 14) as u32;
        length <= self.config().pod_mtu || !ip.whole || ip.piece.is_some()
    }

    fn too_big(&self, ip: &Ip, input: &[u8]) -> Fate {
        let (kind, options) = if ip.v4 { ((3, 4), ip.header != 20) } else { ((2, 0), ip.l4 != 54) };
        if ip.is_report() || matches!(ip.body, Body::Later) {
            Fate::Dropped(Reason::TooBig)
        } else if options {
            Fate::Refused(Reason::TooBig)
        } else {
            Fate::Answered(Reason::TooBig, told(ip, input, kind, self.config().pod_mtu))
        }
    }
}

/// Who may send at all; none: go on.
fn admission(ip: &Ip, link: &Link) -> Option<Fate> {
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

/// Nothing but SYN and ACK opens a connection.
fn opens_nothing(ip: &Ip) -> bool {
    let flags = ip.flags();
    ip.proto == proto::TCP
        && matches!(ip.body, Body::Ports { .. })
        && (flags & (SYN | ACK) == SYN | ACK || flags & (RST | crate::connections::FIN) != 0)
}

fn is_loopback(addr: &Addr) -> bool {
    match addr.to_ip() {
        std::net::IpAddr::V4(v4) => v4.is_loopback(),
        std::net::IpAddr::V6(v6) => v6.is_loopback(),
    }
}

/// The standard node's routes.
fn has_route(dst: &Addr) -> bool {
    !(dst.is_v4() && dst.octets()[12..15] == [198, 51, 100])
}

/// A piece's SCTP sum covers the whole datagram.
fn cut_sctp(ip: &Ip, to: &Tuple) -> Option<Fate> {
    let tuple = ip.tuple();
    let changed = (tuple.sport, tuple.dport) != (to.sport, to.dport);
    let cut =
        ip.proto == proto::SCTP && matches!(ip.body, Body::Ports { .. }) && ip.piece.is_some() && changed;
    cut.then_some(Fate::Refused(Reason::RewriteFailed))
}

/// No endpoints: the client is told, by what its protocol has for that.
fn refuse(ip: &Ip, input: &[u8]) -> Fate {
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
