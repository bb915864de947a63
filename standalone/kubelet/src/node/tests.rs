use serde_json::Value;

use super::*;
use crate::{
    Config, ServerAccess,
    agent::AgentParts,
    cri::Cri,
    machine::Machine,
    recorder::Recorder,
    test_server::{TestServer, until},
};

struct Case {
    server: TestServer,
    api: Api<Node>,
    _shutdown: tokio_util::sync::DropGuard,
}

impl Case {
    /// A node whose runtime does not answer: it is not ready, and says so.
    async fn new() -> Case {
        let server = TestServer::new().await;
        let client = server.admin().await;
        let shutdown = CancellationToken::new();
        tokio::spawn(run(agent(client.clone()), shutdown.clone()));
        Case { server, api: Api::all(client), _shutdown: shutdown.drop_guard() }
    }

    async fn until(&self, what: &str, test: impl Fn(&Node) -> bool) -> Node {
        until(what, async || self.api.get("n1").await.ok().filter(|node| test(node))).await
    }

    async fn write_status(&self, patch: Value) {
        let patch = Patch::Merge(json!({"status": patch}));
        self.api.patch_status("n1", &PatchParams::default(), &patch).await.unwrap();
    }
}

fn agent(client: kube::Client) -> Arc<Agent> {
    let access = ServerAccess::Kubeconfig { path: "/none".into() };
    let mut config = Config::new("n1", vec!["192.0.2.1".parse().unwrap()], access);
    config.lease_interval = Duration::from_millis(200);
    Arc::new(Agent::new(AgentParts {
        config,
        cri: Cri::new(std::path::Path::new("/none/containerd.sock")).unwrap(),
        client: client.clone(),
        recorder: Recorder::start(client, "n1".to_owned()),
        machine: Machine { cpu_millis: 2000, memory_bytes: 1 << 30, ..Default::default() },
        systemd_cgroups: false,
        service_env: watch::channel(None).1,
    }))
}

fn says(node: &Node, state: &str) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut all = conditions.into_iter().flatten();
    all.any(|condition| condition.type_ == "Ready" && condition.status == state)
}

#[tokio::test]
async fn what_the_watch_tells_while_the_keeper_rests_is_taken_in() {
    let agent =
        agent(kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap());
    let node = |version: &str| -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({"metadata": {"resourceVersion": version}})).unwrap())
    };
    let (known, seen) = watch::channel(Known::Loading);
    let (uid, _lease) = watch::channel(None);
    let begun = Instant::now();
    let mut keeper = Keeper {
        agent: &agent,
        stored: Stored::new(node("1")),
        seen,
        uid,
        begun,
        vanished: false,
        written: None,
    };
    for told in [Known::Present(node("2")), Known::Absent] {
        let tell = async { known.send_replace(told) };
        tokio::join!(keeper.rest(Duration::from_secs(600)), tell);
        keeper.look();
    }
    assert_eq!(
        (keeper.stored.object().metadata.resource_version.as_deref(), keeper.vanished),
        (Some("2"), true)
    );
    keeper.vanished = false;
    keeper.look();
    assert!(!keeper.vanished, "once for each time that it goes");
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn a_status_that_others_wrote_is_repaired_at_once() {
    let case = Case::new().await;
    case.until("registered", |node| says(node, "False")).await;
    case.write_status(
        json!({"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]}),
    )
    .await;
    case.until("repaired", |node| says(node, "False")).await;
    let mut node = case.api.get("n1").await.unwrap();
    node.status = Some(NodeStatus::default());
    case.api.replace_status("n1", &PostParams::default(), &node).await.unwrap();
    let whole = case.until("whole again", |node| says(node, "False")).await;
    assert!(whole.status.unwrap().addresses.is_some_and(|addresses| addresses.len() == 2));
}

#[tokio::test]
async fn a_status_that_others_wrote_during_an_outage_is_repaired_after_it() {
    let mut case = Case::new().await;
    case.until("registered", |node| says(node, "False")).await;
    case.server.stop().await;
    case.server.start().await;
    case.write_status(json!({"conditions": [{"type": "Ready", "status": "Unknown"}]})).await;
    case.until("repaired", |node| says(node, "False")).await;
}

#[tokio::test]
async fn a_node_that_was_deleted_comes_back_at_once_with_its_lease() {
    let case = Case::new().await;
    let first = case.until("registered", |node| says(node, "False")).await;
    case.api.delete("n1", &Default::default()).await.unwrap();
    let again = case.until("registered again", |node| node.metadata.uid != first.metadata.uid).await;
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> =
        Api::namespaced(case.api.clone().into_client(), "kube-node-lease");
    let owner = async || {
        let lease = leases.get("n1").await.ok()?;
        let owner = lease.metadata.owner_references?.into_iter().next()?.uid;
        (Some(owner) == again.metadata.uid).then_some(())
    };
    until("the lease is the new node's", owner).await;
    // Whatever others write into the lease, its next renewal says what the node says.
    let theirs = json!({"spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 1}});
    leases.patch("n1", &PatchParams::default(), &Patch::Merge(&theirs)).await.unwrap();
    let own = async || {
        let spec = leases.get("n1").await.ok()?.spec?;
        (spec.holder_identity.as_deref() == Some("n1") && spec.lease_duration_seconds == Some(40))
            .then_some(())
    };
    until("the lease is repaired", own).await;
}

#[tokio::test]
async fn an_extended_resource_becomes_allocatable_by_the_watch() {
    let case = Case::new().await;
    case.until("registered", |node| says(node, "False")).await;
    let dongle = |node: &Node| {
        let allocatable = node.status.as_ref()?.allocatable.as_ref()?;
        allocatable.get("example.com/dongle").map(|amount| amount.0.clone())
    };
    case.write_status(json!({"capacity": {"example.com/dongle": "4"}})).await;
    case.until("allocatable", |node| dongle(node).as_deref() == Some("4")).await;
    case.write_status(json!({"capacity": {"example.com/dongle": null}})).await;
    case.until("not any more", |node| dongle(node).is_none()).await;
}

#[tokio::test]
async fn a_status_that_agrees_is_not_written_again() {
    let case = Case::new().await;
    case.until("registered", |node| says(node, "False")).await;
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> =
        Api::namespaced(case.api.clone().into_client(), "kube-node-lease");
    let renewed = async || Some(leases.get("n1").await.ok()?.spec?.renew_time?.0);
    let (mut seen, mut last) = (Vec::new(), None);
    // Four renewals are longer than a write waits for the one before it.
    for _ in 0..5 {
        last =
            until("the lease is renewed", async || renewed().await.filter(|at| last != Some(*at)).map(Some))
                .await;
        seen.push(case.api.get("n1").await.unwrap());
    }
    assert_eq!(seen[0], seen[4]);
}
