use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnetwork::IpNetwork;
use proxy_state::{Defaults as ServiceDefaults, Names};
use skerry_kernel::XdpChoice;

use crate::{
    programs::capacity::{default_flows, default_max_bytes},
    tell::programmed::Programmed,
};

/// Ranges that [`Config::unwrap_from`] may have.
pub const MOST_BALANCERS: usize = proxy_abi::Facts::BALANCERS;

/// Everything the agent is told from outside. [`Config::new`] has the defaults that fit an ordinary node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of our Node object.
    pub node_name: String,
    /// The addresses other nodes reach us by, at most one of each family. Of a family that is not here: the
    /// uplink's first. None: what the machine has at the moment, found again when that changes.
    pub node_ips: Vec<IpAddr>,
    /// The device towards other nodes. `None`: the one that holds the first of `node_ips`, else that of the
    /// default route.
    pub uplink: Option<String>,
    /// Further devices that lead out of the node: NodePorts are served there, and what pods send out of them
    /// gets the node's address there. `None`: all Ethernet devices by which anything can leave.
    pub other_uplinks: Option<Vec<String>>,
    /// `None`: the service account of the pod we run in.
    pub kubeconfig: Option<PathBuf>,
    /// Where pods of the whole cluster have their addresses: what Nodes claim elsewhere is not believed.
    /// Empty: not known; then claims are bounded by nodes' addresses and Services' ranges.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// ClusterIP ranges where the API server has no ServiceCIDR objects that name them.
    pub service_cidrs: Vec<IpNetwork>,
    pub node_ports: RangeInclusive<u16>,
    /// The node's addresses that NodePorts are served on lie in these ranges. Empty: on all of them. Always
    /// only on those that packets reach by the ways out.
    pub node_port_addresses: Vec<IpNetwork>,
    /// Where Services' externalIPs may lie. `None`: anywhere; empty: nowhere (CVE-2020-8554).
    pub external_ips: Option<Vec<IpNetwork>>,
    /// Source ports for SNAT. `None`: the most that lies outside NodePorts and the kernel's
    /// own ephemeral ports (1024–29999 by default).
    pub snat_ports: Option<RangeInclusive<u16>>,
    pub vxlan_port: u16,
    /// 24 bits.
    pub vni: u32,
    /// Pods' traffic to the outside gets the node's address.
    pub masquerade: bool,
    /// A folder on a BPF file system; where there is none, one is mounted.
    pub pin_root: PathBuf,
    /// The cgroup v2 folder above everything that runs on this node. `None`: the root of the mounted
    /// hierarchy.
    pub cgroup_root: Option<PathBuf>,
    /// Where the container runtime looks for network configurations.
    pub cni_conf_dir: PathBuf,
    /// State of the CNI plugin, told to it by the configuration.
    pub cni_state_dir: PathBuf,
    /// The CNI plugin's binary, and the folder to install it in. `None`: somebody else does it.
    pub cni_bin: Option<CniBinary>,
    /// Our own files (lock, record of changed settings).
    pub run_dir: PathBuf,
    /// Where `/metrics`, `/healthz` and `/readyz` are served. `None`: nowhere.
    pub metrics_bind: Option<SocketAddr>,
    /// The same, and `/proxyMode`, where tools look for kube-proxy. `None`: nowhere. Somebody else's holding
    /// it keeps nothing from starting.
    pub tools_bind: Option<SocketAddr>,
    /// Where `/healthz` and `/livez` are served as kube-proxy does it, for load balancers that ask whether
    /// the node should get traffic. `None`: nowhere. Somebody else's holding it keeps nothing from starting.
    pub healthz_bind: Option<SocketAddr>,
    /// Where what comes for backends elsewhere turns round before the uplink's network stack. `None`:
    /// nowhere.
    pub uplink_xdp: Option<XdpChoice>,
    /// Addresses of balancers in front of nodes (`skerry lb` in mode dsr): the packets that they send inside
    /// others are unwrapped, by the program that `uplink_xdp` asks for. At most [`MOST_BALANCERS`] ranges.
    pub unwrap_from: Vec<IpNetwork>,
    /// How Services are served that don't say it by annotations.
    pub service_defaults: ServiceDefaults,
    /// Whose connections are translated at the socket.
    pub socket_lb: SocketLb,
    /// Who else hears of Services, EndpointSlices and Nodes: what answers for names.
    pub names: Option<Arc<dyn Names>>,
    /// When endpoints came into the maps, for who asks.
    pub programmed: Arc<Programmed>,
    /// Answer ARP and neighbour discovery on the uplink for load-balancer addresses that Skerry's own
    /// controller gave.
    pub announce: bool,
    /// At least; more where the cluster's Services need it.
    pub map_sizes: MapSizes,
    /// What the maps of Services may grow to, in bytes.
    pub max_service_bytes: u64,
    /// How long slots that no frontend points to any more rest before they are used again.
    pub slot_grace: Duration,
    /// How long a watch lasts before it is asked for anew. One that is silent for an eighth longer counts as
    /// dead. Whole seconds.
    pub watch_lasts: Duration,
    /// Between two comparisons of the maps with what should be in them.
    pub resync_interval: Duration,
    /// Between two looks at the attachments, beside those that netlink asks for.
    pub verify_interval: Duration,
    /// Between two walks over the flow table for entries that ran out.
    pub flow_gc_interval: Duration,
}

/// Whose connections are translated before their first packet exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketLb {
    /// Those of pods and of the node.
    All,
    /// Those of the node's own processes. What redirects a pod's connections inside of it (a service mesh's
    /// sidecar) then sees the service's address; pods' packets are translated on their devices.
    Host,
}

/// kube-proxy's `--metrics-bind-address`.
const TOOLS_PORT: u16 = 10249;
/// kube-proxy's `--healthz-bind-address`, where load balancers look.
const HEALTHZ_PORT: u16 = 10256;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CniBinary {
    pub source: PathBuf,
    pub dir: PathBuf,
}

/// Elements of the maps that grow with the cluster. Those of Services (all but the last three) are made anew
/// where they are pinned and smaller, and never shrink; the others keep the size that they were made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapSizes {
    pub frontends: u32,
    pub slots: u32,
    pub members: u32,
    pub source_ranges: u32,
    pub flows: u32,
    pub sockets: u32,
}

impl Config {
    /// Defaults for a node of this name.
    pub fn new(node_name: &str) -> Config {
        let size =
            |name| proxy_abi::MAPS.iter().find(|map| map.name == name).map_or(1, |map| map.max_entries);
        Config {
            node_name: node_name.to_owned(),
            node_ips: Vec::new(),
            uplink: None,
            other_uplinks: None,
            kubeconfig: None,
            cluster_cidrs: Vec::new(),
            service_cidrs: proxy_state::parse_cidr("10.96.0.0/12").into_iter().collect(),
            node_ports: 30_000..=32_767,
            node_port_addresses: Vec::new(),
            external_ips: None,
            service_defaults: ServiceDefaults::default(),
            snat_ports: None,
            vxlan_port: 4789,
            vni: 1,
            masquerade: true,
            pin_root: proxy_abi::PIN_ROOT.into(),
            cgroup_root: None,
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_state_dir: "/run/skerry/cni".into(),
            cni_bin: None,
            run_dir: "/run/skerry".into(),
            metrics_bind: None,
            tools_bind: Some((Ipv4Addr::LOCALHOST, TOOLS_PORT).into()),
            healthz_bind: Some((Ipv6Addr::UNSPECIFIED, HEALTHZ_PORT).into()),
            uplink_xdp: None,
            unwrap_from: Vec::new(),
            socket_lb: SocketLb::All,
            names: None,
            programmed: Arc::default(),
            announce: true,
            map_sizes: MapSizes {
                frontends: size(proxy_abi::map::FRONTENDS),
                slots: size(proxy_abi::map::SLOTS),
                members: size(proxy_abi::map::MEMBERS),
                source_ranges: size(proxy_abi::map::SOURCE_RANGES),
                flows: default_flows(),
                sockets: size(proxy_abi::map::SOCKETS),
            },
            max_service_bytes: default_max_bytes(),
            slot_grace: Duration::from_secs(1),
            watch_lasts: Duration::from_secs(290),
            resync_interval: Duration::from_secs(300),
            verify_interval: Duration::from_secs(10),
            flow_gc_interval: Duration::from_secs(10),
        }
    }
}
