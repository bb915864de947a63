//! EndpointSlices of Services with a selector.

mod desired;
pub mod mirror;
pub mod nodes;
mod place;
#[cfg(test)]
mod tests;
mod topology;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::DeleteParams;
use skerry_informer::{Change, Next, ObjectKey, Queue, Term, WriteError, key_of, matches_labels};

use crate::context::Context;
use place::{Keeper, Plan};

pub use desired::{Group, families, groups, keep, selector as pod_selector};
pub use place::service_labels;

/// Label of a slice: the Service it belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of a slice: who keeps it.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Our value of [`MANAGED_BY`]: the one that upstream's controller uses, so that either takes over from the
/// other.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";

/// Registers what makes a Service's slices be looked at.
pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let cache = &context.cache;
    let keys = queue.clone();
    cache.services.store.on_change(move |change: &Change<Service>| keys.add(change.key.clone()));
    let keys = queue.clone();
    cache.slices.store.on_change(move |change: &Change<EndpointSlice>| {
        for slice in change.old.iter().chain(change.known()) {
            if let Some(service) = slice.labels().get(SERVICE_NAME) {
                keys.add(ObjectKey::new(change.key.namespace(), service));
            }
        }
    });
    queue_services_of_pods(context, queue);
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    cache.nodes.store.on_change(move |change: &Change<Node>| {
        let zone =
            |node: &Option<Arc<Node>>| node.as_ref().and_then(|node| desired::zone(node).map(str::to_owned));
        let (Some(context), true) = (weak.upgrade(), change.unreadable.is_none()) else { return };
        let topology = |node: &Option<Arc<Node>>| node.as_deref().and_then(topology::facts);
        if topology(&change.old) != topology(&change.new) {
            let services = context.cache.services.store.list().into_iter();
            services
                .filter(|service| topology::is_auto(service))
                .for_each(|service| keys.add(key_of(&*service)));
        }
        if zone(&change.old) == zone(&change.new) {
            return;
        }
        for pod in context.cache.pods.store.by_term(&Term::Node(change.key.name().to_string())) {
            for service in services_of(&context, &pod) {
                keys.add(service);
            }
        }
    });
}

/// A pod that comes, changes or goes has the Services looked at that select it.
pub fn queue_services_of_pods(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    context.cache.pods.store.on_change(move |change: &Change<Pod>| {
        let Some(context) = weak.upgrade() else { return };
        for pod in change.old.iter().chain(change.known()) {
            services_of(&context, pod).into_iter().for_each(|service| keys.add(service));
        }
    });
}

/// Services whose selector picks the pod; services are indexed by one pair of their selector.
fn services_of(context: &Context, pod: &Pod) -> Vec<ObjectKey> {
    let namespace: Arc<str> = pod.metadata.namespace.as_deref().unwrap_or("").into();
    let term = |(key, value): (&String, &String)| Term::Label {
        namespace: namespace.clone(),
        key: key.clone(),
        value: value.clone(),
    };
    let candidates =
        pod.labels().iter().map(term).flat_map(|term| context.cache.services.store.by_term(&term));
    candidates
        .filter(|service| {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            selector.is_some_and(|selector| matches_labels(selector, pod.metadata.labels.as_ref()))
        })
        .map(|service| key_of(&*service))
        .collect()
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    // Slices of a Service that is gone are the garbage collector's.
    let Some(service) = cache.services.store.get(&key) else { return Ok(Next::Change) };
    let slices = slices_of(&context, &key, MANAGER);
    let Some(selector) = desired::selector(&service) else {
        // They stay as they are until somebody writes the Service's Endpoints by hand, and those are
        // mirrored.
        let is_replaced = !slices_of(&context, &key, mirror::MANAGER).is_empty();
        let plan = Plan { delete: slices, ..Default::default() };
        return if is_replaced { carry_out(&context, &*service, plan).await } else { Ok(Next::Change) };
    };
    let (pods, unreadable) = selected(&context, key.namespace(), selector);
    let zone_of = |node: &str| {
        let (nodes, node) = (&cache.nodes.store, ObjectKey::cluster(node));
        let node = nodes.get(&node).or_else(|| nodes.unreadable_at(&node))?;
        desired::zone(&node).map(str::to_owned)
    };
    let mut groups = desired::groups(&service, &pods, zone_of);
    desired::keep(&mut groups, &slices, &unreadable);
    let problems = topology::is_auto(&service)
        .then(|| topology::hint(&mut groups, &topology::shares(&cache.nodes.store.list())));
    let plan = place::place(&Keeper::of_service(&service), &slices, groups);
    if let Some(problems) = problems {
        tell_of_hints(&context, &service, &slices, &plan, problems);
    }
    carry_out(&context, &*service, plan).await
}

/// The pods that a Service selects, and those that it selects and that can't be read. One that changes sides
/// meanwhile is on one of them at least.
pub fn selected(
    context: &Context,
    namespace: &str,
    selector: &BTreeMap<String, String>,
) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
    let pods = &context.cache.pods.store;
    let mut unreadable = pods.unreadable_with_labels(namespace, selector);
    let readable = pods.with_labels(namespace, selector);
    unreadable.extend(pods.unreadable_with_labels(namespace, selector));
    (readable, unreadable)
}

/// Says that the endpoints have hints now, or why they have none: when that is new, or with a change.
fn tell_of_hints(
    context: &Context,
    service: &Service,
    slices: &[Arc<EndpointSlice>],
    plan: &Plan,
    problems: Vec<String>,
) {
    let has_hints =
        |slice: &EndpointSlice| slice.endpoints.iter().flatten().any(|endpoint| endpoint.hints.is_some());
    let had = slices.iter().any(|slice| has_hints(slice));
    let is_change = !plan.create.is_empty() || !plan.update.is_empty();
    for problem in problems.iter().filter(|_| is_change) {
        context.warning(service, "TopologyAwareHintsDisabled", problem.clone());
    }
    let has = plan.create.iter().any(has_hints)
        || plan.update.iter().any(|(_, patch)| patch["endpoints"].to_string().contains("forZones"));
    if problems.is_empty() && !had && has {
        let text = "Topology Aware Hints has been enabled".to_owned();
        context.normal(service, "TopologyAwareHintsEnabled", text);
    }
}

/// The slices of a Service that `manager` keeps. One that can't be read is among them with what can be read
/// of it: it is ours to write, and writing makes it readable again.
pub fn slices_of(context: &Context, service: &ObjectKey, manager: &str) -> Vec<Arc<EndpointSlice>> {
    let label = Term::Label {
        namespace: service.namespace().into(),
        key: SERVICE_NAME.into(),
        value: service.name().to_string(),
    };
    let store = &context.cache.slices.store;
    let mut slices = store.by_term(&label);
    slices.extend(store.unreadable_by_term(&label));
    slices.retain(|slice| is_kept_by(slice, manager));
    slices
}

fn is_kept_by(slice: &EndpointSlice, manager: &str) -> bool {
    slice.labels().get(MANAGED_BY).is_some_and(|by| by == manager)
}

/// Carries a plan out; what fails is told of `about`.
async fn carry_out<K>(context: &Context, about: &K, plan: Plan) -> Result<Next, WriteError>
where
    K: kube::Resource<DynamicType = ()>,
{
    let cache = &context.cache;

    // Room for an endpoint before it is taken away elsewhere: it may be seen twice, but never not at all.
    for slice in plan.create {
        match cache.slices.create(&slice).await {
            Err(error) if error.is_namespace_terminating() => return Ok(Next::Change),
            Err(error) => {
                let text = format!("Failed to create EndpointSlice: {}", error.server_message());
                context.warning(about, "FailedToUpdateEndpointSlices", text);
                return Err(error);
            }
            Ok(_) => {}
        }
    }
    for (slice, patch) in plan.update {
        match cache.slices.patch(&slice, &patch).await {
            Err(error) if error.is_not_found() => {}
            other => other.map(drop)?,
        }
    }
    let is_readable =
        |slice: &Arc<EndpointSlice>| cache.slices.store.unreadable_at(&key_of(&**slice)).is_none();
    for slice in plan.delete.into_iter().filter(is_readable) {
        cache.slices.delete(&slice, DeleteParams::default()).await?;
    }
    Ok(Next::Change)
}
