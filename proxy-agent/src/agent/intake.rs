use std::{collections::HashSet, sync::Arc};

use proxy_abi::Addr;
use proxy_state::{Named, Names, ObjectKey, State, api};
use tokio::time::Instant;

use crate::{
    api::watch::{Kind, Object, Received, Update},
    tell::{metrics::Metrics, programmed::Programmed},
};

/// Takes what the watches tell into the state.
pub(super) struct Intake {
    metrics: Arc<Metrics>,
    /// Who else wants to know.
    names: Option<Arc<dyn Names>>,
    /// What has become ready since the start.
    programmed: Arc<Programmed>,
    listed: HashSet<Kind>,
    /// Arrival of the oldest event that is not in the maps yet.
    pub oldest_event: Option<Instant>,
}

impl Intake {
    pub fn new(metrics: Arc<Metrics>, names: Option<Arc<dyn Names>>, programmed: Arc<Programmed>) -> Intake {
        Intake { metrics, names, programmed, listed: HashSet::new(), oldest_event: None }
    }

    /// Every watch has listed once.
    pub fn is_complete(&self) -> bool {
        self.listed.len() == Kind::ALL.len()
    }

    pub fn take(&mut self, state: &mut State, received: Received) {
        self.metrics.events.inc();
        self.oldest_event.get_or_insert(received.at);
        if let Some(names) = &self.names {
            tell(&**names, &received.update);
        }
        match received.update {
            Update::Applied(key, Object::Service(service)) => state.apply_service(key, &service),
            Update::Applied(key, Object::Slice(slice)) => self.take_slice(state, key, &slice, received.at),
            Update::Applied(key, Object::Node(node)) => state.apply_node(key, &node),
            Update::Applied(key, Object::ServiceCidr(cidr)) => state.apply_service_cidr(key, &cidr),
            Update::Deleted(Kind::Services, key) => state.delete_service(&key),
            Update::Deleted(Kind::Slices, key) => state.delete_slice(&key),
            Update::Deleted(Kind::Nodes, key) => state.delete_node(&key),
            Update::Deleted(Kind::ServiceCidrs, key) => state.delete_service_cidr(&key),
            Update::Listed(kind, names) => {
                match kind {
                    Kind::Services => state.retain_services(&names),
                    Kind::Slices => state.retain_slices(&names),
                    Kind::Nodes => state.retain_nodes(&names),
                    Kind::ServiceCidrs => state.retain_service_cidrs(&names),
                }
                if self.listed.insert(kind) {
                    tracing::info!(?kind, objects = names.len(), "listed");
                }
            }
        }
    }

    /// Notes which endpoints have become ready by it. What the first lists hold was there before us.
    fn take_slice(&self, state: &mut State, key: ObjectKey, slice: &api::EndpointSlice, at: Instant) {
        if !self.is_complete() {
            return state.apply_slice(key, slice);
        }
        let before: HashSet<Addr> = state.ready_in(&key).into_iter().flat_map(|(_, ready)| ready).collect();
        state.apply_slice(key.clone(), slice);
        if let Some((service, ready)) = state.ready_in(&key) {
            let fresh = ready.filter(|address| !before.contains(address));
            self.programmed.heard(service, fresh, at);
        }
    }
}

fn tell(names: &dyn Names, update: &Update) {
    let named = |kind: Kind| match kind {
        Kind::Services => Some(Named::Services),
        Kind::Slices => Some(Named::Slices),
        Kind::Nodes => Some(Named::Nodes),
        Kind::ServiceCidrs => None,
    };
    match update {
        Update::Applied(key, Object::Service(service)) => names.service(key, Some(service)),
        Update::Applied(key, Object::Slice(slice)) => names.slice(key, Some(slice)),
        Update::Applied(key, Object::Node(node)) => names.node(key, Some(node)),
        Update::Applied(_, Object::ServiceCidr(_)) | Update::Deleted(Kind::ServiceCidrs, _) => {}
        Update::Deleted(Kind::Services, key) => names.service(key, None),
        Update::Deleted(Kind::Slices, key) => names.slice(key, None),
        Update::Deleted(Kind::Nodes, key) => names.node(key, None),
        Update::Listed(kind, keys) => named(*kind).into_iter().for_each(|kind| names.listed(kind, keys)),
    }
}
