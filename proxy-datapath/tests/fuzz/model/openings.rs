//! First packets: which backend, which source, which port.

use proxy_abi::{Addr, Affinity, AffinityKey, Be16, Reason, Tuple, facts_flag, frontend_flag, member_of};

use super::{Model, Place, Seen, Source};
use crate::{
    expect::Fate,
    memory::Maps,
    read::{Body, Ip},
    services::Service,
};

impl Model {
    /// The first packet to a service.
    pub(super) fn serve(
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
        let allowed = self.allowed(ip, service);
        let Some(recorded) = recorded else {
            // Nothing was begun: some backend must account for that. Which one it was nobody can tell.
            let agrees = |fate: &Fate| match fate {
                Fate::Dropped(reason) => seen.is_drop(*reason),
                Fate::Answered(reason, _) | Fate::Refused(reason) => seen.verdict.reason == *reason,
                _ => false,
            };
            let direct = outside && self.answers_directly(ip, service);
            let unbegun = |backend: &(Addr, Be16)| self.unbegun(ip, input, *backend, outside, direct);
            let mut fates = allowed.iter().filter_map(unbegun);
            return match fates.find(agrees) {
                // What was drawn has left its marks.
                Some(Fate::Dropped(Reason::SnatExhausted)) => Ok(Fate::Anything),
                Some(fate) => Ok(fate),
                None => {
                    Err(format!("{:?}, and no connection to one of {allowed:?} is recorded", seen.verdict))
                }
            };
        };
        let chosen = (recorded.dst, recorded.dport);
        if !allowed.contains(&chosen) {
            return Err(format!("{chosen:?} was drawn, not one of {allowed:?}"));
        }
        self.remember(ip, service, chosen);
        if outside {
            self.note_ports(ip, chosen);
        } else {
            self.answering.insert(chosen.1.get());
        }
        if outside && self.answers_directly(ip, service) && matches!(self.place(&chosen.0), Place::Remote(_))
        {
            if recorded.src != ip.src || recorded.sport != ip.tuple().sport {
                return Err(format!("{recorded:?}: a direct packet keeps its source"));
            }
            self.connections.begin(ip.tuple(), recorded, self.now_s, true);
            return Ok(self.hand_on(ip, recorded));
        }
        let source = match self.source(ip, &chosen.0, outside) {
            Ok(source) => source,
            Err(reason) => return Ok(Fate::Dropped(reason)),
        };
        let opened = self.begin(ip, chosen, source, seen)?;
        Ok(opened.map_or_else(Fate::Dropped, |to| self.send(ip, Some(to))))
    }

    /// Nodes are answered the way that they came.
    fn answers_directly(&self, ip: &Ip, service: &Service) -> bool {
        service.is_direct() && !self.state.tunnel_peers.contains(&ip.src)
    }

    /// Why a packet for a backend may end before anything is recorded.
    pub(super) fn unbegun(
        &self,
        ip: &Ip,
        input: &[u8],
        backend: (Addr, Be16),
        outside: bool,
        direct: bool,
    ) -> Option<Fate> {
        let to = Tuple { dst: backend.0, dport: backend.1, ..ip.tuple() };
        if self.is_nodes_alone(ip, &to) {
            return Some(Fate::Dropped(Reason::SpokeAsNode));
        }
        let here = if outside { self.facts().node(ip.v4) } else { self.facts().router(ip.v4) };
        if let Some(fate) = self.last_hop(ip, input, &backend.0, here) {
            return Some(fate);
        }
        if outside && matches!(self.place(&backend.0), Place::Remote(_)) && !self.fits(ip) {
            return Some(self.too_big(ip, input));
        }
        if direct && matches!(self.place(&backend.0), Place::Remote(_)) {
            return None;
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
    pub(super) fn source(&self, ip: &Ip, backend: &Addr, outside: bool) -> Result<Source, Reason> {
        let other = |addr: &Addr| {
            if addr.is_unspecified() { Err(Reason::Unroutable) } else { Ok(Source::Other(*addr)) }
        };
        let (router, node) = (self.facts().router(ip.v4), self.facts().node(ip.v4));
        match self.place(backend) {
            Place::Pod(..) if !outside && *backend == ip.src => other(router),
            Place::Remote(_) if outside => other(router),
            Place::Routed if outside => other(node),
            Place::Outside if outside || self.has(facts_flag::MASQUERADE) => other(node),
            _ => Ok(Source::Kept),
        }
    }

    pub(super) fn allowed(&self, ip: &Ip, service: &Service) -> Vec<(Addr, Be16)> {
        let frontend = &service.frontend;
        if frontend.affinity_s != 0 {
            let key = AffinityKey { client: ip.src, service_id: frontend.service_id };
            if let Some(last) = self.affinity.get(&key)
                && self.now_s - last.seen_s <= frontend.affinity_s
                && self.is_member(frontend.service_id, (last.addr, last.port), service.outside)
            {
                return vec![(last.addr, last.port)];
            }
        }
        match self.given.get(&self.maglev_key(ip, service)) {
            Some(backend) if frontend.flags & frontend_flag::MAGLEV != 0 => vec![*backend],
            _ => service.backends.clone(),
        }
    }

    pub(super) fn maglev_key(&self, ip: &Ip, service: &Service) -> (u32, bool, Addr, u16) {
        let port = if service.frontend.affinity_s != 0 { 0 } else { ip.tuple().sport.get() };
        (service.frontend.service_id, service.outside, ip.src, port)
    }

    pub(super) fn is_member(&self, service_id: u32, backend: (Addr, Be16), outside: bool) -> bool {
        let bit = if outside { member_of::OUTSIDE } else { member_of::INSIDE };
        let mut members = self.state.members.iter().rev();
        members
            .find(|(member, _)| member.service_id == service_id && (member.addr, member.port) == backend)
            .is_some_and(|(_, windows)| windows & bit != 0)
    }

    pub(super) fn remember(&mut self, ip: &Ip, service: &Service, (addr, port): (Addr, Be16)) {
        let frontend = &service.frontend;
        let remembered = self.allowed(ip, service).len() == 1 && service.backends.len() > 1;
        if frontend.flags & frontend_flag::MAGLEV != 0 && !(remembered && frontend.affinity_s != 0) {
            self.given.insert(self.maglev_key(ip, service), (addr, port));
        }
        if frontend.affinity_s != 0 {
            let key = AffinityKey { client: ip.src, service_id: frontend.service_id };
            self.affinity.insert(key, Affinity { addr, port, reserved: 0, seen_s: self.now_s });
        }
    }

    /// Services have got other backends: a Maglev table may give another one now.
    pub fn forget_tables(&mut self) {
        self.given.clear();
    }

    /// The draw notes the client's backend even where the packet goes no further.
    pub fn take_affinity(&mut self, maps: &Maps) {
        self.affinity.clone_from(&maps.affinity.borrow());
    }

    /// Tuples that a connection may become.
    pub(super) fn free_ports(&self, ip: &Ip, (dst, dport): (Addr, Be16), source: Source) -> Vec<Tuple> {
        let natural = Tuple { dst, dport, ..ip.tuple() };
        let facts = self.facts();
        let free = |to: &Tuple| self.connections.could_be_freed(facts, to, self.now_s);
        let with = |src: Addr, port: u16| {
            let mut to = Tuple { src, sport: Be16::new(port), ..natural };
            if matches!(ip.body, Body::Echo { .. }) {
                to.dport = Be16::new(port);
            }
            to
        };
        let has_ports = matches!(ip.body, Body::Ports { .. } | Body::Echo { .. });
        let range = if facts.snat_min == 0 { 0..0 } else { facts.snat_min..facts.snat_max + 1 };
        match source {
            Source::Kept if self.connections.is_free(facts, &natural, self.now_s) => vec![natural],
            Source::Kept if has_ports => range.map(|port| with(natural.src, port)).filter(free).collect(),
            Source::Kept => Vec::new(),
            Source::Other(src) if has_ports => range.map(|port| with(src, port)).filter(free).collect(),
            Source::Other(src) => {
                let to = Tuple { src, ..natural };
                if self.connections.is_free(facts, &to, self.now_s) { vec![to] } else { Vec::new() }
            }
        }
    }

    /// A new connection: what the datapath recorded must be one of what is possible.
    pub(super) fn begin(
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
                self.connections.begin(key, recorded, self.now_s, false);
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

    pub(super) fn note_ports(&mut self, ip: &Ip, backend: (Addr, Be16)) {
        if ip.dst == *self.facts().node(ip.v4) {
            self.asked.insert(ip.tuple().dport.get());
        }
        if matches!(self.place(&backend.0), Place::Node) {
            self.answering.insert(backend.1.get());
        }
    }
}
