//! What `kubectl get` prints.

mod columns;
mod network;
mod objects;
mod pod;
mod text;
mod usage;
mod workload;

use serde_json::{Value, json};

pub use columns::Column;

use crate::Kind;

/// The columns of `kind`, in order.
pub fn columns(kind: &Kind) -> &'static [Column] {
    columns::of(kind.kind)
}

/// One row's cells for `object` (in the form of `kind`), as many as [`columns`] has.
pub fn cells(kind: &Kind, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let o = objects::View { object, now };
    match kind.kind {
        "Pod" => pod::cells(&o),
        "Deployment" => workload::deployment(&o),
        "ReplicaSet" | "ReplicationController" => workload::replica_set(&o),
        "StatefulSet" => workload::stateful_set(&o),
        "DaemonSet" => workload::daemon_set(&o),
        "Job" => workload::job(&o),
        "CronJob" => workload::cron_job(&o),
        "HorizontalPodAutoscaler" => workload::autoscaler(&o),
        "NodeMetrics" | "PodMetrics" => usage::cells(&o),
        "PodDisruptionBudget" => workload::disruption_budget(&o),
        name => objects::cells(name, &o).unwrap_or_else(|| vec![o.name(), json!(o.age())]),
    }
}

#[cfg(test)]
mod tests;
