//! ReplicaSet: keeps the wanted number of pods. A ReplicationController is one in older words.

mod plan;
mod rank;

use std::borrow::Cow;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, ReplicationController, ReplicationControllerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use serde_json::Value;
use skerry_informer::{Kind, Next, Object, ObjectKey, Queue, Term, WriteError, merge_diff};

use crate::cache::Cache;
use crate::context::{Context, now};
use crate::dependents::{Failure, claim_pods, create_pods, delete_pods};
use crate::listening::listen_to_pods;
use crate::owner::controller_of;
use crate::template::pod_for;
use plan::{Plan, plan};

/// Pods created or deleted at most in one go; the rest follows in the next.
const BURST: usize = 500;

/// A kind that keeps a number of pods.
pub trait Replicas: Object {
    fn cached(cache: &Cache) -> &Kind<Self>;
    /// As a ReplicaSet; metadata and all.
    fn as_set(&self) -> Cow<'_, ReplicaSet>;
    /// Merge patch to this status, unless it is the one that is there.
    fn status_patch(&self, status: ReplicaSetStatus) -> Option<Value>;
}

impl Replicas for ReplicaSet {
    fn cached(cache: &Cache) -> &Kind<Self> {
        &cache.replica_sets
    }

    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        Cow::Borrowed(self)
    }

    fn status_patch(&self, status: ReplicaSetStatus) -> Option<Value> {
        merge_diff(&self.status.clone().unwrap_or_default(), &status)
    }
}

impl Replicas for ReplicationController {
    fn cached(cache: &Cache) -> &Kind<Self> {
        &cache.replication_controllers
    }

    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        let spec = self.spec.clone().map(|spec| ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: spec.replicas,
            selector: LabelSelector { match_labels: spec.selector, match_expressions: None },
            template: spec.template,
        });
        let status = self.status.clone().map(|status| ReplicaSetStatus {
            conditions: status.conditions.map(|all| all.into_iter().map(condition).collect()),
            ..Default::default()
        });
        Cow::Owned(ReplicaSet { metadata: self.metadata.clone(), spec, status })
    }

    fn status_patch(&self, status: ReplicaSetStatus) -> Option<Value> {
        let status = ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions: status.conditions.map(|all| all.into_iter().map(old_condition).collect()),
        };
        merge_diff(&self.status.clone().unwrap_or_default(), &status)
    }
}

fn condition(
    old: k8s_openapi::api::core::v1::ReplicationControllerCondition,
) -> k8s_openapi::api::apps::v1::ReplicaSetCondition {
    k8s_openapi::api::apps::v1::ReplicaSetCondition {
        type_: old.type_,
        status: old.status,
        reason: old.reason,
        message: old.message,
        last_transition_time: old.last_transition_time,
    }
}

fn old_condition(
    new: k8s_openapi::api::apps::v1::ReplicaSetCondition,
) -> k8s_openapi::api::core::v1::ReplicationControllerCondition {
    k8s_openapi::api::core::v1::ReplicationControllerCondition {
        type_: new.type_,
        status: new.status,
        reason: new.reason,
        message: new.message,
        last_transition_time: new.last_transition_time,
    }
}

/// Registers what makes one be looked at.
pub fn listen<O: Replicas>(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    listen_to_pods(
        context,
        queue,
        |context| O::cached(&context.cache),
        |owner: &O| owner.as_set().spec.as_ref().map(|spec| spec.selector.clone()),
    );
}

pub async fn reconcile<O: Replicas>(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let kind = O::cached(&context.cache);
    let Some(owner) = kind.store.get(&key) else { return Ok(Next::Change) };
    let set = owner.as_set();
    let Some(spec) = &set.spec else { return Ok(Next::Change) };
    let claimed = claim_pods(&context, kind, &*owner, &spec.selector).await?;
    let related = related_pods(&context, &set);
    let plan = plan(&set, &claimed.pods, claimed.unreadable.len(), &related, now().0);

    let failure = carry_out(&context, &*owner, &set, &plan).await;

    let status = plan.status(&set, failure.as_ref().err(), now());
    if let Some(patch) = owner.status_patch(status) {
        match kind.patch_status(&key, None, patch).await {
            Err(error) if error.is_not_found() => return Ok(Next::Change),
            other => other.map(drop)?,
        }
    }
    match failure {
        Err(failure) if failure.error.is_namespace_terminating() => return Ok(Next::Change),
        Err(failure) => return Err(failure.error),
        Ok(()) => {}
    }
    Ok(plan.again.map_or(Next::Change, Next::After))
}

/// Pods of all ReplicaSets with the same controller: a node that has many of them loses one first.
fn related_pods(context: &Context, set: &ReplicaSet) -> Vec<Arc<Pod>> {
    let cache = &context.cache;
    let owner = controller_of(set).map(|owner| Term::Owner(owner.uid.clone()));
    let siblings = owner.map(|term| cache.replica_sets.store.by_term(&term)).unwrap_or_default();
    let uids: Vec<String> = match siblings.is_empty() {
        true => set.uid().into_iter().collect(),
        false => siblings.iter().filter_map(|sibling| sibling.uid()).collect(),
    };
    uids.into_iter().flat_map(|uid| cache.pods.store.by_term(&Term::Owner(uid))).collect()
}

async fn carry_out<O: Replicas>(
    context: &Context,
    owner: &O,
    set: &ReplicaSet,
    plan: &Plan,
) -> Result<(), Failure> {
    if plan.create > 0 {
        let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else { return Ok(()) };
        create_pods(context, owner, &vec![pod_for(owner, template); plan.create.min(BURST)]).await
    } else if !plan.delete.is_empty() {
        delete_pods(context, owner, &plan.delete[..plan.delete.len().min(BURST)]).await
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_replication_controller_is_a_replica_set_in_older_words() {
        let controller: ReplicationController = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u", "generation": 3},
            "spec": {"replicas": 2, "minReadySeconds": 5, "selector": {"app": "web"},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}}},
            "status": {"replicas": 1, "observedGeneration": 2},
        }))
        .unwrap();
        let set = controller.as_set();
        let spec = set.spec.as_ref().unwrap();
        assert_eq!((spec.replicas, spec.min_ready_seconds), (Some(2), Some(5)));
        assert_eq!(spec.selector.match_labels.as_ref().unwrap()["app"], "web");
        let plan = plan(&set, &[], 0, &[], now().0);
        assert_eq!(plan.create, 2);
        let patch = controller.status_patch(plan.status(&set, None, now())).unwrap();
        assert_eq!(patch, json!({"replicas": 0, "observedGeneration": 3}));
        let pod = pod_for(&controller, spec.template.as_ref().unwrap());
        assert_eq!(pod.owner_references()[0].kind, "ReplicationController");
    }
}
