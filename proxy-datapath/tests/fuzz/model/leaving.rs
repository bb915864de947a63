//! What the node's own stack sends: to its pods, and out of the uplink.

use proxy_abi::{Addr, Reason, endpoint_flag, facts_flag};

use super::{
    Model, Seen, Source,
    ways::{cut_sctp, refuse},
};
use crate::{
    expect::Fate,
    read::{Body, Frame, Ip},
    services::{Found, endpoint_flags, find},
};

impl Model {
    pub(super) fn at_to_pod(&mut self, read: &Frame, seen: &Seen<'_>) -> Result<Fate, String> {
        let Frame::Ip(ip) = read else { return Ok(Fate::Same) };
        let own = endpoint_flags(&self.state, &ip.src).unwrap_or(0);
        if own & (endpoint_flag::NODE | endpoint_flag::ROUTER) == 0 && !matches!(ip.body, Body::Report(_)) {
            return Ok(Fate::Same);
        }
        // The node may answer by its router address what it was asked at its own.
        let as_node = own & endpoint_flag::ROUTER != 0 && matches!(ip.body, Body::Ports { .. } | Body::Later);
        let source = if as_node { *self.facts().node(ip.v4) } else { ip.src };
        match self.meet_as(ip, source) {
            Some(to) => Ok(cut_sctp(ip, &to).unwrap_or(Fate::Changed(to))),
            None if own & endpoint_flag::NODE == 0 => Ok(Fate::Same),
            None => self.remember_own(ip, seen),
        }
    }

    pub(super) fn at_to_uplink(
        &mut self,
        read: &Frame,
        input: &[u8],
        seen: &Seen<'_>,
    ) -> Result<Fate, String> {
        let Frame::Ip(ip) = read else { return Ok(Fate::Same) };
        let Some(own) = endpoint_flags(&self.state, &ip.src) else { return Ok(Fate::Same) };
        let is_nodes = own & endpoint_flag::NODE != 0;
        if self.is_from_own_socket(ip) || (is_nodes && self.is_tunnel(ip)) {
            return Ok(Fate::Same);
        }
        if is_nodes && self.asks_service(ip) {
            return self.ask_service(ip, input, seen);
        }
        let met = self.meet(ip);
        let leaves_as = met.unwrap_or_else(|| self.as_it_is(ip));
        if own & endpoint_flag::POD != 0
            && self.state.tunnel_peers.contains(&leaves_as.dst)
            && self.is_nodes_alone(ip, &leaves_as)
        {
            return Ok(Fate::Dropped(Reason::SpokeAsNode));
        }
        if let Some(to) = met {
            return Ok(cut_sctp(ip, &to).unwrap_or(Fate::Changed(to)));
        }
        if is_nodes {
            return self.share(ip, seen);
        }
        if !self.has(facts_flag::MASQUERADE) {
            return Ok(Fate::Same);
        }
        let node = *self.facts().node(ip.v4);
        match ip.body {
            Body::Report(_) => return Ok(Fate::Dropped(Reason::NoFlow)),
            Body::Later => return Ok(Fate::Dropped(Reason::FragmentUnknown)),
            _ if node.is_unspecified() => return Ok(Fate::Dropped(Reason::Unroutable)),
            _ => {}
        }
        let opened = self.begin(ip, (ip.dst, ip.tuple().dport), Source::Other(node), seen)?;
        Ok(opened.map_or_else(Fate::Dropped, |to| cut_sctp(ip, &to).unwrap_or(Fate::Changed(to))))
    }

    /// What a socket of the node sends to a service's address that the socket hooks have left alone.
    fn ask_service(&mut self, ip: &Ip, input: &[u8], seen: &Seen<'_>) -> Result<Fate, String> {
        let refused = || match refuse(ip, input) {
            Fate::Answered(reason, bytes) => Fate::TakenIn(reason, bytes),
            other => other,
        };
        if !matches!(ip.body, Body::Later) {
            match find(&self.state, ip, false) {
                Found::Drop(reason) => return Ok(Fate::Dropped(reason)),
                Found::Reject => return Ok(refused()),
                Found::No => return Ok(Fate::Same),
                Found::Served(service) if service.some_stale && seen.is_drop(Reason::StaleSlot) => {
                    return Ok(Fate::Dropped(Reason::StaleSlot));
                }
                Found::Served(service) => {
                    // Its own address is none that the stack would take in.
                    let is_own = |addr: &Addr| {
                        endpoint_flags(&self.state, addr).is_some_and(|own| own & endpoint_flag::NODE != 0)
                    };
                    let allowed = self.allowed(ip, &service);
                    let can_be_told = !matches!(refused(), Fate::Refused(_));
                    let is_refused = match seen.verdict.reason {
                        Reason::Rejected => true,
                        Reason::RewriteFailed => !can_be_told,
                        _ => false,
                    };
                    if !allowed.iter().any(|(addr, _)| is_own(addr) == is_refused) {
                        return Err(format!("{:?}, and its backend is one of {allowed:?}", seen.verdict));
                    }
                    if is_refused {
                        return Ok(refused());
                    }
                }
            }
        }
        let mut frame = input.to_vec();
        frame.copy_within(6..12, 0);
        Ok(Fate::TakenIn(Reason::Passed, frame))
    }
}
