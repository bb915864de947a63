//! What can be typed.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::document::{Given, text, texts};

/// Half as long again as a node's period: one renewal may be late.
const MIN_GRACE_PERIOD: u64 = 15;

#[derive(Debug, Parser)]
#[command(name = "skerry", version, about = "Kubernetes service proxy, CNI and edge cluster on eBPF")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a cluster of this machine: server and node, watched over
    Up(UpArgs),
    /// The API server, controllers and scheduler
    Server(Given<ServerArgs>),
    /// The node agent and the service proxy of one machine
    Node(Given<NodeArgs>),
    /// The service proxy and CNI alone, for a cluster of any make
    Proxy(ProxyArgs),
    /// A balancer alone, in front of nodes: XDP, health checks, a file of virtual addresses
    Lb(crate::lb::LbArgs),
    /// Print a kubeconfig for the cluster that runs here
    Kubeconfig(FolderArgs),
    /// Look for what is wrong with this machine and its cluster, and say what to do next
    Doctor(crate::doctor::DoctorArgs),
    /// Say what runs here
    Status(FolderArgs),
    /// Stop everything and remove what Skerry has put on this machine
    Uninstall(UninstallArgs),
    /// Answer for the cluster's names (`skerry node` starts it), or look one up
    Dns(crate::dns::DnsArgs),
    /// Tell how a pod came to be, step by step
    Pod(crate::cli::PodArgs),
    /// Show Services as this node serves them
    Service(crate::cli::ServiceArgs),
    /// Show the proxy's maps
    Bpf(crate::cli::BpfArgs),
    /// Follow what the programs do to packets: drops, with their reasons
    Flows(crate::cli::FlowsArgs),
    /// Follow a made-up packet through the proxy's decisions, on the live maps
    Trace(crate::cli::TraceArgs),
    /// Remove what kube-proxy has left on this machine: rules, sets, virtual servers
    CleanupKubeProxy(crate::kube_proxy::CleanArgs),
}

#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FolderArgs {
    /// What outlives a reboot: keys, the store, pods' volumes
    #[arg(long, default_value = "/var/lib/skerry")]
    pub data_dir: PathBuf,
    /// What does not: locks, sockets, addresses given to pods
    #[arg(long, default_value = "/run/skerry")]
    pub run_dir: PathBuf,
}

/// What server and node must agree on.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ClusterArgs {
    /// Addresses of pods; a second range, of the other family, makes the cluster dual stack
    #[arg(long = "pod-cidr", default_value = "10.244.0.0/16", value_delimiter = ',')]
    #[serde(with = "texts")]
    pub pod_cidrs: Vec<IpNetwork>,
    /// Addresses of services; the first range's family is the default one
    #[arg(long = "service-cidr", default_value = "10.96.0.0/12", value_delimiter = ',')]
    #[serde(with = "texts")]
    pub service_cidrs: Vec<IpNetwork>,
    /// Ports of NodePort services, first-last
    #[arg(long, default_value = "30000-32767", value_parser = port_range)]
    pub nodeport_range: (u16, u16),
}

#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServerArgs {
    #[command(flatten)]
    pub folders: FolderArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Where the API is served
    #[arg(long, default_value = "[::]:6443")]
    pub bind: SocketAddr,
    /// The address that nodes and pods reach the API by; the machine's default address if absent
    #[arg(long)]
    pub advertise: Option<IpAddr>,
    /// Further names and addresses for the serving certificate
    #[arg(long = "tls-san", value_delimiter = ',')]
    pub tls_sans: Vec<String>,
    /// User and group id that the server changes to before it serves
    #[arg(long, default_value_t = 64_443)]
    pub server_uid: u32,
    /// A node that is silent for so long is Unknown, and its pods are evicted once they tolerate that no
    /// longer; nodes speak every 10 s
    #[arg(long, value_name = "SECONDS", default_value_t = 40, value_parser = grace_period)]
    pub node_monitor_grace_period: u64,
}

/// The part of a node that `up` and `node` share.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NodeOptions {
    /// The node's name; the host's if absent
    #[arg(long)]
    pub node_name: Option<String>,
    /// The node's own address, or one of each family; if absent the machine's default addresses, found again
    /// when they change
    #[arg(long = "node-ip", value_delimiter = ',')]
    pub node_ips: Vec<IpAddr>,
    /// key=value, repeated
    #[arg(long = "label")]
    pub labels: Vec<String>,
    /// key[=value]:Effect, repeated
    #[arg(long = "taint")]
    pub taints: Vec<String>,
    /// Kernel parameters beside the safe ones that pods may set: names, or prefixes that end in *
    #[arg(long, value_delimiter = ',')]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Where containerd listens
    #[arg(long, default_value = "/run/containerd/containerd.sock")]
    pub containerd_socket: PathBuf,
    /// Folder of cgroup v2 whose processes' connections are balanced; found if absent
    #[arg(long)]
    pub cgroup_root: Option<PathBuf>,
    /// Parent of the pods' cgroups, below the root of each hierarchy
    #[arg(long, default_value = "/")]
    pub cgroup_parent: String,
    /// Where the container runtime looks for network configurations
    #[arg(long, default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Where the CNI plugin is installed
    #[arg(long, default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// Where pods' logs are kept
    #[arg(long, default_value = "/var/log/pods")]
    pub pod_log_dir: PathBuf,
    #[command(flatten)]
    pub container_logs: crate::container_logs::ContainerLogs,
    #[command(flatten)]
    pub dns: crate::dns::DnsOptions,
    #[command(flatten)]
    pub tunnel: TunnelOptions,
}

#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TunnelOptions {
    /// The device that leads to the other nodes; the one with the node's address if absent
    #[arg(long)]
    pub uplink: Option<String>,
    /// Further devices that lead out of the node, where NodePorts are served and pods' packets get the node's
    /// address, too: `auto` (all Ethernet devices by which anything can leave), `none`, or their names
    #[arg(long, default_value = "auto", value_name = "auto|none|NAME,…")]
    #[serde(with = "text")]
    pub other_uplinks: OtherUplinks,
    /// UDP port of the tunnel between nodes; the same on all of them
    #[arg(long, default_value_t = 4789)]
    pub vxlan_port: u16,
    /// Network identifier of the tunnel, 24 bits; the same on all nodes
    #[arg(long, default_value_t = 1)]
    pub vxlan_vni: u32,
    /// NodePorts are served on the node's addresses in these ranges only
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    #[serde(with = "texts")]
    pub nodeport_addresses: Vec<IpNetwork>,
    /// Where Services' externalIPs may lie: `all`, `none`, or ranges (CVE-2020-8554)
    #[arg(long, default_value = "all", value_name = "all|none|CIDR,…")]
    #[serde(with = "text")]
    pub external_ips: ExternalIps,
    /// Below it programs and maps are pinned (bpffs; mounted if it is not)
    #[arg(long, default_value = "/sys/fs/bpf/skerry")]
    pub pin_root: PathBuf,
    /// Prometheus metrics, /healthz and /readyz of the proxy
    #[arg(long)]
    pub metrics_bind: Option<SocketAddr>,
    /// The same, and /proxyMode, where tools look for kube-proxy; port 0: nowhere
    #[arg(long, default_value = "127.0.0.1:10249")]
    pub tools_bind: SocketAddr,
    /// /healthz and /livez of the proxy as load balancers ask for them; port 0: nowhere
    #[arg(long, default_value = "[::]:10256")]
    pub healthz_bind: SocketAddr,
    /// Answer ARP and neighbour discovery for load-balancer addresses
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub announce: bool,
    /// What comes for backends on other nodes turns round before the network stack: XDP on the uplink, in the
    /// driver, behind it, or in the driver where it can
    #[arg(long, default_value = "off")]
    pub uplink_xdp: UplinkXdp,
    /// Addresses of balancers in front of the nodes (`skerry lb` in mode dsr) whose packets inside others are
    /// unwrapped, at most four ranges; needs --uplink-xdp
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    #[serde(with = "texts")]
    pub unwrap_from: Vec<IpNetwork>,
    /// Whose connections to Services are translated at the socket: everyone's, or only those of the node's
    /// own processes: a service mesh's sidecar then sees what its pod has dialled
    #[arg(long, default_value = "all")]
    pub socket_lb: SocketLb,
    /// How clients outside reach backends on other nodes, of Services that don't say
    /// (service.skerry.io/forwarding-mode): answers come back through the node that they reached, or the
    /// backend's node answers itself (direct server return)
    #[arg(long, default_value = "snat")]
    pub load_balancer_mode: LoadBalancerMode,
    /// How backends are drawn, of Services that don't say (service.skerry.io/balancing); with
    /// `--load-balancer-mode dsr` maglev
    #[arg(long, default_value = "random")]
    pub balancing: Balancing,
    /// Elements of a Maglev table at least, of Services that don't say (service.skerry.io/maglev-table-size):
    /// 251 to 65521, rounded up to a prime of ours
    #[arg(long, default_value_t = 1021, value_parser = clap::value_parser!(u32).range(1..=65_521))]
    pub maglev_table_size: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balancing {
    Random,
    Maglev,
}

impl TunnelOptions {
    /// What hangs together.
    pub fn check(&self) -> anyhow::Result<()> {
        let (count, most) = (self.unwrap_from.len(), proxy_agent::MOST_BALANCERS);
        anyhow::ensure!(
            count <= most,
            "--unwrap-from names {count} ranges: at most {most}; name a wider one that has several of them"
        );
        anyhow::ensure!(
            count == 0 || self.uplink_xdp != UplinkXdp::Off,
            "--unwrap-from needs --uplink-xdp auto (or native, generic): its program unwraps"
        );
        Ok(())
    }

    pub fn service_defaults(&self) -> proxy_agent::ServiceDefaults {
        proxy_agent::ServiceDefaults {
            is_direct: self.load_balancer_mode == LoadBalancerMode::Dsr,
            is_maglev: self.balancing == Balancing::Maglev,
            maglev_size: self.maglev_table_size,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadBalancerMode {
    Snat,
    Dsr,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SocketLb {
    All,
    Host,
}

impl From<SocketLb> for proxy_agent::SocketLb {
    fn from(asked: SocketLb) -> proxy_agent::SocketLb {
        match asked {
            SocketLb::All => proxy_agent::SocketLb::All,
            SocketLb::Host => proxy_agent::SocketLb::Host,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UplinkXdp {
    Off,
    Native,
    Generic,
    Auto,
}

impl UplinkXdp {
    pub fn mode(self) -> Option<proxy_agent::XdpChoice> {
        match self {
            UplinkXdp::Off => None,
            UplinkXdp::Native => Some(proxy_agent::XdpChoice::Native),
            UplinkXdp::Generic => Some(proxy_agent::XdpChoice::Generic),
            UplinkXdp::Auto => Some(proxy_agent::XdpChoice::Auto),
        }
    }
}

#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NodeArgs {
    #[command(flatten)]
    pub folders: FolderArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub node: NodeOptions,
    /// The API server, https://ADDRESS:6443
    #[arg(long)]
    pub server: String,
    /// The join token, as in DATA_DIR/server/join-token of the server
    #[arg(long, conflicts_with = "token_file")]
    pub token: Option<String>,
    /// The file that has the join token
    #[arg(long)]
    pub token_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub node: NodeOptions,
    /// Keep ordinary pods off the server (it has workers)
    #[arg(long)]
    pub taint_server: bool,
}

#[derive(Clone, Debug, Args)]
pub struct ProxyArgs {
    /// The file that leads to the API server; in-cluster credentials if absent
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Name of this node's Node object; $NODE_NAME, else the host's name
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// The node's own address, or one of each family; if absent the uplink's, found again when it changes
    #[arg(long = "node-ip", value_delimiter = ',')]
    pub node_ips: Vec<IpAddr>,
    /// Folder of cgroup v2 whose processes' connections are balanced; found if absent
    #[arg(long)]
    pub cgroup_root: Option<PathBuf>,
    /// Where the container runtime looks for network configurations
    #[arg(long, default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Where the CNI plugin is installed; not at all if absent
    #[arg(long)]
    pub cni_bin_dir: Option<PathBuf>,
    /// What does not outlive a reboot: locks, sockets, addresses given to pods
    #[arg(long, default_value = "/run/skerry")]
    pub run_dir: PathBuf,
    /// Addresses of all pods (--cluster-cidr of the controller manager): ranges that Nodes claim elsewhere
    /// are not believed. $CLUSTER_CIDR; if absent those that hold a node's address or touch a ServiceCIDR are
    /// not
    #[arg(long = "cluster-cidr", env = "CLUSTER_CIDR", value_delimiter = ',')]
    pub cluster_cidrs: Vec<IpNetwork>,
    /// Remove what kube-proxy has left on this machine, once our own programs serve
    #[arg(long)]
    pub clean_kube_proxy: bool,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub tunnel: TunnelOptions,
}

#[derive(Clone, Debug, Args)]
pub struct UninstallArgs {
    #[command(flatten)]
    pub folders: FolderArgs,
    #[command(flatten)]
    pub node: NodeOptions,
    /// Keep DATA_DIR: keys, the store and volumes
    #[arg(long)]
    pub keep_data: bool,
}

/// Ranges that externalIPs may lie in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExternalIps(pub Option<Vec<IpNetwork>>);

impl std::str::FromStr for ExternalIps {
    type Err = String;

    fn from_str(text: &str) -> Result<ExternalIps, String> {
        let cidr = |text: &str| {
            text.trim().parse().map_err(|_| {
                format!(
                    "`{text}` is no range of addresses: write `all`, `none` or ranges such as 192.0.2.0/24"
                )
            })
        };
        match text {
            "all" => Ok(ExternalIps(None)),
            "none" => Ok(ExternalIps(Some(Vec::new()))),
            list => Ok(ExternalIps(Some(list.split(',').map(cidr).collect::<Result<_, _>>()?))),
        }
    }
}

impl std::fmt::Display for ExternalIps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            None => f.write_str("all"),
            Some(list) if list.is_empty() => f.write_str("none"),
            Some(list) => f.write_str(&list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        }
    }
}

/// Devices that lead out beside the uplink; none named: all by which anything can leave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OtherUplinks(pub Option<Vec<String>>);

impl std::str::FromStr for OtherUplinks {
    type Err = String;

    fn from_str(text: &str) -> Result<OtherUplinks, String> {
        // IFNAMSIZ, with its final 0.
        let name = |text: &str| match text.trim() {
            name if name.is_empty() || name.len() > 15 || name.contains('/') => Err(format!(
                "`{name}` is no name of a device: write `auto`, `none` or names such as eth1,eth2"
            )),
            name => Ok(name.to_owned()),
        };
        match text {
            "auto" => Ok(OtherUplinks(None)),
            "none" => Ok(OtherUplinks(Some(Vec::new()))),
            list => Ok(OtherUplinks(Some(list.split(',').map(name).collect::<Result<_, _>>()?))),
        }
    }
}

impl std::fmt::Display for OtherUplinks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            None => f.write_str("auto"),
            Some(list) if list.is_empty() => f.write_str("none"),
            Some(list) => f.write_str(&list.join(",")),
        }
    }
}

pub fn port_range(text: &str) -> Result<(u16, u16), String> {
    let parts =
        text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
    match parts {
        Some((first, last)) if 0 < first && first <= last => Ok((first, last)),
        Some(_) | None => {
            Err(format!("`{text}` is no range of ports: write FIRST-LAST, such as 30000-32767"))
        }
    }
}

/// Seconds, with or without their unit; shorter than a node's own period it would give up those
/// that are well.
fn grace_period(text: &str) -> Result<u64, String> {
    match text.strip_suffix('s').unwrap_or(text).parse() {
        Ok(seconds) if seconds >= MIN_GRACE_PERIOD => Ok(seconds),
        _ => Err(format!("`{text}` is not a number of seconds from {MIN_GRACE_PERIOD} on, such as 40s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn external_ips_are_read_as_they_are_printed() {
        for text in ["all", "none", "192.0.2.0/24", "192.0.2.0/24,2001:db8::/32"] {
            assert_eq!(text.parse::<ExternalIps>().unwrap().to_string(), text);
        }
        assert!("192.0.2.0/33".parse::<ExternalIps>().unwrap_err().contains("192.0.2.0/33"));
    }

    #[test]
    fn a_port_range_is_read_or_refused_with_an_example() {
        assert_eq!(port_range("30000-32767"), Ok((30000, 32767)));
        for bad in ["", "30000", "5-4", "0-9", "a-b", "1-70000"] {
            assert!(port_range(bad).unwrap_err().contains("30000-32767"), "{bad}");
        }
    }
}
