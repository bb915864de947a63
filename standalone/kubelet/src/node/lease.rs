use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use skerry_client::Item;
use tokio::sync::watch;

use crate::agent::Agent;

const NAMESPACE: &str = "kube-node-lease";
/// The server, or the namespace, may not be there yet.
const RETRY: Duration = Duration::from_secs(1);

/// Renews the node's lease for ever; at once when the Node (`uid`) is a new one.
pub async fn keep(agent: &Agent, mut uid: watch::Receiver<Option<String>>) {
    let api: Api<Item<Lease>> = Api::namespaced(agent.client.clone(), NAMESPACE);
    loop {
        let owner = uid.borrow_and_update().clone();
        let pause = match renew(&api, agent, owner).await {
            Ok(()) => agent.config.lease_interval,
            Err(error) => {
                tracing::warn!(
                    error = skerry_vocabulary::chain(&error),
                    "node lease not renewed, trying again"
                );
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = uid.changed() => {}
        }
    }
}

/// Writes everything that the node owns of its lease: whatever others wrote there, this is what it says
/// afterwards.
async fn renew(api: &Api<Item<Lease>>, agent: &Agent, uid: Option<String>) -> kube::Result<()> {
    let name = &agent.config.node_name;
    let lease = lease(name, agent.config.lease_duration, uid, Timestamp::now());
    match api.patch(name, &PatchParams::default(), &Patch::Merge(&lease)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            api.create(&PostParams::default(), &lease.into()).await.map(drop)
        }
        other => other.map(drop),
    }
}

fn lease(name: &str, duration: Duration, uid: Option<String>, now: Timestamp) -> Lease {
    let owner = uid.map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid,
        ..Default::default()
    });
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            owner_references: owner.map(|owner| vec![owner]),
            ..Default::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: i32::try_from(duration.as_secs()).ok(),
            renew_time: Some(MicroTime(now)),
            ..Default::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_renewal_says_all_that_the_node_owns_of_its_lease() {
        let lease = lease("n1", Duration::from_secs(40), Some("u".into()), Timestamp::UNIX_EPOCH);
        let written = serde_json::to_value(&lease).unwrap();
        assert_eq!(written["metadata"]["ownerReferences"][0]["uid"], json!("u"));
        assert_eq!(written["spec"]["holderIdentity"], json!("n1"));
        assert_eq!(written["spec"]["leaseDurationSeconds"], json!(40));
        assert!(written["spec"]["renewTime"].is_string());
    }
}
