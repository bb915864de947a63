//! The rolling update's arithmetic: never more than replicas + maxSurge pods, never fewer than replicas −
//! maxUnavailable available ones.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::plan::{Sets, Step, Wanted, available, create, replicas};
use super::scale;

impl Wanted {
    pub fn of(spec: &DeploymentSpec) -> Self {
        let replicas = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.strategy.clone().unwrap_or_default();
        if strategy.type_.as_deref() == Some("Recreate") {
            return Self { replicas, max_surge: 0, max_unavailable: replicas, recreate: true };
        }
        let rolling = strategy.rolling_update.unwrap_or_default();
        let quarter = IntOrString::String("25%".into());
        let surge = share_of(rolling.max_surge.as_ref().unwrap_or(&quarter), replicas, true);
        let unavailable = share_of(rolling.max_unavailable.as_ref().unwrap_or(&quarter), replicas, false);
        // Both rounded to nothing would forbid every step.
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable.min(replicas.max(1)) };
        Self { replicas, max_surge: surge, max_unavailable: unavailable, recreate: false }
    }

    /// Pods that may exist at the same time.
    pub fn ceiling(&self) -> i32 {
        self.replicas.saturating_add(self.max_surge)
    }

    /// Pods that must stay available.
    pub fn floor(&self) -> i32 {
        (self.replicas - self.max_unavailable).max(0)
    }
}

/// A number, or a percentage of `total` (rounded up for surge, down for unavailable). What is neither counts
/// as 0.
pub fn share_of(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    let value = match value {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%').and_then(|digits| digits.parse().ok()).unwrap_or(0);
            let share = percent.saturating_mul(i64::from(total));
            if round_up { share.saturating_add(99) / 100 } else { share / 100 }
        }
    };
    i32::try_from(value.max(0)).unwrap_or(i32::MAX)
}

/// The next steps: grow the new set, or else shrink old ones.
pub fn roll(deployment: &Deployment, sets: &Sets<'_>, wanted: Wanted) -> Vec<Step> {
    let total: i32 = sets.all().map(|set| replicas(set)).sum();
    let grown =
        |current: i32| (wanted.ceiling() - total).clamp(0, (wanted.replicas - current).max(0)) + current;
    let Some(new) = sets.new else {
        return vec![create(deployment, sets, wanted, grown(0))];
    };
    let target = if replicas(new) > wanted.replicas { wanted.replicas } else { grown(replicas(new)) };
    if target != replicas(new) {
        return vec![scale::to(deployment, new, target, wanted)];
    }
    shrink_old(sets, wanted).into_iter().map(|(set, to)| scale::to(deployment, set, to, wanted)).collect()
}

/// Old sets with their new sizes: first pods that are not available anyway, then as many as the floor allows.
fn shrink_old<'a>(sets: &Sets<'a>, wanted: Wanted) -> Vec<(&'a Arc<ReplicaSet>, i32)> {
    let total: i32 = sets.all().map(|set| replicas(set)).sum();
    let new_unavailable = sets.new.map_or(0, |new| replicas(new) - available(new));
    // Unavailable pods of the new set will want room once they are ready.
    let mut may_go = total - wanted.floor() - new_unavailable;
    let mut sizes: Vec<(&Arc<ReplicaSet>, i32)> = sets.old.iter().map(|set| (*set, replicas(set))).collect();
    for (set, size) in &mut sizes {
        let unhealthy = (*size - available(set)).clamp(0, may_go.max(0));
        *size -= unhealthy;
        may_go -= unhealthy;
    }
    let all_available: i32 = sets.all().map(|set| available(set)).sum();
    let mut spare = (all_available - wanted.floor()).min(may_go).max(0);
    for (_, size) in &mut sizes {
        let go = (*size).min(spare);
        *size -= go;
        spare -= go;
    }
    sizes.retain(|(set, size)| *size != replicas(set));
    sizes
}
