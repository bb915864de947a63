//! Wiring: configuration, cache, queues, workers.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnetwork::IpNetwork;
use skerry_informer::{ConnectError, Queue, connect, record, run_workers};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cache::Cache;
use crate::context::Context;
use crate::node::ipam as node_ipam;
use crate::{deployment, replicaset};

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
/// When the kubeconfig cannot be used or a node range does not fit into its cluster range. An API server that is away is
/// no error: the watches try again.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let client = connect(&config.kubeconfig).await?;
    let ranges = crate::node::Ranges::new(&config.cluster_cidrs, config.node_mask_v4, config.node_mask_v6)?;
    let mut tasks = JoinSet::new();
    let (recorder, events) = record(client.clone(), "skerry-controllers", shutdown.clone());
    tasks.spawn(events);
    let context = Arc::new(Context {
        client: client.clone(),
        cache: Cache::new(&client),
        recorder,
        ranges: Mutex::new(ranges),
    });

    macro_rules! controller {
        ($name:literal, $module:ident) => {
            controller!($name, $module, config.workers)
        };
        ($name:literal, $module:ident, $workers:expr) => {{
            let queue = Arc::new(Queue::default());
            $module::listen(&context, &queue);
            let (context, shutdown) = (context.clone(), shutdown.clone());
            let workers: usize = $workers;
            Box::pin(async move {
                let work = {
                    let context = context.clone();
                    move |key| {
                        let context = context.clone();
                        async move { $module::reconcile(&context, key).await }
                    }
                };
                if shutdown.run_until_cancelled(context.cache.synced()).await.is_some() {
                    run_workers($name, queue, workers, work, shutdown).await;
                }
            }) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
        }};
    }
    let controllers = [
        controller!("replicaset", replicaset),
        controller!("deployment", deployment),
        controller!("node-ipam", node_ipam, 1),
    ];
    context.cache.spawn(&client, &mut tasks, &shutdown);
    for controller in controllers {
        tasks.spawn(controller);
    }
    info!("controllers run");
    while tasks.join_next().await.is_some() {}
    Ok(())
}
