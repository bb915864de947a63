//! ServiceCIDRs (KEP-1880): says that they can be used, and keeps one that is being deleted until no Service
//! needs it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use skerry_informer::{Change, Item, Next, ObjectKey, Queue, WriteError, key_of};

use crate::context::{Context, now};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const READY: &str = "Ready";
const IN_USE: &str =
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("list all Services")]
    List(#[source] Box<kube::Error>),
    #[error(transparent)]
    Write(#[from] WriteError),
}

pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    context.cache.service_cidrs.store.on_change(move |change: &Change<ServiceCIDR>| {
        keys.add(change.key.clone());
        // Another range with the same addresses may let one go that is being deleted.
        weak.upgrade().into_iter().for_each(|context| add_deleted(&context, &keys));
    });
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    context.cache.services.store.on_change(move |change: &Change<Service>| {
        let lost = change.unreadable.is_none()
            && change.old.as_deref().is_some_and(|old| {
                let kept: Vec<IpAddr> = change.new.as_deref().map(addresses).unwrap_or_default();
                addresses(old).iter().any(|ip| !kept.contains(ip))
            });
        if let (true, Some(context)) = (lost, weak.upgrade()) {
            add_deleted(&context, &keys);
        }
    });
}

fn add_deleted(context: &Context, queue: &Queue<ObjectKey>) {
    for cidr in context.cache.service_cidrs.store.list() {
        if cidr.metadata.deletion_timestamp.is_some() {
            queue.add(key_of(&*cidr));
        }
    }
}

fn addresses(service: &Service) -> Vec<IpAddr> {
    let ips = service.spec.as_ref().and_then(|spec| spec.cluster_ips.as_ref());
    ips.into_iter().flatten().filter_map(|ip| ip.parse().ok()).collect()
}

fn ranges(cidr: &ServiceCIDR) -> Vec<IpNetwork> {
    let texts = cidr.spec.as_ref().and_then(|spec| spec.cidrs.as_ref());
    texts.into_iter().flatten().filter_map(|text| text.parse().ok()).collect()
}

/// Whether an address in one of `ranges` is in none of the `others`.
fn is_needed(ips: &[IpAddr], ranges: &[IpNetwork], others: &[IpNetwork]) -> bool {
    let is_in = |ip: &IpAddr, ranges: &[IpNetwork]| ranges.iter().any(|range| range.contains(*ip));
    ips.iter().any(|ip| is_in(ip, ranges) && !is_in(ip, others))
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, Error> {
    let cidrs = &context.cache.service_cidrs;
    let Some(cidr) = cidrs.store.get(&key) else { return Ok(Next::Change) };
    let finalizers = cidr.metadata.finalizers.clone().unwrap_or_default();
    let is_held = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    if cidr.metadata.deletion_timestamp.is_none() {
        if !is_held {
            let all: Vec<&str> = finalizers.iter().map(String::as_str).chain([FINALIZER]).collect();
            cidrs.patch(&key, &of_revision(&cidr, json!({"finalizers": all}))).await?;
        }
        set_ready(&context, &key, "True", "", "Kubernetes Service CIDR is ready").await?;
        return Ok(Next::Change);
    }
    if !is_held {
        return Ok(Next::Change);
    }
    let all = cidrs.store.list();
    let others = all.iter().filter(|other| other.metadata.deletion_timestamp.is_none());
    let others: Vec<IpNetwork> = others.flat_map(|other| ranges(other)).collect();
    // Past the cache: a Service that was made just before the deletion has its address in the range. Of one
    // that can't be read its addresses mostly can.
    let services = Api::<Item<Service>>::all(context.client.clone()).list(&ListParams::default()).await;
    let services = services.map_err(|error| Error::List(Box::new(error)))?;
    let ips: Vec<IpAddr> = services.into_iter().flat_map(|service| addresses(&service.any())).collect();
    if is_needed(&ips, &ranges(&cidr), &others) {
        set_ready(&context, &key, "False", "Terminating", IN_USE).await?;
        return Ok(Next::Change);
    }
    let left: Vec<&String> = finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    match cidrs.patch(&key, &of_revision(&cidr, json!({"finalizers": left}))).await {
        Err(error) if error.is_not_found() => {}
        other => drop(other?),
    }
    Ok(Next::Change)
}

/// A patch of the metadata that is refused where the object has changed since.
fn of_revision(cidr: &ServiceCIDR, mut metadata: Value) -> Value {
    if let Some(revision) = &cidr.metadata.resource_version {
        metadata["resourceVersion"] = json!(revision);
    }
    json!({"metadata": metadata})
}

async fn set_ready(
    context: &Context,
    key: &ObjectKey,
    status: &str,
    reason: &str,
    message: &str,
) -> Result<(), WriteError> {
    let cidrs = &context.cache.service_cidrs;
    let Some(cidr) = cidrs.store.get(key) else { return Ok(()) };
    let mut conditions =
        cidr.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    if conditions.iter().any(|c| c.type_ == READY && c.status == status && c.reason == reason) {
        return Ok(());
    }
    conditions.retain(|condition| condition.type_ != READY);
    conditions.push(Condition {
        type_: READY.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: now(),
        observed_generation: None,
    });
    let patch = json!({"conditions": conditions});
    cidrs.patch_status(key, cidr.metadata.resource_version.as_deref(), patch).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_needed_for_addresses_that_no_other_range_has() {
        let ips: Vec<IpAddr> = ["10.1.0.7", "fd00::7", "10.2.0.1"].map(|ip| ip.parse().unwrap()).into();
        let ranges =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNetwork>>();
        assert!(is_needed(&ips, &ranges(&["10.1.0.0/24"]), &ranges(&["10.2.0.0/16"])));
        assert!(!is_needed(&ips, &ranges(&["10.1.0.0/24"]), &ranges(&["10.1.0.0/28", "10.2.0.0/16"])));
        assert!(!is_needed(&ips, &ranges(&["10.3.0.0/24"]), &[]));
        assert!(is_needed(&ips, &ranges(&["10.3.0.0/24", "fd00::/64"]), &ranges(&["10.0.0.0/8"])));
    }
}
