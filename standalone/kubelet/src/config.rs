use std::{
    collections::BTreeMap,
    fmt::Debug,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use crate::logs::Limits;

/// How the agent reaches the API server.
#[derive(Clone, Debug)]
pub enum ServerAccess {
    /// The folder that [`crate::join`] filled: `ca.crt`, `node.crt`, `node.key`.
    Joined { server: String, dir: PathBuf },
    /// An ordinary kubeconfig (its current context).
    Kubeconfig { path: PathBuf },
}

/// A taint that the node is registered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    pub key: String,
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// Compute resources kept back from pods; what is left is the node's allocatable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub storage_bytes: u64,
}

/// Who knows when an address came to be on this node: its network plugin and its service proxy.
pub trait Addresses: Debug + Send + Sync {
    /// The answer to `/timeline/addresses/ADDRESS`.
    fn told(&self, address: IpAddr) -> serde_json::Value;
}

/// Everything that a node agent must be told.
#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    /// The node's own addresses, which may change; the first of each family goes into pods on the host's
    /// network.
    pub node_ips: watch::Receiver<Vec<IpAddr>>,
    /// What keeps the node's network from working, if anything: such a node is not Ready.
    pub network_fault: watch::Receiver<Option<String>>,
    pub server: ServerAccess,
    pub runtime_socket: PathBuf,
    /// Volumes, hosts files and termination messages: `pods/UID/…` below it.
    pub root_dir: PathBuf,
    pub pod_log_dir: PathBuf,
    /// When a container's log is turned over; never, if absent.
    pub log_limits: Option<Limits>,
    /// Volumes of the built-in provisioner that are on this node, a folder each.
    pub local_volumes_dir: PathBuf,
    /// Folder below the cgroup root under which `kubepods/…` stands, such as `/` or `/lab/node1`.
    pub cgroup_parent: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub max_pods: u32,
    pub reserved: Reserved,
    /// Kernel parameters beside the safe ones that pods may set: names, or prefixes that end in `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Address of the cluster's DNS Service; without it pods get the node's own resolver.
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// Source of the resolver that pods with dnsPolicy Default get.
    pub resolv_conf: PathBuf,
    pub lease_duration: Duration,
    /// How often the lease is renewed.
    pub lease_interval: Duration,
    /// How often the node's status is written although nothing changed.
    pub status_interval: Duration,
    /// How often runtime and API are compared as a safety net.
    pub resync_interval: Duration,
    /// Whether the node dials the API server's tunnel for logs and exec (upstream servers have none).
    pub tunnel: bool,
    /// Where a plain HTTP `/healthz` is served, if anywhere.
    pub healthz: Option<SocketAddr>,
    /// Who is asked about addresses; `None`: nobody knows.
    pub addresses: Option<Arc<dyn Addresses>>,
}

impl Config {
    /// Defaults for everything but name, address and server.
    pub fn new(node_name: impl Into<String>, node_ips: Vec<IpAddr>, server: ServerAccess) -> Config {
        Config {
            node_name: node_name.into(),
            node_ips: watch::channel(node_ips).1,
            network_fault: watch::channel(None).1,
            server,
            runtime_socket: PathBuf::from("/run/containerd/containerd.sock"),
            root_dir: PathBuf::from("/var/lib/skerry/node/kubelet"),
            pod_log_dir: PathBuf::from("/var/log/pods"),
            log_limits: Some(Limits::default()),
            local_volumes_dir: PathBuf::from("/var/lib/skerry/node/volumes"),
            cgroup_parent: "/".to_owned(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            max_pods: 110,
            reserved: Reserved::default(),
            allowed_unsafe_sysctls: Vec::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            lease_duration: Duration::from_secs(40),
            lease_interval: Duration::from_secs(10),
            status_interval: Duration::from_secs(300),
            resync_interval: Duration::from_secs(300),
            tunnel: true,
            healthz: None,
            addresses: None,
        }
    }

    /// `IP` of the node, as it stands in the status of its pods.
    pub fn host_ips(&self) -> Vec<String> {
        self.node_ips.borrow().iter().map(IpAddr::to_string).collect()
    }
}
