//! Endpoints of Services with a selector: what EndpointSlices have replaced, for who still reads it.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;
use kube::api::{DeleteParams, ObjectMeta};
use serde_json::json;
use skerry_informer::{Change, Next, ObjectKey, Queue, WriteError, merge_diff};

use crate::context::Context;
use crate::dependents::unless_gone;
use crate::endpointslice::{
    Group, MANAGER as MANAGER_OF_SLICES, families, groups, keep, pod_selector, queue_services_of_pods,
    selected, service_labels, slices_of,
};

/// Label of an object that this controller keeps, with upstream's value.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// Annotation that says that addresses are left out.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses of one object at most.
const MAX_ADDRESSES: usize = 1000;

pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let cache = &context.cache;
    let keys = queue.clone();
    cache.services.store.on_change(move |change: &Change<Service>| keys.add(change.key.clone()));
    let keys = queue.clone();
    cache.endpoints.store.on_change(move |change: &Change<Endpoints>| keys.add(change.key.clone()));
    queue_services_of_pods(context, queue);
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    let there = cache.endpoints.store.get(&key);
    let Some(service) = cache.services.store.get(&key) else {
        if cache.services.store.exists(&key) {
            return Ok(Next::Change);
        }
        if let Some(ours) = there.filter(|there| is_ours(there)) {
            cache.endpoints.delete(&ours, DeleteParams::default()).await?;
        }
        return Ok(Next::Change);
    };
    let Some(selector) = pod_selector(&service) else {
        // Without a selector they are somebody else's to write: from the first change that is not ours.
        let slices = slices_of(&context, &key, MANAGER_OF_SLICES);
        if let Some(ours) = there.filter(|there| is_ours(there) && is_edited(there, &service, &slices)) {
            let patch = json!({"metadata": {"resourceVersion": ours.metadata.resource_version,
                "labels": {MANAGED_BY: null}}});
            unless_gone(cache.endpoints.patch(&key, &patch).await)?;
        }
        return Ok(Next::Change);
    };
    let (pods, unreadable) = selected(&context, key.namespace(), selector);
    let mut groups = groups(&service, &pods, |_| None);
    keep(&mut groups, &slices_of(&context, &key, MANAGER_OF_SLICES), &unreadable);
    let wanted = wanted(&service, groups);
    match there {
        None if cache.endpoints.store.exists(&key) => {}
        None => match cache.endpoints.create(&wanted).await {
            Err(error) if error.is_namespace_terminating() || error.is_already_exists() => {}
            other => drop(other?),
        },
        Some(there) => {
            let state = |of: &Endpoints| json!({"metadata": {"labels": of.labels(), "annotations": of.annotations()}, "subsets": of.subsets});
            if let Some(patch) = merge_diff(&state(&there), &state(&wanted)) {
                match cache.endpoints.patch(&key, &patch).await {
                    Err(error) if error.is_not_found() => {}
                    other => drop(other?),
                }
            }
        }
    }
    Ok(Next::Change)
}

/// Whether this controller keeps the object.
pub fn is_ours(endpoints: &Endpoints) -> bool {
    endpoints.labels().get(MANAGED_BY).is_some_and(|by| by == MANAGER)
}

/// Whether these say something else than what the slices say that were made with them, when the Service had a
/// selector.
fn is_edited(endpoints: &Endpoints, service: &Service, slices: &[Arc<EndpointSlice>]) -> bool {
    if service.metadata.deletion_timestamp.is_some()
        || service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName")
    {
        return false;
    }
    let subsets = endpoints.subsets.iter().flatten();
    let lists = subsets.flat_map(|subset| [&subset.addresses, &subset.not_ready_addresses]);
    let said: BTreeSet<&str> = lists.flatten().flatten().map(|address| address.ip.as_str()).collect();
    let first = families(service).into_iter().next().map(|family| family.name());
    let known: Vec<&Endpoint> = slices
        .iter()
        .filter(|slice| Some(slice.address_type.as_str()) == first)
        .flat_map(|slice| slice.endpoints.iter().flatten())
        .collect();
    let is_known =
        |ip: &&str| known.iter().any(|endpoint| endpoint.addresses.iter().any(|known| known == ip));
    let is_cut = endpoints.annotations().contains_key(OVER_CAPACITY);
    let mut stays = known.iter().filter(|endpoint| {
        endpoint.conditions.as_ref().is_none_or(|conditions| conditions.terminating != Some(true))
    });
    let is_said = |endpoint: &&Endpoint| endpoint.addresses.iter().any(|ip| said.contains(ip.as_str()));
    !said.iter().all(is_known) || (!is_cut && !stays.all(is_said))
}

/// Addresses of the Service's first family, in their order; those of pods that end are left out, unless
/// unready ones count.
fn wanted(service: &Service, groups: Vec<Group>) -> Endpoints {
    let first = groups.first().map(|group| group.family);
    let even_unready =
        service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
    let mut subsets: Vec<EndpointSubset> = Vec::new();
    for group in groups.into_iter().filter(|group| Some(group.family) == first) {
        let is_said = |endpoint: &&Endpoint| {
            let conditions = endpoint.conditions.as_ref();
            even_unready || conditions.is_none_or(|conditions| conditions.terminating != Some(true))
        };
        let (mut ready, mut unready): (Vec<_>, Vec<_>) = group
            .endpoints
            .iter()
            .filter(is_said)
            .partition(|endpoint| endpoint.conditions.as_ref().is_some_and(|c| c.ready == Some(true)));
        for list in [&mut ready, &mut unready] {
            list.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        }
        if ready.is_empty() && unready.is_empty() {
            continue;
        }
        let some = |list: Vec<&Endpoint>| {
            (!list.is_empty()).then(|| list.into_iter().map(address).collect::<Vec<_>>())
        };
        let ports = group.ports.iter().map(|port| EndpointPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: port.port.unwrap_or_default(),
            protocol: port.protocol.clone(),
            app_protocol: port.app_protocol.clone(),
        });
        let ports: Vec<EndpointPort> = ports.collect();
        subsets.push(EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(unready),
            ports: (!ports.is_empty()).then_some(ports),
        });
    }
    let is_cut = truncate(&mut subsets);
    let mut labels = service_labels(service);
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.namespace(),
            labels: Some(labels),
            annotations: is_cut.then(|| [(OVER_CAPACITY.to_owned(), "truncated".to_owned())].into()),
            ..Default::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}

fn address(endpoint: &Endpoint) -> EndpointAddress {
    EndpointAddress {
        ip: endpoint.addresses.first().cloned().unwrap_or_default(),
        hostname: endpoint.hostname.clone(),
        node_name: endpoint.node_name.clone(),
        target_ref: endpoint.target_ref.clone(),
    }
}

type AddressesOf = fn(&mut EndpointSubset) -> &mut Option<Vec<EndpointAddress>>;

/// Leaves out what is too much, ready addresses last. True if something was.
fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let mut room = MAX_ADDRESSES;
    let mut is_cut = false;
    let lists: [AddressesOf; 2] = [|subset| &mut subset.addresses, |subset| &mut subset.not_ready_addresses];
    for list in lists {
        for subset in subsets.iter_mut() {
            let list = list(subset);
            let Some(addresses) = list else { continue };
            is_cut |= addresses.len() > room;
            addresses.truncate(room);
            room -= addresses.len();
            if addresses.is_empty() {
                *list = None;
            }
        }
    }
    is_cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subset(ready: usize, unready: usize) -> EndpointSubset {
        let some = |count: usize| {
            (count > 0).then(|| (0..count).map(|_| EndpointAddress::default()).collect::<Vec<_>>())
        };
        EndpointSubset { addresses: some(ready), not_ready_addresses: some(unready), ports: None }
    }

    #[test]
    fn ready_addresses_are_the_last_to_be_left_out() {
        let mut subsets = [subset(600, 10), subset(300, 200)];
        assert!(truncate(&mut subsets));
        let counts = subsets
            .each_ref()
            .map(|s| [&s.addresses, &s.not_ready_addresses].map(|list| list.as_ref().map_or(0, Vec::len)));
        assert_eq!(counts, [[600, 10], [300, 90]]);
        assert!(!truncate(&mut subsets));
    }
}
