//! A cluster without nodes' machinery: the real API server, controllers and scheduler in one process, and a
//! fake node agent at the edge that says of every bound pod that it runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skerry_apiserver::Server;
use skerry_client::{Source, connect};
use skerry_informer::Item;
use skerry_store::{Expect, LogStore, Op, Options, Store, StoreError, Txn};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Longer than anything in a test takes; whoever waits longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Cluster {
    pub client: Client,
    shutdown: CancellationToken,
    api: CancellationToken,
    address: std::net::SocketAddr,
    serving: tokio::task::JoinHandle<Result<(), skerry_apiserver::ServerError>>,
    tasks: JoinSet<()>,
    folder: tempfile::TempDir,
    /// The API server's own, for what it would not take; `None` while it is reopened.
    store: Option<Arc<LogStore>>,
    readers: skerry_informer::Readers,
}

/// Image whose pods never become ready.
pub const BROKEN: &str = "broken";
/// Image whose pods stay Pending, even when they are ended.
pub const ABSENT: &str = "absent.invalid/x:1";
/// Image whose pods end at once, with success.
pub const DONE: &str = "done";

impl Cluster {
    pub async fn start(nodes: &[&str]) -> Self {
        Self::start_with(nodes, |_| {}).await
    }

    pub async fn start_with(nodes: &[&str], adjust: impl FnOnce(&mut skerry_controllers::Config)) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(LogStore::open(&folder.path().join("store"), Options::default()).unwrap());
        let loopback = std::net::IpAddr::from([127, 0, 0, 1]);
        let config = skerry_apiserver::Config::new(folder.path().to_owned(), (loopback, 0).into(), loopback);
        let server = Server::bind(config, store.clone()).await.unwrap();
        let (paths, address) = (server.paths().clone(), server.address());
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let api = shutdown.child_token();
        let serving = tokio::spawn(server.run(api.clone()));
        let client = connect(&Source::Kubeconfig(paths.admin_kubeconfig.clone())).await.unwrap().client;
        eventually("the API server answers", async || client.apiserver_version().await.ok().map(drop)).await;

        let mut config = skerry_controllers::Config::new(paths.controllers_kubeconfig.clone());
        adjust(&mut config);
        let readers = config.readers.clone();
        let token = shutdown.clone();
        tasks.spawn(async move { skerry_controllers::run(config, token).await.unwrap() });
        let config = skerry_scheduler::Config::new(paths.scheduler_kubeconfig.clone());
        let token = shutdown.clone();
        tasks.spawn(async move { skerry_scheduler::run(config, token).await.unwrap() });

        let (agent, token) = (run_pods(client.clone()), shutdown.clone());
        tasks.spawn(async move {
            token.run_until_cancelled(agent).await;
        });
        let cluster =
            Self { client, shutdown, api, address, serving, tasks, folder, store: Some(store), readers };
        for node in nodes {
            cluster.add_node(node, json!({})).await;
        }
        cluster
    }

    pub async fn add_node(&self, name: &str, spec: Value) {
        let node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "spec": spec,
        });
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        self.report_node(name).await;
    }

    /// What a node agent would say of its node.
    pub async fn report_node(&self, name: &str) {
        let status = json!({"status": {
            "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready",
                "lastHeartbeatTime": jiff::Timestamp::now().to_string(),
                "lastTransitionTime": jiff::Timestamp::now().to_string()}],
        }});
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    }

    pub async fn apply(&self, object: Value) {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        let api_version = text("/apiVersion");
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
        let gvk = kube::core::GroupVersionKind::gvk(group, version, &text("/kind"));
        let resource = kube::core::ApiResource::from_gvk(&gvk);
        let api: Api<kube::core::DynamicObject> = match text("/kind").as_str() {
            "Namespace" | "Node" | "PersistentVolume" | "PriorityClass" | "RuntimeClass" | "ServiceCIDR"
            | "StorageClass" => Api::all_with(self.client.clone(), &resource),
            _ => {
                Api::namespaced_with(self.client.clone(), &or_default(text("/metadata/namespace")), &resource)
            }
        };
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub async fn list<K>(&self, namespace: &str) -> Vec<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let all: Api<Item<K>> = Api::namespaced(self.client.clone(), namespace);
        all.list(&Default::default()).await.unwrap().items.into_iter().map(Item::any).collect()
    }

    /// Writes below the API server's checks, as an older version or a mistake may have.
    pub async fn tamper(&self, key: &str, change: impl Fn(&mut Value)) {
        let store = self.store.as_ref().expect("the API server runs");
        loop {
            let entry = store.get(key).await.unwrap().expect("the object is there");
            let mut object = serde_json::from_slice(&entry.value).unwrap();
            change(&mut object);
            let value = object.to_string().into_bytes().into();
            let op = Op::Put { key: key.into(), value, expect: Expect::Revision(entry.mod_revision) };
            match store.commit(Txn { ops: vec![op] }).await {
                Err(StoreError::Conflict { .. }) => {}
                other => return other.map(drop).unwrap(),
            }
        }
    }

    /// Returns once the controllers can't read these objects, and no others (`pods default/web`).
    pub async fn until_unreadable(&self, names: &[&str]) {
        let all = || self.readers.report().unreadable;
        eventually("the unreadable objects are named", async || (all() == names).then_some(())).await;
    }

    pub async fn patch<K>(&self, namespace: &str, name: &str, patch: Value)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        self.api::<K>(namespace).patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    /// Reasons of the events about objects of this name, with their messages.
    pub async fn events(&self, namespace: &str, name: &str) -> Vec<(String, String)> {
        let events: Vec<k8s_openapi::api::core::v1::Event> = self.list(namespace).await;
        let about = events.into_iter().filter(|event| event.involved_object.name.as_deref() == Some(name));
        about.map(|event| (event.reason.unwrap_or_default(), event.message.unwrap_or_default())).collect()
    }

    /// Running pods by node.
    pub async fn spread(&self, namespace: &str) -> BTreeMap<String, usize> {
        let mut spread = BTreeMap::new();
        for pod in self.list::<Pod>(namespace).await.iter().filter(|pod| is_ready(pod)) {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
            *spread.entry(node).or_insert(0) += 1;
        }
        spread
    }

    /// Ends the API server, and starts another on the same data and port; what was asked meanwhile fails.
    pub async fn restart_api(&mut self) {
        self.api.cancel();
        (&mut self.serving).await.unwrap().unwrap();
        self.store = None;
        let store = Arc::new(self.reopen_store().await);
        let folder = self.folder.path().to_owned();
        let config = skerry_apiserver::Config::new(folder, self.address, self.address.ip());
        self.store = Some(store.clone());
        let server = Server::bind(config, store).await.unwrap();
        self.api = self.shutdown.child_token();
        self.serving = tokio::spawn(server.run(self.api.clone()));
    }

    /// Connections of the server that ended may hold its store for a moment longer.
    async fn reopen_store(&self) -> LogStore {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            match LogStore::open(&self.folder.path().join("store"), Options::default()) {
                Ok(store) => return store,
                Err(StoreError::InUse { .. }) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
                Err(error) => panic!("reopen the store: {error}"),
            }
        }
    }

    /// Ends everything and asserts that nothing panicked.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(PATIENCE, async {
            self.serving.await.unwrap().unwrap();
            while let Some(outcome) = self.tasks.join_next().await {
                outcome.unwrap();
            }
        });
        ended.await.expect("everything ends when told to");
    }
}

fn or_default(namespace: String) -> String {
    if namespace.is_empty() { "default".into() } else { namespace }
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Waits until `look` finds something. Looks again soon after: there is no one event to wait for.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The fake node agent: of bound pods it says that they run, deleted ones it ends.
async fn run_pods(client: Client) {
    let pods: Api<Item<Pod>> = Api::all(client.clone());
    let mut next_address = 0u32;
    loop {
        let Ok(listed) = pods.list(&Default::default()).await else {
            // The API server is away for a moment; no event tells when it is back.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let revision = listed.metadata.resource_version.unwrap_or_default();
        for pod in listed.items.into_iter().filter_map(Item::readable) {
            run_pod(&client, pod, &mut next_address).await;
        }
        let Ok(events) = pods.watch(&WatchParams::default(), &revision).await else { continue };
        let mut events = events.boxed();
        while let Ok(Some(event)) = events.try_next().await {
            if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event
                && let Some(pod) = pod.readable()
            {
                run_pod(&client, pod, &mut next_address).await;
            }
        }
    }
}

async fn run_pod(client: &Client, pod: Pod, next_address: &mut u32) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let spec = pod.spec.clone().unwrap_or_default();
    if spec.node_name.is_none() {
        return;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        let _ = pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
        return;
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    let is_of =
        |image: &str| spec.containers.iter().any(|container| container.image.as_deref() == Some(image));
    if phase != "Pending" || is_of(ABSENT) {
        return;
    }
    *next_address += 1;
    let ready = !is_of(BROKEN) && !is_of(DONE);
    let address = format!("10.244.{}.{}", *next_address / 250, *next_address % 250 + 1);
    let status = json!({"status": {
        "phase": if is_of(DONE) { "Succeeded" } else { "Running" }, "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" },
            "lastTransitionTime": jiff::Timestamp::now().to_string()}],
    }});
    let _ = pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(&status)).await;
}
