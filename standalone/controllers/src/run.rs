//! Wiring: configuration, cache, queues, workers.

use std::fmt::Display;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnetwork::IpNetwork;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use skerry_client::{ConnectError, Source, Teller, certificate_authority, connect, record};
use skerry_informer::{Next, Queue, Readers, Work, run_to_end, run_workers, work};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cache::Cache;
use crate::context::Context;
use crate::garbage::Absent;
use crate::node::{Heartbeats, Since};
use crate::{
    cronjob, daemonset, deployment, disruption, endpoints, endpointslice, garbage, job, loadbalancer,
    namespace, node, podgc, replicaset, serviceaccount, servicecidr, statefulset, volume,
};

/// What the controllers need to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Kubeconfig of an identity that may do what `system:kube-controller-manager` may.
    pub kubeconfig: PathBuf,
    /// Pod addresses of the whole cluster, one range a family.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// Prefix length of the range that each node gets: IPv4.
    pub node_mask_v4: u8,
    /// Prefix length of the range that each node gets: IPv6.
    pub node_mask_v6: u8,
    /// Objects that one controller works on at the same time.
    pub workers: usize,
    /// A node that has not renewed its lease for so long is Unknown.
    pub node_grace: Duration,
    /// Ended pods beyond this number are deleted, oldest first; 0 keeps all.
    pub terminated_pods: usize,
    /// Can tell how the controllers' caches do.
    pub readers: Readers,
}

impl Config {
    /// Upstream's defaults and 10.244.0.0/16.
    pub fn new(kubeconfig: PathBuf) -> Self {
        let pods = std::net::Ipv4Addr::new(10, 244, 0, 0);
        let pods = ipnetwork::Ipv4Network::new(pods, 16).expect("16 is a prefix length");
        Self {
            kubeconfig,
            cluster_cidrs: vec![IpNetwork::V4(pods)],
            node_mask_v4: 24,
            node_mask_v6: 64,
            workers: 4,
            node_grace: Duration::from_secs(40),
            terminated_pods: 12_500,
            readers: Readers::default(),
        }
    }
}

/// Why the controllers could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("connect the controllers to the API server")]
    Connect(#[from] ConnectError),
    #[error("allocate node ranges")]
    Ranges(#[from] crate::node::RangeError),
}

/// Runs every controller until `shutdown`.
///
/// # Errors
/// When the kubeconfig cannot be used or a node range does not fit into its cluster range. An API server that
/// is away is no error: the watches try again.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let client = connect(&Source::Kubeconfig(config.kubeconfig.clone())).await?.client;
    let ranges = crate::node::Ranges::new(&config.cluster_cidrs, config.node_mask_v4, config.node_mask_v6)?;
    let mut tasks = JoinSet::new();
    let (recorder, events) = record(client.clone(), Teller::counted("skerry-controllers"), shutdown.clone());
    tasks.spawn(events);
    let context = Arc::new(Context {
        client: client.clone(),
        cache: Cache::new(&client),
        recorder,
        heartbeats: Heartbeats::new(config.node_grace),
        since: Since::default(),
        cron_looks: Default::default(),
        terminated_pods: config.terminated_pods,
        inventory: Arc::default(),
        absent: Absent::default(),
        ca: certificate_authority(&config.kubeconfig).await?,
        ranges: Mutex::new(ranges),
    });

    let mut controllers = JoinSet::new();
    let mut start =
        Start { context: &context, tasks: &mut controllers, workers: config.workers, shutdown: &shutdown };
    start.controller("replicaset", replicaset::listen::<ReplicaSet>, replicaset::reconcile::<ReplicaSet>);
    start.controller(
        "replication",
        replicaset::listen::<ReplicationController>,
        replicaset::reconcile::<ReplicationController>,
    );
    start.controller("deployment", deployment::listen, deployment::reconcile);
    start.controller("daemonset", daemonset::listen, daemonset::reconcile);
    start.controller("statefulset", statefulset::listen, statefulset::reconcile);
    start.controller("cronjob", cronjob::listen, cronjob::reconcile);
    start.controller("job", job::listen, job::reconcile);
    start.controller("disruption", disruption::listen, disruption::reconcile);
    start.controller("job-orphans", job::orphans::listen, job::orphans::reconcile);
    start.controller("ephemeral-volumes", volume::ephemeral::listen, volume::ephemeral::reconcile);
    start.controller("volume-claims", volume::listen_for_claims, volume::reconcile_claim);
    start.controller("volumes", volume::listen_for_volumes, volume::reconcile_volume);
    start.controller("endpointslice", endpointslice::listen, endpointslice::reconcile);
    start.controller(
        "endpointslice-mirroring",
        endpointslice::mirror::listen,
        endpointslice::mirror::reconcile,
    );
    start.controller("dns-endpoints", endpointslice::nodes::listen, endpointslice::nodes::reconcile);
    start.controller("endpoints", endpoints::listen, endpoints::reconcile);
    start.controller("load-balancer", loadbalancer::listen, loadbalancer::reconcile);
    start.controller("service-cidr", servicecidr::listen, servicecidr::reconcile);
    start.controller("serviceaccount", serviceaccount::listen, serviceaccount::reconcile);
    start.controller("node-ipam", node::ipam::listen, node::ipam::reconcile);
    start.controller("node-lifecycle", node::heartbeat::listen, node::heartbeat::reconcile);
    start.controller("taint-eviction", node::eviction::listen, node::eviction::reconcile);
    start.controller("pod-garbage", podgc::listen, podgc::reconcile);
    let namespaces = start.controller("namespace", namespace::listen, namespace::reconcile);
    let garbage = start.controller("garbage", |_, _| {}, garbage::reconcile);

    let listeners = vec![
        garbage::queue_on_change(&context.inventory, garbage),
        namespace::on_object_gone(&context, namespaces),
    ];
    let (inventory, readers) = (context.inventory.clone(), config.readers);
    let discover =
        garbage::discover(client.clone(), inventory, listeners, readers.optional(), shutdown.clone());
    tasks.spawn(discover);
    context.cache.spawn(&readers, &mut tasks, &shutdown);
    info!("controllers run");
    tasks.spawn(run_to_end(controllers));
    run_to_end(tasks).await;
    Ok(())
}

/// Controllers that read every kind the API server has.
const NEED_INVENTORY: [&str; 2] = ["garbage", "namespace"];
/// Longest wait for the first list of every kind.
const INVENTORY_WAIT: Duration = Duration::from_secs(30);

/// Starts controllers: their listeners at once, their workers when the caches are filled.
struct Start<'a> {
    context: &'a Arc<Context>,
    tasks: &'a mut JoinSet<()>,
    workers: usize,
    shutdown: &'a CancellationToken,
}

impl Start<'_> {
    fn controller<K, L, R, F, E>(&mut self, name: &'static str, listen: L, reconcile: R) -> Arc<Queue<K>>
    where
        K: Clone + Eq + Hash + Display + Send + Sync + 'static,
        L: FnOnce(&Arc<Context>, &Arc<Queue<K>>),
        R: Fn(Arc<Context>, K) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Next, E>> + Send + 'static,
        E: std::error::Error + Send + 'static,
    {
        let queue = Arc::new(Queue::default());
        listen(self.context, &queue);
        let context = self.context.clone();
        self.workers(name, queue.clone(), work(move |key| reconcile(context.clone(), key)));
        queue
    }

    fn workers<K>(&mut self, name: &'static str, queue: Arc<Queue<K>>, work: Work<K>)
    where
        K: Clone + Eq + Hash + Display + Send + Sync + 'static,
    {
        let (context, shutdown, workers) = (self.context.clone(), self.shutdown.clone(), self.workers);
        self.tasks.spawn(async move {
            let filled = async {
                context.cache.synced().await;
                if NEED_INVENTORY.contains(&name) {
                    // A kind whose list fails must not hold all others up: owners are looked up live anyway.
                    let _ = tokio::time::timeout(INVENTORY_WAIT, context.inventory.synced()).await;
                }
            };
            if shutdown.run_until_cancelled(filled).await.is_some() {
                run_workers(name, queue, workers, work, shutdown).await;
            }
        });
    }
}
