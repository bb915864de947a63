//! Hand-written Endpoints of Services without a selector: their slices, which are all that proxies read
//! (KEP-752).

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::ResourceExt;
use kube::api::DeleteParams;
use skerry_informer::{Change, Next, ObjectKey, Queue, WriteError};

use super::desired::{self, Family, Group};
use super::place::{Keeper, place};
use super::{MANAGED_BY, SERVICE_NAME, carry_out, is_kept_by, slices_of};
use crate::context::Context;
use crate::owner::controller_reference;

/// Value of [`MANAGED_BY`]: upstream's, so that either takes over from the other.
pub const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Label of Endpoints that nobody is to mirror.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotation of Endpoints that are a lock of who elects a leader.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let cache = &context.cache;
    let keys = queue.clone();
    cache.endpoints.store.on_change(move |change: &Change<Endpoints>| keys.add(change.key.clone()));
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    cache.services.store.on_change(move |change: &Change<Service>| {
        if weak.upgrade().is_some_and(|context| context.cache.endpoints.store.exists(&change.key)) {
            keys.add(change.key.clone());
        }
    });
    let keys = queue.clone();
    cache.slices.store.on_change(move |change: &Change<EndpointSlice>| {
        for slice in change.old.iter().chain(change.known()).filter(|slice| is_kept_by(slice, MANAGER)) {
            if let Some(service) = slice.labels().get(SERVICE_NAME) {
                keys.add(ObjectKey::new(change.key.namespace(), service));
            }
        }
    });
}

/// Whether these are somebody's list of endpoints, and no controller's and no lock. What our own controller
/// has written stays its own when the Service has become an ExternalName, or has lost its selector and nobody
/// has changed them since.
fn is_mirrored(endpoints: &Endpoints, service: &Service) -> bool {
    endpoints.metadata.deletion_timestamp.is_none()
        && !crate::endpoints::is_ours(endpoints)
        && endpoints.labels().get(SKIP).is_none_or(|skip| skip != "true")
        && !endpoints.annotations().contains_key(LEADER)
        && desired::selector(service).is_none()
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    if cache.services.store.unreadable_at(&key).is_some()
        || cache.endpoints.store.unreadable_at(&key).is_some()
    {
        return Ok(Next::Change);
    }
    let slices = slices_of(&context, &key, MANAGER);
    let service = cache.services.store.get(&key);
    let is_wanted =
        |endpoints: &Arc<Endpoints>| service.is_some_and(|service| is_mirrored(endpoints, &service));
    let Some(endpoints) = cache.endpoints.store.get(&key).filter(is_wanted) else {
        for slice in slices {
            cache.slices.delete(&slice, DeleteParams::default()).await?;
        }
        return Ok(Next::Change);
    };
    let plan = place(&keeper(&endpoints), &slices, groups(&endpoints));
    carry_out(&context, &*endpoints, plan).await
}

fn keeper(endpoints: &Endpoints) -> Keeper {
    let mut labels = endpoints.labels().clone();
    labels.insert(SERVICE_NAME.into(), endpoints.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    Keeper {
        name: endpoints.name_any(),
        namespace: endpoints.namespace(),
        labels,
        owner: controller_reference(endpoints),
    }
}

/// By family and ports, as they stand in the subsets; an address that is none is left out.
fn groups(endpoints: &Endpoints) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, is_ready) in ready.chain(unready) {
            let family = match address.ip.parse() {
                Ok(IpAddr::V4(_)) => Family::V4,
                Ok(IpAddr::V6(_)) => Family::V6,
                Err(_) => continue,
            };
            Group::add(&mut groups, family, &ports, endpoint(address, is_ready));
        }
    }
    groups
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
        app_protocol: port.app_protocol.clone(),
    });
    ports.collect()
}

fn endpoint(address: &EndpointAddress, is_ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(is_ready), ..Default::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Default::default()
    }
}
