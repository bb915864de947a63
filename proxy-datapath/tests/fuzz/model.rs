//! What each hook should do with a frame.

mod leaving;
mod openings;
mod ways;

use std::collections::{HashMap, HashSet};

use proxy_abi::{
    Addr, Affinity, AffinityKey, Be16, DIRECT_MAC_TAG, Facts, Reason, Tuple, endpoint_flag, facts_flag,
    frontend_flag,
};
use proxy_datapath::{Action, Tables, Verdict};

use crate::{
    cases::{Hook, POD_A_IFINDEX, State, state::addr},
    connections::{Connections, SYN},
    expect::{Fate, Way},
    memory::Maps,
    read::{Body, Frame, Ip, frame},
    services::{Found, endpoint_flags, find},
};

use ways::{admission, cut_sctp, has_route, is_loopback, is_midway, opens_nothing, refuse};

/// What was seen of the datapath: needed where it draws lots.
pub struct Seen<'a> {
    pub verdict: Verdict,
    pub maps: &'a Maps,
}

impl Seen<'_> {
    /// What the datapath has recorded for a connection's first tuple.
    fn recorded(&self, key: &Tuple) -> Option<Tuple> {
        self.maps.flow(key, |flow| flow.to)
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
    /// Ports of the node's own address that clients have dialled, and those that backends in its network have
    /// answered from.
    asked: HashSet<u16>,
    answering: HashSet<u16>,
    /// Maglev: what a client was given, by service, window, its address and port.
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
            asked: HashSet::new(),
            answering: HashSet::new(),
            given: HashMap::new(),
            now_s,
        }
    }

    /// What should have become of a frame; an error where what was drawn by chance could not be drawn.
    pub fn judge(&mut self, hook: Hook, input: &[u8], seen: &Seen<'_>) -> Result<(Fate, Option<Ip>), String> {
        let read = frame(input);
        if self.state.facts.abi_version == 0 {
            return Ok((Fate::Same, None));
        }
        if let Frame::Ip(ip) = &read
            && matches!(ip.body, Body::Other { doubtful: true, .. })
        {
            return Ok((Fate::Anything, None));
        }
        let fate = match hook {
            Hook::FromPod => self.at_from_pod(&read, input, seen)?,
            Hook::ToPod => self.at_to_pod(&read, seen)?,
            Hook::FromOverlay(peer, vni) => self.at_from_overlay(&read, input, &addr(peer), vni, seen)?,
            Hook::ToOverlay => self.at_to_overlay(&read, seen)?,
            Hook::FromUplink => self.at_from_uplink(&read, input, seen)?,
            Hook::ToUplink => self.at_to_uplink(&read, input, seen)?,
        };
        let ip = if let Frame::Ip(ip) = read { Some(ip) } else { None };
        Ok((fate, ip))
    }

    fn facts(&self) -> &Facts {
        &self.state.facts
    }

    fn has(&self, flag: u32) -> bool {
        self.facts().flags & flag != 0
    }

    fn at_from_pod(&mut self, read: &Frame, input: &[u8], seen: &Seen<'_>) -> Result<Fate, String> {
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
        let router = *self.facts().router(ip.v4);
        if let Some(to) = self.meet(ip) {
            if self.is_nodes_alone(ip, &to) {
                return Ok(Fate::Dropped(Reason::SpokeAsNode));
            }
            let ended = self.last_hop(ip, input, &to.dst, &router);
            return Ok(ended.unwrap_or_else(|| self.send(ip, Some(to))));
        }
        match find(&self.state, ip, false) {
            Found::Drop(reason) => Ok(Fate::Dropped(reason)),
            Found::Reject => Ok(refuse(ip, input)),
            Found::Served(service) if service.some_stale && seen.is_drop(Reason::StaleSlot) => {
                Ok(Fate::Dropped(Reason::StaleSlot))
            }
            Found::Served(service) if opens_nothing(ip) => {
                let allowed = self.allowed(ip, &service);
                let is_nodes_alone = |(dst, dport): &(Addr, Be16)| {
                    self.is_nodes_alone(ip, &Tuple { dst: *dst, dport: *dport, ..ip.tuple() })
                };
                if seen.is_drop(Reason::SpokeAsNode) && allowed.iter().any(is_nodes_alone) {
                    return Ok(Fate::Dropped(Reason::SpokeAsNode));
                }
                let mut ended = allowed.iter().filter_map(|(dst, _)| self.last_hop(ip, input, dst, &router));
                if seen.verdict.reason == Reason::TtlExpired
                    && let Some(fate) = ended.next()
                {
                    return Ok(fate);
                }
                let unroutable =
                    service.backends.iter().any(|(addr, _)| self.source(ip, addr, false).is_err());
                let reason = if unroutable && seen.is_drop(Reason::Unroutable) {
                    Reason::Unroutable
                } else {
                    Reason::NoFlow
                };
                Ok(Fate::Dropped(reason))
            }
            Found::Served(service) => self.serve(ip, input, &service, false, seen),
            Found::No if self.is_nodes_alone(ip, &self.as_it_is(ip)) => {
                Ok(Fate::Dropped(Reason::SpokeAsNode))
            }
            Found::No => match self.last_hop(ip, input, &ip.dst, &router) {
                Some(fate) => Ok(fate),
                None => self.leave(ip, seen),
            },
        }
    }

    /// A pod's packet to no service.
    fn leave(&mut self, ip: &Ip, seen: &Seen<'_>) -> Result<Fate, String> {
        let node = *self.facts().node(ip.v4);
        match self.place(&ip.dst) {
            Place::Outside => {}
            _ if self.asks_backend_itself(ip) => {
                let opened = self.begin(ip, (ip.dst, ip.tuple().dport), Source::Kept, seen)?;
                return Ok(opened.map_or_else(Fate::Dropped, |to| self.send(ip, Some(to))));
            }
            Place::Routed => return Ok(Fate::Same),
            _ => return Ok(self.send(ip, None)),
        }
        if !self.has(facts_flag::MASQUERADE) || node.is_unspecified() || !has_route(&ip.dst) {
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

    fn at_from_uplink(&mut self, read: &Frame, input: &[u8], seen: &Seen<'_>) -> Result<Fate, String> {
        let ip = match read {
            Frame::Mapped => return Ok(Fate::Dropped(Reason::MappedOnWire)),
            Frame::Ip(ip) => ip,
            _ => return Ok(Fate::Same),
        };
        if self.is_for_own_socket(ip) {
            return Ok(Fate::Same);
        }
        let node = *self.facts().node(ip.v4);
        if self.is_tunnel(ip) {
            // The node's other addresses are the kernel's to take, and no node sends there.
            let is_ours =
                endpoint_flags(&self.state, &ip.dst).is_some_and(|own| own & endpoint_flag::POD == 0);
            let is_forged = ip.dst != node && is_ours && self.state.tunnel_peers.contains(&ip.src);
            return Ok(if is_forged { Fate::Dropped(Reason::SpokeAsNode) } else { Fate::Same });
        }
        if is_loopback(&ip.src) || is_loopback(&ip.dst) {
            return Ok(Fate::Dropped(Reason::LoopbackSource));
        }
        if let Some((to, direct)) = self.meet_any(ip) {
            if self.is_nodes_alone(ip, &to) {
                return Ok(Fate::Dropped(Reason::SpokeAsNode));
            }
            if let Some(fate) = self.last_hop(ip, input, &to.dst, &node) {
                return Ok(fate);
            }
            if matches!(self.place(&to.dst), Place::Remote(_)) && !self.fits(ip) {
                return Ok(self.too_big(ip, input));
            }
            return Ok(if direct { self.hand_on(ip, to) } else { self.send(ip, Some(to)) });
        }
        if self.has(facts_flag::TUNNEL) && self.pod_cidr(&ip.src).is_some() {
            return Ok(Fate::Dropped(Reason::SourceSpoofed));
        }
        match find(&self.state, ip, ip.src != node) {
            Found::No if !self.asks_backend_itself(ip) => Ok(Fate::Same),
            Found::No => self.ask_itself(ip, input, seen),
            Found::Drop(reason) => Ok(Fate::Dropped(reason)),
            Found::Reject => Ok(refuse(ip, input)),
            Found::Served(service) => {
                if service.some_stale && seen.is_drop(Reason::StaleSlot) {
                    return Ok(Fate::Dropped(Reason::StaleSlot));
                }
                // Another node's connection comes here when that node is gone; what a server says never does.
                let maglev = service.frontend.flags & frontend_flag::MAGLEV != 0;
                let joins = maglev && ip.flags() & SYN == 0;
                if is_midway(ip) && !joins {
                    return Ok(Fate::Same);
                }
                self.serve(ip, input, &service, true, seen)
            }
        }
    }

    /// A client's packet to a backend itself, whose answers would bear its service's address.
    fn ask_itself(&mut self, ip: &Ip, input: &[u8], seen: &Seen<'_>) -> Result<Fate, String> {
        let backend = (ip.dst, ip.tuple().dport);
        if let Some(fate) = self.unbegun(ip, input, backend, true, false) {
            return Ok(fate);
        }
        let source = self.source(ip, &ip.dst, true);
        let Ok(source) = source else { return Ok(Fate::Anything) };
        self.note_ports(ip, backend);
        let opened = self.begin(ip, backend, source, seen)?;
        Ok(opened.map_or_else(Fate::Dropped, |to| self.send(ip, Some(to))))
    }

    fn at_from_overlay(
        &mut self,
        read: &Frame,
        input: &[u8],
        peer: &Addr,
        vni: u32,
        seen: &Seen<'_>,
    ) -> Result<Fate, String> {
        if vni != self.facts().vni {
            return Ok(Fate::Dropped(Reason::WrongVni));
        }
        if !self.state.tunnel_peers.contains(peer) {
            return Ok(Fate::Dropped(Reason::UnknownTunnelPeer));
        }
        let ip = match read {
            Frame::Broken => return Ok(Fate::Dropped(Reason::Malformed)),
            Frame::Mapped => return Ok(Fate::Dropped(Reason::MappedOnWire)),
            Frame::Arp | Frame::Foreign => return Ok(Fate::Dropped(Reason::UnknownProtocol)),
            Frame::Ip(ip) => ip,
        };
        if input[6] == DIRECT_MAC_TAG {
            return self.at_backends_node(ip, input, seen);
        }
        if self.pod_cidr(&ip.src).is_none_or(|(node, _)| node != *peer) {
            return Ok(Fate::Dropped(Reason::SourceSpoofed));
        }
        let met = self.meet(ip);
        if self.is_nodes_alone(ip, &met.unwrap_or_else(|| self.as_it_is(ip))) {
            return Ok(Fate::Dropped(Reason::SpokeAsNode));
        }
        if let Some(to) = met {
            return Ok(self.send(ip, Some(to)));
        }
        Ok(match self.place(&ip.dst) {
            Place::Pod(..) | Place::Node => self.send(ip, None),
            _ => Fate::Dropped(Reason::UnknownEndpoint),
        })
    }

    /// What another node has drawn a pod of this one for.
    fn at_backends_node(&mut self, ip: &Ip, input: &[u8], seen: &Seen<'_>) -> Result<Fate, String> {
        let is_pods = |model: &Model, addr: &Addr| matches!(model.place(addr), Place::Pod(..));
        if self.pod_cidr(&ip.src).is_some() || is_loopback(&ip.src) {
            return Ok(Fate::Dropped(Reason::SourceSpoofed));
        }
        if let Some(to) = self.meet(ip) {
            let known = is_pods(self, &to.dst);
            return Ok(if known { self.send(ip, Some(to)) } else { Fate::Dropped(Reason::UnknownEndpoint) });
        }
        match ip.body {
            Body::Later => return Ok(Fate::Dropped(Reason::FragmentUnknown)),
            Body::Ports { .. } if !opens_nothing(ip) => {}
            _ => return Ok(Fate::Dropped(Reason::NoFlow)),
        }
        let mut octets = self.facts().router(ip.v4).octets();
        octets[8..13].copy_from_slice(&input[1..6]);
        octets[13..].copy_from_slice(&input[7..10]);
        let backend = (Addr::from_v6(octets), Be16::new(u16::from_be_bytes([input[10], input[11]])));
        if input[0] != DIRECT_MAC_TAG || backend.0.is_v4() != ip.v4 {
            return Ok(Fate::Dropped(Reason::Malformed));
        }
        if !is_pods(self, &backend.0) {
            return Ok(Fate::Dropped(Reason::UnknownEndpoint));
        }
        self.connections.forget_direct(&ip.tuple());
        self.note_ports(ip, backend);
        let opened = self.begin(ip, backend, Source::Kept, seen)?;
        Ok(opened.map_or_else(Fate::Dropped, |to| self.send(ip, Some(to))))
    }

    fn at_to_overlay(&mut self, read: &Frame, seen: &Seen<'_>) -> Result<Fate, String> {
        let ip = match read {
            Frame::Broken => return Ok(Fate::Dropped(Reason::Malformed)),
            Frame::Mapped => return Ok(Fate::Dropped(Reason::MappedOnWire)),
            Frame::Arp | Frame::Foreign => return Ok(Fate::Dropped(Reason::UnknownProtocol)),
            Frame::Ip(ip) => ip,
        };
        let Place::Remote(node) = self.place(&ip.dst) else { return Ok(Fate::Dropped(Reason::Unroutable)) };
        let way = Way::Keyed(node);
        let own = endpoint_flags(&self.state, &ip.src).unwrap_or(0);
        if own & endpoint_flag::NODE == 0 {
            let to = if own & endpoint_flag::ROUTER != 0 { self.keep_apart(ip, seen)? } else { None };
            return Ok(to.and_then(|to| cut_sctp(ip, &to)).unwrap_or(Fate::Sent(way, to)));
        }
        if let Some(to) = self.meet(ip) {
            return Ok(cut_sctp(ip, &to).unwrap_or(Fate::Sent(way, Some(to))));
        }
        match ip.body {
            Body::Report(_) => return Ok(Fate::Dropped(Reason::NoFlow)),
            Body::Later => return Ok(Fate::Dropped(Reason::FragmentUnknown)),
            _ => {}
        }
        let router = *self.facts().router(ip.v4);
        let opened = self.begin(ip, (ip.dst, ip.tuple().dport), Source::Other(router), seen)?;
        Ok(opened.map_or_else(Fate::Dropped, |to| cut_sctp(ip, &to).unwrap_or(Fate::Sent(way, Some(to)))))
    }
}
