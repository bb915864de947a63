//! From a pod template to a pod.

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};

use crate::owner::controller_reference;

/// Longest prefix of a generated name, so that five random characters fit into a DNS label.
const MAX_GENERATED_PREFIX: usize = 58;

/// A pod of `owner`, named by the API server after `owner`'s name.
pub fn pod_for<K: Resource<DynamicType = ()>>(owner: &K, template: &PodTemplateSpec) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let mut prefix = format!("{}-", owner.name_any());
    prefix.truncate(MAX_GENERATED_PREFIX);
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix),
            namespace: owner.namespace(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}
