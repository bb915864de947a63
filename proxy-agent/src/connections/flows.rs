use std::{collections::HashMap, sync::Arc, time::Duration};

use proxy_abi::{
    Addr, Be16, Config as Facts, Flow, Peer, SocketKey, SocketOrigin, Tuple, flow_flag, flow_state, map,
    proto, socket_flag,
};
use proxy_state::Actual;
use skerry_kernel::{Error, Map};

use crate::{
    connections::sockets::{self, Protocol, SocketsError},
    programs::pins::Pins,
    tell::metrics::Metrics,
};
use skerry_vocabulary::chain;

#[derive(Debug, thiserror::Error)]
pub(crate) enum FlowsError {
    #[error("look through the flow table")]
    Tables(#[from] Error),
    #[error(transparent)]
    Sockets(#[from] SocketsError),
}

/// The connection table, which the programs fill and we keep clean.
pub(crate) struct Flows {
    flows: Map<Tuple, Flow>,
    sockets: Map<SocketKey, SocketOrigin>,
}

impl Flows {
    pub fn open(pins: &Pins) -> Result<Flows, Error> {
        Ok(Flows { flows: Map::open(&pins.map(map::FLOWS))?, sockets: Map::open(&pins.map(map::SOCKETS))? })
    }

    /// Ends UDP flows whose backend, frontend or service is gone, so that their next packet is balanced anew. Compares
    /// levels, not edges: a service that was deleted while we were away is found as well. Returns how many ended.
    pub fn end_stale_udp(&self, actual: &Actual) -> Result<usize, FlowsError> {
        let stale: Vec<Tuple> = self
            .flows
            .entries()?
            .iter()
            .filter(|(key, flow)| !actual.udp_flow_is_current(key, flow))
            .flat_map(|(key, flow)| [*key, flow.to.flip()])
            .collect();
        let mut ended = self.flows.delete_batch(&stale)?;
        let stuck: Vec<(SocketKey, SocketOrigin)> = self
            .sockets
            .entries()?
            .into_iter()
            .filter(|(key, origin)| key.proto == proto::UDP && !socket_is_current(actual, key, origin))
            .collect();
        let keys: Vec<SocketKey> = stuck.iter().map(|(key, _)| *key).collect();
        ended += self.sockets.delete_batch(&keys)?;
        let connected = stuck
            .iter()
            .filter(|(_, origin)| origin.flags & (socket_flag::CHOICE | socket_flag::ASIDE) == 0)
            .map(|(key, _)| (key.cookie, key.addr, key.port));
        Ok(ended + sockets::end(Protocol::Udp, &connected.collect())?)
    }

    /// The TCP flows, by their forward entry, that `is_gone` says of their service's number and their backend.
    pub fn tcp_by_backend(&self, is_gone: impl Fn(u32, (Addr, Be16)) -> bool) -> Result<Vec<Tuple>, Error> {
        let mut found = Vec::new();
        self.flows.for_each(|key, flow| {
            let is_forward = key.proto == proto::TCP && flow.flags & flow_flag::REVERSE == 0;
            let is_open = flow.service_id != 0 && flow.state != flow_state::CLOSING;
            if is_forward && is_open && is_gone(flow.service_id, (flow.to.dst, flow.to.dport)) {
                found.push(key);
            }
        })?;
        Ok(found)
    }

    /// Forgets flows by their forward entry: their next segment meets none, and is refused by who gets it. Returns how many
    /// were there.
    pub fn forget(&self, forward: &[Tuple]) -> Result<usize, Error> {
        let mut both = Vec::new();
        for key in forward {
            if let Some(flow) = self.flows.lookup(key)? {
                both.extend([*key, flow.to.flip()]);
            }
        }
        self.flows.delete_batch(&both)?;
        Ok(both.len() / 2)
    }

    /// Removes flows that were silent in both directions for longer than their state allows. `now_s`: seconds of
    /// `CLOCK_MONOTONIC`, as the programs count them.
    pub fn collect(&self, facts: &Facts, now_s: u32) -> Result<Collected, Error> {
        let mut collected = Collected { capacity: self.flows.info().max_entries, ..Collected::default() };
        let is_idle =
            |key: &Tuple, flow: &Flow| now_s.saturating_sub(flow.seen_s) > timeout_s(facts, key.proto, flow);
        let mut idle: HashMap<Tuple, Tuple> = HashMap::new();
        self.flows.for_each(|key, flow| {
            *match flow.state {
                flow_state::EMBRYONIC => &mut collected.embryonic,
                flow_state::ESTABLISHED => &mut collected.established,
                _ => &mut collected.closing,
            } += 1;
            if is_idle(&key, &flow) {
                idle.insert(key, flow.to.flip());
            }
        })?;
        let mut silent = Vec::new();
        for (key, twin) in &idle {
            // One record, two entries: as long as one direction lives, both stay.
            let is_over =
                idle.contains_key(twin) || self.flows.lookup(twin)?.is_none_or(|flow| is_idle(twin, &flow));
            if is_over {
                silent.push(*key);
            }
        }
        collected.removed = self.flows.delete_batch(&silent)?;
        Ok(collected)
    }
}

/// The largest number of a service that a connection knows: a service that gets it anew would be taken for the old one.
pub(crate) fn last_service_id(pins: &Pins) -> Result<u32, Error> {
    let mut last = 0;
    Map::<Tuple, Flow>::open(&pins.map(map::FLOWS))?.for_each(|_, flow| last = last.max(flow.service_id))?;
    Map::<u32, Peer>::open(&pins.map(map::PEERS))?.for_each(|_, peer| last = last.max(peer.service_id))?;
    Map::<SocketKey, SocketOrigin>::open(&pins.map(map::SOCKETS))?
        .for_each(|_, origin| last = last.max(origin.service_id))?;
    Ok(last)
}

/// What [`Flows::collect`] has seen, and done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Collected {
    pub removed: usize,
    /// Entries by [`flow_state`], two a flow.
    pub embryonic: u32,
    pub established: u32,
    pub closing: u32,
    pub capacity: u32,
}

/// Calls [`Flows::collect`] on a timer, off the loop that events wait for.
pub(crate) async fn collect_forever(flows: Flows, pins: Pins, every: Duration, metrics: Arc<Metrics>) {
    let flows = Arc::new(flows);
    let mut timer = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    loop {
        timer.tick().await;
        let (flows, path) = (flows.clone(), pins.map(map::CONFIG));
        let collected = tokio::task::spawn_blocking(move || {
            let facts = Map::<u32, Facts>::open(&path)?.lookup(&0)?.unwrap_or_default();
            flows.collect(&facts, monotonic_s())
        });
        match collected.await {
            Ok(Ok(collected)) => metrics.set_flows(&collected),
            Ok(Err(error)) => tracing::error!(error = chain(&error), "flow table not looked through"),
            Err(error) => tracing::error!(%error, "flow table not looked through"),
        }
    }
}

/// The clock that the programs stamp flows with.
fn monotonic_s() -> u32 {
    let now = nix::time::ClockId::CLOCK_MONOTONIC.now();
    now.map_or(0, |now| now.tv_sec() as u32)
}

/// A socket's datagrams stick to a backend (`CHOICE`: service address → backend); answers are shown as coming from the
/// service (backend → service address).
fn socket_is_current(actual: &Actual, key: &SocketKey, origin: &SocketOrigin) -> bool {
    let pair = |service: (Addr, Be16), backend: (Addr, Be16)| {
        actual.udp_backend_is_current(service, origin.service_id, backend)
    };
    match origin.flags & socket_flag::CHOICE {
        0 => pair((origin.addr, origin.port), (key.addr, key.port)),
        _ => pair((key.addr, key.port), (origin.addr, origin.port)),
    }
}

fn timeout_s(facts: &Facts, protocol: u8, flow: &Flow) -> u32 {
    match (protocol, flow.state) {
        (proto::TCP, flow_state::CLOSING) => facts.tcp_closing_s,
        (proto::TCP, flow_state::ESTABLISHED) => facts.tcp_established_s,
        (proto::TCP, _) => facts.tcp_syn_s,
        (proto::ICMP | proto::ICMPV6, _) => facts.icmp_s,
        (_, flow_state::EMBRYONIC) => facts.udp_s,
        _ => facts.udp_stream_s,
    }
}
