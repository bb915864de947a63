use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::agent::Agent;

const NAMESPACE: &str = "kube-node-lease";
/// The server, or the namespace, may not be there yet.
const RETRY: Duration = Duration::from_secs(1);

/// Renews the node's lease for ever.
pub async fn keep(agent: &Agent, node: &Node) {
    let api: Api<Lease> = Api::namespaced(agent.client.clone(), NAMESPACE);
    loop {
        let pause = match renew(&api, agent, node).await {
            Ok(()) => agent.config.lease_interval,
            Err(error) => {
                tracing::warn!(error = crate::error_chain(&error), "node lease not renewed, trying again");
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn renew(api: &Api<Lease>, agent: &Agent, node: &Node) -> kube::Result<()> {
    let name = &agent.config.node_name;
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {"renewTime": now}});
    match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let owner = node.metadata.uid.clone().map(|uid| OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: name.clone(),
                uid,
                ..Default::default()
            });
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(NAMESPACE.to_owned()),
                    owner_references: owner.map(|owner| vec![owner]),
                    ..Default::default()
                },
                spec: Some(LeaseSpec {
                    holder_identity: Some(name.clone()),
                    lease_duration_seconds: i32::try_from(agent.config.lease_duration.as_secs()).ok(),
                    renew_time: Some(now),
                    ..Default::default()
                }),
            };
            api.create(&PostParams::default(), &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}
