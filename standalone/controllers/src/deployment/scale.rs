//! Scaling a Deployment while a rollout is under way: every set gets its share.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::ResourceExt;
use serde_json::json;

use super::plan::{Sets, Step, Wanted, available, patch, replicas};

/// On a set: the Deployment's replicas when the set was scaled last.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// On a set: replicas + maxSurge when the set was scaled last.
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";

pub fn annotations(wanted: Wanted) -> BTreeMap<String, String> {
    let ceiling = wanted.ceiling();
    [(DESIRED.to_owned(), wanted.replicas.to_string()), (MAX.to_owned(), ceiling.to_string())].into()
}

/// The step that gives a set this many replicas and notes for which size of the Deployment.
pub fn to(_: &Deployment, set: &Arc<ReplicaSet>, size: i32, wanted: Wanted) -> Step {
    let from = replicas(set);
    let changed = (from != size).then_some(size);
    Step::Update {
        set: set.clone(),
        patch: patch(changed, json!(annotations(wanted))),
        scale: changed.map(|to| (from, to)),
    }
}

/// Whether the Deployment's size changed since its sets were scaled last.
pub fn is_wanted(sets: &Sets<'_>, wanted: Wanted) -> bool {
    sets.all()
        .filter(|set| replicas(set) > 0)
        .any(|set| noted(set, DESIRED).is_some_and(|desired| desired != wanted.replicas))
}

fn noted(set: &ReplicaSet, name: &str) -> Option<i32> {
    set.annotations().get(name)?.parse().ok()
}

pub fn proportionally(deployment: &Deployment, sets: &Sets<'_>, wanted: Wanted) -> Vec<Step> {
    let active: Vec<&Arc<ReplicaSet>> = sets.all().filter(|set| replicas(set) > 0).collect();
    let single = match active[..] {
        [] => sets.new.or(sets.old.last().copied()),
        [only] => Some(only),
        _ => None,
    };
    if let Some(only) = single {
        return if replicas(only) == wanted.replicas && is_noted(only, wanted) {
            Vec::new()
        } else {
            vec![to(deployment, only, wanted.replicas, wanted)]
        };
    }
    if let Some(new) = sets.new
        && replicas(new) == wanted.replicas
        && available(new) == wanted.replicas
        && is_noted(new, wanted)
    {
        let old = sets.old.iter().filter(|set| replicas(set) > 0);
        return old.map(|set| to(deployment, set, 0, wanted)).collect();
    }
    if wanted.recreate {
        return Vec::new();
    }
    share(deployment, active, wanted)
        .into_iter()
        .filter(|(set, size)| *size != replicas(set) || !is_noted(set, wanted))
        .map(|(set, size)| to(deployment, set, size, wanted))
        .collect()
}

fn is_noted(set: &ReplicaSet, wanted: Wanted) -> bool {
    noted(set, DESIRED) == Some(wanted.replicas) && noted(set, MAX) == Some(wanted.ceiling())
}

/// Spreads what is to be added (or taken) over the active sets by their size, the rest goes to the biggest.
fn share<'a>(
    deployment: &Deployment,
    mut active: Vec<&'a Arc<ReplicaSet>>,
    wanted: Wanted,
) -> Vec<(&'a Arc<ReplicaSet>, i32)> {
    let allowed = if wanted.replicas > 0 { wanted.ceiling() } else { 0 };
    let to_add = allowed - active.iter().map(|set| replicas(set)).sum::<i32>();
    // Biggest first; among equals growth goes to the newer, loss to the older (`active` is oldest first).
    if to_add > 0 {
        active.reverse();
    }
    active.sort_by_key(|set| std::cmp::Reverse(replicas(set)));
    let mut added = 0;
    let mut sizes: Vec<(&Arc<ReplicaSet>, i32)> = Vec::with_capacity(active.len());
    for set in active {
        let left = to_add - added;
        let part = if to_add == 0 || left == 0 {
            0
        } else {
            let part = fraction(deployment, set, wanted);
            if to_add > 0 { part.clamp(0, left) } else { part.clamp(left, 0) }
        };
        added += part;
        sizes.push((set, (replicas(set) + part).max(0)));
    }
    if let Some((_, size)) = sizes.first_mut() {
        *size = (*size + to_add - added).max(0);
    }
    sizes
}

/// How much one set grows when all keep their proportions, rounded half away from zero.
fn fraction(deployment: &Deployment, set: &ReplicaSet, wanted: Wanted) -> i32 {
    if wanted.replicas == 0 {
        return -replicas(set);
    }
    let was = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
    let before = noted(set, MAX).filter(|max| *max > 0).unwrap_or(was).max(1);
    let size = f64::from(replicas(set)) * f64::from(wanted.ceiling()) / f64::from(before);
    size.round() as i32 - replicas(set)
}
