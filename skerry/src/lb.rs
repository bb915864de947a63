//! `skerry lb`: the balancer that stands alone in front of nodes.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use skerry_balancer::{Options, Rules, Source, XdpChoice};

/// A file names virtual addresses and backends:
///
/// vips: [{address, port, protocol: TCP|UDP, mode: snat|dsr, balancing: maglev|random, backends: [{address,
/// port, weight}], healthCheck: {type: tcp|http|node, path, port, interval, timeout, rise, fall},
/// whenAllDown: all|none}]
#[derive(Clone, Debug, Args)]
pub struct LbArgs {
    /// YAML or JSON; read again on SIGHUP
    #[arg(long, required_unless_present_any = ["kubeconfig", "in_cluster", "remove"])]
    pub config: Option<PathBuf>,
    /// Balance a cluster's Services of type LoadBalancer, too: the file leads to its API server
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// The same from inside of a pod, by its service account
    #[arg(long, conflicts_with = "kubeconfig")]
    pub in_cluster: bool,
    /// Besides Services without loadBalancerClass, balance those of this one
    #[arg(long)]
    pub load_balancer_class: Option<String>,
    /// How a cluster's nodes are asked for their health; Services of policy Local are asked at their
    /// healthCheckNodePort
    #[arg(long, default_value = "kube-proxy", value_enum)]
    pub health_check: HealthCheck,
    /// Who of a cluster's nodes gets new connections when all are down by the checks (a file says
    /// `whenAllDown`)
    #[arg(long, default_value = "all", value_enum)]
    pub when_all_down: WhenAllDown,
    /// Device that clients' packets come in by, repeated; that of the default route if absent
    #[arg(long = "device")]
    pub devices: Vec<String>,
    /// Where on the devices the program runs
    #[arg(long, default_value = "auto", value_enum)]
    pub xdp_mode: XdpMode,
    /// Below it the program and its tables are pinned (bpffs; mounted if it is not)
    #[arg(long, default_value = "/sys/fs/bpf/skerry-lb")]
    pub pin_root: PathBuf,
    /// Answer ARP and neighbour discovery for the virtual addresses on the devices
    #[arg(long)]
    pub announce: bool,
    /// Prometheus metrics and /healthz
    #[arg(long)]
    pub metrics_bind: Option<SocketAddr>,
    /// Entries of the connection table, two a connection
    #[arg(long, default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1_024..))]
    pub flows: u32,
    /// Take the program off its devices, remove its tables, and end
    #[arg(long)]
    pub remove: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum HealthCheck {
    /// Not at all: whatever Node is Ready gets traffic
    None,
    /// At http://NODE:10256/healthz, where kube-proxy and Skerry answer
    KubeProxy,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum WhenAllDown {
    /// All of them: the checks are at fault more often than all nodes
    All,
    None,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum XdpMode {
    /// In the driver
    Native,
    /// Behind the driver: works everywhere, slower
    Generic,
    /// In the driver where it can
    Auto,
}

pub fn run(args: LbArgs) -> anyhow::Result<ExitCode> {
    if args.remove {
        skerry_balancer::remove(&args.pin_root)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rules = Rules {
        class: args.load_balancer_class,
        asks_kube_proxy: args.health_check == HealthCheck::KubeProxy,
        when_all_down: match args.when_all_down {
            WhenAllDown::All => skerry_balancer::WhenAllDown::All,
            WhenAllDown::None => skerry_balancer::WhenAllDown::None,
        },
    };
    let source = Source { kubeconfig: args.kubeconfig, rules };
    skerry_balancer::run(&Options {
        config: args.config,
        cluster: (args.in_cluster || source.kubeconfig.is_some()).then_some(source),
        devices: args.devices,
        mode: match args.xdp_mode {
            XdpMode::Native => XdpChoice::Native,
            XdpMode::Generic => XdpChoice::Generic,
            XdpMode::Auto => XdpChoice::Auto,
        },
        pin_root: args.pin_root,
        metrics_bind: args.metrics_bind,
        announce: args.announce,
        flows: args.flows,
    })?;
    Ok(ExitCode::SUCCESS)
}
