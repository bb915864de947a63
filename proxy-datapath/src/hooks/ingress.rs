//! Direct server return, at the backend's node: what another node got from a client and handed on through the
//! tunnel.

use proxy_abi::{Facts, Reason, flow_flag};

use crate::{
    packets::{addresses::is_loopback, view::Kind},
    state::{
        hop::Place,
        scratch::{Fresh, Scratch},
        verdict::Verdict,
    },
    steps::{
        call::{PacketSteps, TableSteps},
        service::asked,
    },
};

/// What another node got from a client outside and sent here for the backend that it drew.
#[inline(always)]
pub(crate) fn from_ingress<P: PacketSteps, T: TableSteps>(
    packet: &mut P,
    tables: &T,
    s: &mut Scratch,
    facts: &Facts,
) -> Verdict {
    // It came from a node ([`speaks_as_node`](crate::steps::peers::speaks_as_node) keeps pods from what would
    // look so), which writes these addresses itself into what its pods send, and speaks for no pod in this
    // way.
    if tables.pod_cidr(&s.view.src).is_some() || is_loopback(&s.view.src) {
        return Verdict::drop(Reason::SourceSpoofed);
    }
    let found = tables.find_flow(s);
    let outdated = s.direct;
    s.direct = false;
    let known = found && !outdated;
    if !known {
        s.forget_path();
        match s.view.kind {
            Kind::Ports if !s.view.is_stray() => {}
            Kind::Fragment => return Verdict::drop(Reason::FragmentUnknown),
            _ => return Verdict::drop(Reason::NoFlow),
        }
        s.to = s.view.tuple;
        if !s.head.named_backend(facts.router(s.view.v4), s.view.v4, &mut s.to) {
            return Verdict::drop(Reason::Malformed);
        }
        let service_id = asked(tables, &s.view).map_or(0, |frontend| frontend.service_id);
        s.fresh = Fresh { service_id, flags: flow_flag::DNAT | flow_flag::FROM_UPLINK, snat: false };
    }
    tables.locate(s);
    if !matches!(s.hop.place, Place::Pod) {
        return Verdict::drop(Reason::UnknownEndpoint);
    }
    if outdated {
        // The client has reached this node first, and now another one.
        tables.remove_flow(&s.view.tuple);
    }
    if !known && !tables.record_flow(s) {
        return s.verdict;
    }
    // Another CPU may have recorded it as something else.
    if s.direct || !matches!(s.hop.place, Place::Pod) {
        return Verdict::drop(Reason::UnknownEndpoint);
    }
    if packet.take_in().is_none() {
        return Verdict::drop(Reason::RewriteFailed);
    }
    packet.keep(tables, s);
    if packet.rewrite(s) { packet.forward(s, facts) } else { s.verdict }
}
