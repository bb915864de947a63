//! PodDisruptionBudgets (KEP-85): works out how many of the pods that a budget selects may go now. The API
//! server takes from that when it evicts.

mod plan;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::DynamicObject;
use kube::{Api, ResourceExt};
use skerry_informer::{Change, Next, ObjectKey, Queue, WriteError, key_of, matches_selector, merge_diff};

use crate::context::{Context, now};
use crate::owner::controller_of;
use plan::{Scale, Snapshot, needs_scale, plan};

/// Registers what makes a budget be looked at: it changes itself, or a pod does that it selects or selected.
pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let keys = queue.clone();
    let budgets = &context.cache.disruption_budgets.store;
    budgets.on_change(move |change: &Change<PodDisruptionBudget>| keys.add(change.key.clone()));
    let (keys, weak): (_, Weak<Context>) = (queue.clone(), Arc::downgrade(context));
    context.cache.pods.store.on_change(move |change: &Change<Pod>| {
        let Some(context) = weak.upgrade() else { return };
        for budget in context.cache.disruption_budgets.store.in_namespace(change.key.namespace()) {
            let pods = change.old.iter().chain(change.known());
            if pods.into_iter().any(|pod| selects(&budget, pod)) {
                keys.add(key_of(&*budget));
            }
        }
    });
}

/// A budget without a selector selects nothing, one with an empty one everything.
fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| matches_selector(selector, pod.metadata.labels.as_ref()))
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    let budget = cache.disruption_budgets.store.get(&key);
    let Some(budget) = budget.filter(|budget| budget.metadata.deletion_timestamp.is_none()) else {
        return Ok(Next::Change);
    };
    let all = cache.pods.store.in_namespace(key.namespace());
    let pods: Vec<Arc<Pod>> = all.into_iter().filter(|pod| selects(&budget, pod)).collect();
    let unreadable = cache.pods.store.unreadable_with_labels(key.namespace(), &BTreeMap::new());
    let unreadable = unreadable.iter().filter(|pod| selects(&budget, pod)).count();
    if pods.is_empty() && unreadable == 0 {
        context.normal(&*budget, "NoPods", "No matching pods found".to_owned());
    }
    let scale = if needs_scale(&budget) {
        scale(&context, key.namespace(), &pods).await
    } else {
        Ok(Scale::default())
    };
    if let Ok(Scale { unmanaged, .. }) = &scale
        && !unmanaged.is_empty()
    {
        let message = format!(
            "Pods selected by this PodDisruptionBudget were found to be unmanaged: {}. As a result, the status of the PDB \
             cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \
             \".spec.minAvailable\" field of the PDB to an integer value.",
            unmanaged.join(", ")
        );
        context.warning(&*budget, "UnmanagedPods", message);
    }
    if let Err(error) = &scale {
        context.warning(
            &*budget,
            "CalculateExpectedPodCountFailed",
            format!("Failed to calculate the number of expected pods: {error}"),
        );
    }
    let plan = plan(&Snapshot { budget: &budget, pods: &pods, unreadable, scale: &scale, now: now() });
    let patch = match &budget.status {
        Some(old) => merge_diff(old, &plan.status),
        None => serde_json::to_value(&plan.status).ok(),
    };
    if let Some(patch) = patch {
        // An eviction may have taken from it meanwhile.
        let revision = budget.metadata.resource_version.as_deref();
        match cache.disruption_budgets.patch_status(&key, revision, patch).await {
            Err(error) if error.is_not_found() => return Ok(Next::Change),
            other => other.map(drop)?,
        }
    }
    for name in plan.not_deleted {
        let message =
            format!("Pod was expected by PDB {}/{} to be deleted but it wasn't", key.namespace(), key.name());
        if let Some(pod) = pods.iter().find(|pod| pod.name_any() == name) {
            context.warning(&**pod, "NotDeleted", message);
        }
    }
    Ok(plan.again.map_or(Next::Change, Next::After))
}

/// How many pods the owners of these pods want together.
async fn scale(context: &Context, namespace: &str, pods: &[Arc<Pod>]) -> Result<Scale, String> {
    let mut scale = Scale::default();
    let mut owners: BTreeMap<String, OwnerReference> = BTreeMap::new();
    for pod in pods {
        match controller_of(&**pod) {
            Some(owner) => _ = owners.insert(owner.uid.clone(), owner.clone()),
            None => scale.unmanaged.push(pod.name_any()),
        }
    }
    // ReplicaSets of one Deployment count once, by what it wants.
    let mut counted: BTreeMap<String, i32> = BTreeMap::new();
    for owner in owners.into_values() {
        let (uid, replicas) = replicas_of(context, namespace, &owner).await?;
        counted.insert(uid, replicas);
    }
    scale.replicas = counted.values().fold(0, |sum: i32, replicas| sum.saturating_add(*replicas));
    Ok(scale)
}

/// Who decides on the number, and which it is; nothing for an owner that is gone.
async fn replicas_of(
    context: &Context,
    namespace: &str,
    owner: &OwnerReference,
) -> Result<(String, i32), String> {
    let cache = &context.cache;
    let key = ObjectKey::new(namespace, &owner.name);
    let wants = |replicas: Option<i32>| replicas.unwrap_or(1);
    match (owner.api_version.as_str(), owner.kind.as_str()) {
        ("apps/v1", "ReplicaSet") => {
            let set = cache
                .replica_sets
                .store
                .get(&key)
                .filter(|set| set.metadata.uid.as_ref() == Some(&owner.uid));
            let Some(set) = set else { return Ok((owner.uid.clone(), 0)) };
            let above = controller_of(&*set).filter(|above| above.kind == "Deployment");
            let deployment = above.and_then(|above| {
                let found = cache.deployments.store.get(&ObjectKey::new(namespace, &above.name));
                found.filter(|found| found.metadata.uid.as_ref() == Some(&above.uid))
            });
            Ok(match deployment {
                Some(deployment) => {
                    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
                    (deployment.uid().unwrap_or_default(), wants(replicas))
                }
                None => (owner.uid.clone(), wants(set.spec.as_ref().and_then(|spec| spec.replicas))),
            })
        }
        ("apps/v1", "StatefulSet") => {
            let set = cache
                .stateful_sets
                .store
                .get(&key)
                .filter(|set| set.metadata.uid.as_ref() == Some(&owner.uid));
            let replicas = set.map(|set| wants(set.spec.as_ref().and_then(|spec| spec.replicas)));
            Ok((owner.uid.clone(), replicas.unwrap_or(0)))
        }
        _ => Ok((owner.uid.clone(), scale_of(context, namespace, owner).await?)),
    }
}

/// By the `scale` that any other kind may have.
async fn scale_of(context: &Context, namespace: &str, owner: &OwnerReference) -> Result<i32, String> {
    let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let kind = context.inventory.by_kind(group, &owner.kind);
    let kind = kind.ok_or_else(|| format!("no kind {} of {} is served", owner.kind, owner.api_version))?;
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &kind.resource);
    match api.get_scale(&owner.name).await {
        Ok(scale) => Ok(scale.spec.and_then(|spec| spec.replicas).unwrap_or(0)),
        Err(kube::Error::Api(answer)) if answer.code == 404 => match api.get_opt(&owner.name).await {
            Ok(None) => Ok(0),
            _ => {
                let name = &kind.resource.plural;
                Err(format!("{name}.{group} does not implement the scale subresource"))
            }
        },
        Err(error) => Err(format!("read the scale of {} {}: {error}", owner.kind, owner.name)),
    }
}
