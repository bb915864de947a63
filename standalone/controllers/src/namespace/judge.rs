//! What a namespace that ends says of what is left in it. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::condition;

/// Objects of one kind that are still there.
#[derive(Debug)]
pub struct Left {
    /// `pods.`, `deployments.apps`.
    pub resource: String,
    pub count: usize,
    pub finalizers: Vec<String>,
    /// Whether a watch tells when they are gone.
    pub watched: bool,
}

pub fn conditions(
    namespace: &Namespace,
    left: &[Left],
    failure: Option<String>,
    now: Time,
) -> NamespaceStatus {
    let was = namespace.status.clone().unwrap_or_default();
    let mut conditions = was.conditions.unwrap_or_default();
    let mut say = |type_: &str, problem: Option<(&str, String)>, fine: (&str, &str)| {
        let is = problem.is_some();
        let (reason, message) = problem.unwrap_or((fine.0, fine.1.to_owned()));
        let new = NamespaceCondition {
            type_: type_.into(),
            status: if is { "True" } else { "False" }.into(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(now.clone()),
        };
        match conditions.iter_mut().find(|condition| condition.type_ == type_) {
            // Its text counts what is left: it changes while the status stays.
            Some(there) if there.status == new.status => {
                (there.reason, there.message) = (new.reason, new.message);
            }
            _ => condition::set(&mut conditions, new),
        }
    };
    say(
        "NamespaceDeletionContentFailure",
        failure.map(|text| ("ContentDeletionFailed", format!("Failed to delete all resource types: {text}"))),
        ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
    );
    let counts: Vec<String> =
        left.iter().map(|kind| format!("{} has {} resource instances", kind.resource, kind.count)).collect();
    say(
        "NamespaceContentRemaining",
        (!counts.is_empty())
            .then(|| ("SomeResourcesRemain", format!("Some resources are remaining: {}", counts.join(", ")))),
        ("ContentRemoved", "All content successfully removed"),
    );
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for finalizer in left.iter().flat_map(|kind| &kind.finalizers) {
        *finalizers.entry(finalizer).or_insert(0) += 1;
    }
    let held: Vec<String> =
        finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
    say(
        "NamespaceFinalizersRemaining",
        (!held.is_empty()).then(|| {
            let text = format!("Some content in the namespace has finalizers remaining: {}", held.join(", "));
            ("SomeFinalizersRemain", text)
        }),
        ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
    );
    NamespaceStatus { phase: Some("Terminating".into()), conditions: Some(conditions) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_and_no_more_once_it_is_gone() {
        let mut namespace = Namespace::default();
        let left = Left { resource: "pods.".into(), count: 2, finalizers: vec!["x/y".into()], watched: true };
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        let status = conditions(&namespace, &[left], None, now.clone());
        let text = |status: &NamespaceStatus, type_: &str| {
            let all = status.conditions.clone().unwrap();
            let one = all.into_iter().find(|condition| condition.type_ == type_).unwrap();
            (one.status, one.message.unwrap())
        };
        assert_eq!(
            text(&status, "NamespaceContentRemaining"),
            ("True".into(), "Some resources are remaining: pods. has 2 resource instances".into())
        );
        assert_eq!(text(&status, "NamespaceFinalizersRemaining").0, "True");
        namespace.status = Some(status);
        let status = conditions(&namespace, &[], None, now);
        assert_eq!(text(&status, "NamespaceContentRemaining").0, "False");
        assert_eq!(status.conditions.unwrap().len(), 3);
    }
}
