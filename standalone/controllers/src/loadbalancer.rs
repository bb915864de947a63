//! Addresses for Services of type LoadBalancer where no cloud gives them: out of pools that a ConfigMap
//! names.
//!
//! The statuses are the only memory: who has which address stands there, with a condition that marks it as
//! ours and tells the nodes to answer for it. All Services are looked at together under one key, so two never
//! get the same address.

mod plan;
mod pools;
mod request;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, LoadBalancerIngress, Node, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};
use skerry_informer::{Change, Next, ObjectKey, Queue, WriteError, key_of};
use tracing::{info, warn};

use self::plan::{Config, Decision, Outcome, plan};
use self::request::{Relation, relation};
use crate::context::{Context, now};

/// Namespace and name of the ConfigMap, for texts.
const CONFIG: &str = "kube-system/skerry-load-balancer";
pub const CONFIG_NAMESPACE: &str = "kube-system";
pub const CONFIG_NAME: &str = "skerry-load-balancer";
/// `spec.loadBalancerClass` of the Services that want us; those without a class get us, too.
const CLASS: &str = "skerry.io/pool";
/// Condition of the status that marks addresses as ours. The proxies look for it
/// (`proxy_state::api::ADDRESS_ASSIGNED`).
const CONDITION: &str = "skerry.io/AddressAssigned";
/// Annotation: addresses asked for, comma-separated.
const ADDRESSES: &str = "skerry.io/load-balancer-ips";
/// Annotation: the pool asked for.
const POOL: &str = "skerry.io/load-balancer-pool";
/// Annotation: Services of one namespace with the same value may have one address.
const SHARING_KEY: &str = "skerry.io/load-balancer-sharing-key";

/// All Services are one decision.
fn everything() -> ObjectKey {
    ObjectKey::cluster("load-balancers")
}

pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let cache = &context.cache;
    let keys = queue.clone();
    cache.services.store.on_change(move |change: &Change<Service>| {
        let concerns_us = |service: &Arc<Service>| relation(service) != Relation::Foreign;
        if change.old.iter().chain(change.known()).any(concerns_us) {
            keys.add(everything());
        }
    });
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    cache.load_balancer_config.store.on_change(move |change: &Change<ConfigMap>| {
        if let (Some(config), Some(context)) = (&change.new, weak.upgrade())
            && let Err(error) = pools::parse(config)
        {
            warn!(%error, "load balancers' addresses stay as they are");
            context.warning(&**config, "BadConfiguration", error.to_string());
        }
        keys.add(everything());
    });
    let keys = queue.clone();
    cache.nodes.store.on_change(move |change: &Change<Node>| {
        let addresses = |node: &Option<Arc<Node>>| node.as_deref().map(addresses_of);
        if change.unreadable.is_none() && addresses(&change.old) != addresses(&change.new) {
            keys.add(everything());
        }
    });
}

pub async fn reconcile(context: Arc<Context>, _: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    let config = cache.load_balancer_config.store.get(&ObjectKey::new(CONFIG_NAMESPACE, CONFIG_NAME));
    let pools = config.as_deref().map(|config| pools::parse(config).map_err(|error| error.to_string()));
    let config = match &pools {
        None => Config::Absent,
        Some(Err(error)) => Config::Bad(error),
        Some(Ok(pools)) => Config::Pools(pools),
    };
    let mut services = cache.services.store.list();
    services.retain(|service| relation(service) != Relation::Foreign || !request::held(service).is_empty());
    let all_nodes = cache.nodes.store.list().into_iter().chain(cache.nodes.store.unreadable());
    let nodes = all_nodes.flat_map(|node| addresses_of(&node)).collect();
    let unreadable = cache.services.store.unreadable();
    for decision in plan(config, &services, &unreadable, &nodes) {
        let Some(service) = services.iter().find(|service| key_of(&***service) == decision.key) else {
            continue;
        };
        carry_out(&context, service, &decision).await?;
    }
    Ok(Next::Change)
}

fn addresses_of(node: &Node) -> BTreeSet<IpAddr> {
    let listed = node.status.as_ref().and_then(|status| status.addresses.as_ref()).into_iter().flatten();
    listed.filter_map(|address| address.address.parse().ok()).collect()
}

async fn carry_out(context: &Context, service: &Service, decision: &Decision) -> Result<(), WriteError> {
    let revision = service.metadata.resource_version.as_deref();
    let written =
        context.cache.services.patch_status(&decision.key, revision, status(service, decision)).await;
    match written {
        Err(error) if error.is_not_found() => return Ok(()),
        other => other.map(drop)?,
    }
    let (reason, message) = decision.outcome.words();
    let addresses: Vec<String> = decision.addresses.iter().map(ToString::to_string).collect();
    let (addresses, service_name) = (addresses.join(", "), decision.key.to_string());
    match &decision.outcome {
        Outcome::Assigned(_) => {
            info!(service = service_name, addresses, "load-balancer addresses assigned");
            context.normal(service, "AddressAssigned", format!("assigned {addresses} {message}"));
        }
        Outcome::Refused(..) => {
            warn!(service = service_name, reason, message, "no load-balancer address");
            context.warning(service, reason, message.to_owned());
        }
        Outcome::Released => {
            info!(service = service_name, "load-balancer addresses released");
            let text = "the load-balancer addresses are released: type or class has changed";
            context.normal(service, "AddressReleased", text.to_owned());
        }
    }
    Ok(())
}

/// The status that a decision makes; what others wrote into it stays.
fn status(service: &Service, decision: &Decision) -> Value {
    let old = service.status.clone().unwrap_or_default();
    let there = old.load_balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
    let ingress: Vec<LoadBalancerIngress> = decision
        .addresses
        .iter()
        .map(|ip| {
            let known = there
                .iter()
                .find(|known| known.ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok()) == Some(*ip));
            known.cloned().unwrap_or_else(|| LoadBalancerIngress {
                ip: Some(ip.to_string()),
                // Clients in the cluster need not go through the node that answers for it (KEP-1860).
                ip_mode: Some("VIP".to_owned()),
                ..Default::default()
            })
        })
        .collect();
    let mut conditions = old.conditions.unwrap_or_default();
    let before = conditions.iter().position(|condition| condition.type_ == CONDITION);
    let before = before.map(|at| conditions.remove(at));
    if decision.outcome != Outcome::Released {
        let (reason, message) = decision.outcome.words();
        let same = before.filter(|before| before.status == decision.status());
        conditions.push(Condition {
            type_: CONDITION.to_owned(),
            status: decision.status().to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: same.map_or_else(now, |same| same.last_transition_time),
            observed_generation: service.metadata.generation,
        });
    }
    // A merge patch: null takes the list out.
    let list = |empty: bool, value: Value| if empty { Value::Null } else { value };
    json!({
        "loadBalancer": {"ingress": list(ingress.is_empty(), json!(ingress))},
        "conditions": list(conditions.is_empty(), json!(conditions)),
    })
}
