//! The pods and claims of a StatefulSet: names that stay. Pure.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::retention::owners_at_first;
use crate::revisions::HASH_LABEL;
use crate::template::pod_for;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub fn name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.name_any())
}

/// The ordinal of a pod of this set, by its name.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let name = pod.metadata.name.as_deref()?;
    name.strip_prefix(&set.name_any())?.strip_prefix('-')?.parse().ok()
}

/// The ordinals that the set wants pods of.
pub fn wanted(set: &StatefulSet) -> std::ops::Range<i32> {
    let Some(spec) = &set.spec else { return 0..0 };
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    start..start.saturating_add(spec.replicas.unwrap_or(1).max(0))
}

fn claim_name(template: &PersistentVolumeClaim, set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{}", template.name_any(), name(set, ordinal))
}

/// The claims that the pod of this ordinal mounts. They outlive the pod and, unless told otherwise, the set.
pub fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let Some(spec) = &set.spec else { return Vec::new() };
    let templates = spec.volume_claim_templates.iter().flatten();
    templates
        .map(|template| {
            let mut labels = spec.selector.match_labels.clone().unwrap_or_default();
            labels.extend(template.labels().clone());
            PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(claim_name(template, set, ordinal)),
                    namespace: set.namespace(),
                    labels: Some(labels),
                    annotations: template.metadata.annotations.clone(),
                    owner_references: owners_at_first(set),
                    ..Default::default()
                },
                spec: template.spec.clone(),
                status: None,
            }
        })
        .collect()
}

pub fn pod(set: &StatefulSet, template: &PodTemplateSpec, ordinal: i32, revision: &str) -> Pod {
    let mut pod = pod_for(set, template);
    let name = name(set, ordinal);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.into(), name.clone());
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    labels.insert(HASH_LABEL.into(), revision.to_owned());
    let set_spec = set.spec.clone().unwrap_or_default();
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set_spec.service_name;
    let claims = set_spec.volume_claim_templates.unwrap_or_default();
    let volumes = spec.volumes.get_or_insert_default();
    for template in &claims {
        // A claim takes the place of a volume of the same name.
        volumes.retain(|volume| volume.name != template.name_any());
        volumes.push(Volume {
            name: template.name_any(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(template, set, ordinal),
                read_only: None,
            }),
            ..Default::default()
        });
    }
    spec.volumes = spec.volumes.take().filter(|volumes| !volumes.is_empty());
    pod
}
