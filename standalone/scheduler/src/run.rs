//! Wiring: configuration, watches, the main loop.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, Resource};
use skerry_client::{ConnectError, Source, Teller, connect, record};
use skerry_informer::{Change, Kind, Narrow, Readers, Store, reflect, run_to_end};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::binding::Volumes;
use crate::inbox::{Inbox, Item};
use crate::shell::{Shell, Watched};

/// What the scheduler needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Kubeconfig of an identity that may do what `system:kube-scheduler` may.
    pub kubeconfig: PathBuf,
    /// Pods that name this in `spec.schedulerName` are ours.
    pub scheduler_name: String,
    /// Bindings under way at the same time; more pods wait.
    pub max_bindings: usize,
    /// Can tell how the scheduler's caches do.
    pub readers: Readers,
}

impl Config {
    /// The scheduler of pods that name none: `default-scheduler`, with 64 bindings at a time.
    pub fn new(kubeconfig: PathBuf) -> Self {
        Self {
            kubeconfig,
            scheduler_name: "default-scheduler".into(),
            max_bindings: 64,
            readers: Readers::default(),
        }
    }
}

/// Why the scheduler could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig can't be read, or names no server that can be used.
    #[error("connect the scheduler to the API server")]
    Connect(#[from] ConnectError),
}

/// Schedules pods until `shutdown`.
///
/// # Errors
/// When the kubeconfig cannot be used. An API server that is away is no error: the watches try again.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let client = connect(&Source::Kubeconfig(config.kubeconfig.clone())).await?.client;
    let mut tasks = JoinSet::new();
    let (recorder, events) = record(client.clone(), Teller::counted("default-scheduler"), shutdown.clone());
    tasks.spawn(events);

    let pods = Kind::<Pod>::namespaced(&client, Store::new(|_| Vec::new(), trim_pod));
    let nodes = Kind::<Node>::cluster(&client, Store::new(|_| Vec::new(), trim_node));
    let namespaces = Store::<Namespace>::new(|_| Vec::new(), trim);
    let budgets = Store::<PodDisruptionBudget>::new(|_| Vec::new(), trim);
    let inbox = Arc::new(Inbox::default());
    let items = inbox.clone();
    pods.store.on_change(move |change: &Change<Pod>| items.put(Item::Pod(change.key.clone())));
    let items = inbox.clone();
    nodes.store.on_change(move |change: &Change<Node>| items.put(Item::Node(change.key.clone())));

    let volumes = Volumes {
        claims: Arc::new(Kind::<PersistentVolumeClaim>::namespaced(
            &client,
            Store::new(|_| Vec::new(), trim_managed),
        )),
        volumes: Arc::new(Kind::<PersistentVolume>::cluster(
            &client,
            Store::new(|_| Vec::new(), trim_managed),
        )),
        classes: Store::<StorageClass>::new(|_| Vec::new(), trim_managed),
    };
    let items = inbox.clone();
    volumes
        .claims
        .store
        .on_change(move |change: &Change<PersistentVolumeClaim>| items.put(Item::Claim(change.key.clone())));
    let items = inbox.clone();
    volumes
        .volumes
        .store
        .on_change(move |change: &Change<PersistentVolume>| items.put(Item::Volume(change.key.clone())));
    let items = inbox.clone();
    volumes
        .classes
        .on_change(move |change: &Change<StorageClass>| items.put(Item::Volume(change.key.clone())));

    let all = Narrow::default;
    let with = || (config.readers.clone(), shutdown.clone());
    let (readers, token) = with();
    tasks.spawn(reflect(Api::all(client.clone()), pods.store.clone(), all(), readers, token));
    let (readers, token) = with();
    tasks.spawn(reflect(Api::all(client.clone()), nodes.store.clone(), all(), readers, token));
    let (readers, token) = with();
    tasks.spawn(reflect(Api::all(client.clone()), namespaces.clone(), all(), readers, token));
    let (readers, token) = with();
    tasks.spawn(reflect(Api::all(client.clone()), budgets.clone(), all(), readers, token));
    let (readers, token) = with();
    tasks.spawn(reflect(Api::all(client.clone()), volumes.claims.store.clone(), all(), readers, token));
    let (readers, token) = with();
    tasks.spawn(reflect(Api::all(client.clone()), volumes.volumes.store.clone(), all(), readers, token));
    let (readers, token) = with();
    tasks.spawn(reflect(Api::all(client), volumes.classes.clone(), all(), readers, token));

    let ready = async {
        pods.store.synced().await;
        nodes.store.synced().await;
        namespaces.synced().await;
        budgets.synced().await;
        volumes.claims.store.synced().await;
        volumes.volumes.store.synced().await;
        volumes.classes.synced().await;
    };
    if shutdown.run_until_cancelled(ready).await.is_some() {
        info!("scheduler runs");
        let watched = Watched { pods: Arc::new(pods), nodes, namespaces, budgets, volumes };
        let shell = Shell::new(&config, watched, recorder, inbox);
        tasks.spawn(shell.run(shutdown));
    }
    run_to_end(tasks).await;
    Ok(())
}

fn trim<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    object.meta_mut().annotations = None;
}

/// Annotations of claims and volumes say how far their binding is.
fn trim_managed<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// The scheduler reads of a container what it asks for and its ports.
fn trim_pod(pod: &mut Pod) {
    trim(pod);
    let Some(spec) = &mut pod.spec else { return };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        *container = Container {
            name: std::mem::take(&mut container.name),
            ports: container.ports.take(),
            resources: container.resources.take(),
            restart_policy: container.restart_policy.take(),
            ..Default::default()
        };
    }
    spec.ephemeral_containers = None;
    spec.volumes = spec.volumes.take().map(|mut volumes| {
        volumes.retain(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
        volumes
    });
    spec.image_pull_secrets = None;
    spec.security_context = None;
    if let Some(status) = &mut pod.status {
        status.container_statuses = None;
        status.init_container_statuses = None;
        status.ephemeral_container_statuses = None;
    }
}

fn trim_node(node: &mut Node) {
    trim(node);
    if let Some(status) = &mut node.status {
        status.images = None;
        status.conditions = None;
        status.node_info = None;
    }
}
