use std::{sync::Arc, time::Duration};

use proxy_abi::{Addr, Be16, Facts, SocketKey, SocketOrigin, Tuple, flow_state, map, proto, socket_flag};
use proxy_maps::{FlowTable, monotonic_s};
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

/// The connections that are translated packet by packet, and the UDP sockets that were given a backend.
pub(crate) struct Flows {
    table: FlowTable,
    sockets: Map<SocketKey, SocketOrigin>,
}

impl Flows {
    pub fn open(pins: &Pins) -> Result<Flows, Error> {
        Ok(Flows { table: FlowTable::open(&pins.maps())?, sockets: Map::open(&pins.map(map::SOCKETS))? })
    }

    /// Ends UDP flows whose backend, frontend or service is gone, so that their next packet is balanced anew.
    /// Compares levels, not edges: a service that was deleted while we were away is found as well. Returns
    /// how many ended.
    pub fn end_stale_udp(&self, actual: &Actual) -> Result<usize, FlowsError> {
        let stale = self.table.find(|key, flow| !actual.udp_flow_is_current(key, flow))?;
        let mut ended = self.table.forget(&stale)?;
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

    /// The TCP flows, by their forward entry, that `is_gone` says of their service's number and their
    /// backend.
    pub fn tcp_by_backend(&self, is_gone: impl Fn(u32, (Addr, Be16)) -> bool) -> Result<Vec<Tuple>, Error> {
        self.table.find(|key, flow| {
            let is_open = flow.service_id != 0 && flow.state != flow_state::CLOSING;
            key.proto == proto::TCP && is_open && is_gone(flow.service_id, (flow.to.dst, flow.to.dport))
        })
    }

    /// See [`FlowTable::forget`].
    pub fn forget(&self, forward: &[Tuple]) -> Result<usize, Error> {
        self.table.forget(forward)
    }
}

/// Calls [`FlowTable::collect`] on a timer, off the loop that events wait for.
pub(crate) async fn collect_forever(table: FlowTable, pins: Pins, every: Duration, metrics: Arc<Metrics>) {
    let table = Arc::new(table);
    let mut timer = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    loop {
        timer.tick().await;
        let (table, path) = (table.clone(), pins.map(map::CONFIG));
        let collected = tokio::task::spawn_blocking(move || {
            let facts = Map::<u32, Facts>::open(&path)?.lookup(&0)?.unwrap_or_default();
            table.collect(&facts, monotonic_s())
        });
        match collected.await {
            Ok(Ok(collected)) => metrics.set_flows(&collected),
            Ok(Err(error)) => tracing::error!(error = chain(&error), "flow table not looked through"),
            Err(error) => tracing::error!(%error, "flow table not looked through"),
        }
    }
}

/// A socket's datagrams stick to a backend (`CHOICE`: service address → backend); answers are shown as coming
/// from the service (backend → service address).
fn socket_is_current(actual: &Actual, key: &SocketKey, origin: &SocketOrigin) -> bool {
    let pair = |service: (Addr, Be16), backend: (Addr, Be16)| {
        actual.udp_backend_is_current(service, origin.service_id, backend)
    };
    match origin.flags & socket_flag::CHOICE {
        0 => pair((origin.addr, origin.port), (key.addr, key.port)),
        _ => pair((key.addr, key.port), (origin.addr, origin.port)),
    }
}
