//! Conditions: one rule for every kind that has them.

use k8s_openapi::api::apps::v1::{DeploymentCondition, ReplicaSetCondition};
use k8s_openapi::api::batch::v1::JobCondition;
use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The parts that all condition types share.
pub trait Condition {
    fn type_(&self) -> &str;
    fn status(&self) -> &str;
    fn reason(&self) -> &str;
    fn transition(&mut self) -> &mut Option<Time>;
}

macro_rules! condition {
    ($kind:ty) => {
        impl Condition for $kind {
            fn type_(&self) -> &str {
                &self.type_
            }
            fn status(&self) -> &str {
                &self.status
            }
            fn reason(&self) -> &str {
                self.reason.as_deref().unwrap_or("")
            }
            fn transition(&mut self) -> &mut Option<Time> {
                &mut self.last_transition_time
            }
        }
    };
}
condition!(DeploymentCondition);
condition!(ReplicaSetCondition);
condition!(NamespaceCondition);
condition!(JobCondition);

pub fn find<'a, C: Condition>(conditions: &'a [C], type_: &str) -> Option<&'a C> {
    conditions.iter().find(|condition| condition.type_() == type_)
}

/// Puts the condition in. One with the same status and reason stays as it is; one with the same status keeps
/// the time of its last transition.
pub fn set<C: Condition>(conditions: &mut Vec<C>, mut new: C) {
    let there = conditions.iter().position(|condition| condition.type_() == new.type_());
    if let Some(index) = there {
        if conditions[index].status() == new.status() {
            if conditions[index].reason() == new.reason() {
                return;
            }
            *new.transition() = conditions[index].transition().clone();
        }
        conditions.remove(index);
    }
    conditions.push(new);
}

pub fn remove<C: Condition>(conditions: &mut Vec<C>, type_: &str) {
    conditions.retain(|condition| condition.type_() != type_);
}
