//! Cluster DNS: `skerry dns`, the process without privileges; what `skerry node` does for it; `skerry dns
//! lookup`.

mod feed;
mod lookup;
mod process;

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{
    args::{ClusterArgs, FolderArgs},
    document::Given,
};

pub use feed::start;

#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DnsArgs {
    #[command(subcommand)]
    command: Option<DnsCommand>,
    #[command(flatten)]
    pub serve: Given<ServeArgs>,
}

#[derive(Clone, Debug, Subcommand)]
enum DnsCommand {
    /// Look a name up as a pod does, and say why the answer is so
    Lookup(lookup::LookupArgs),
}

/// `skerry node` starts it so; the sockets come from there.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServeArgs {
    #[command(flatten)]
    pub folders: FolderArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub dns: DnsOptions,
}

/// What a node is told of names.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DnsOptions {
    /// The domain of the cluster's names
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Where this node answers for names, on all of its addresses (the cluster's clients alone); 0: it does
    /// not
    #[arg(long, default_value_t = 10_053)]
    pub dns_port: u16,
    /// Where the DNS process serves Prometheus metrics; 0: nowhere
    #[arg(long, default_value_t = 9153)]
    pub dns_metrics_port: u16,
    /// User and group id that the DNS process changes to
    #[arg(long, default_value_t = 64_053)]
    pub dns_uid: u32,
    /// The node's own resolvers stand there; names outside of the cluster are asked of them
    #[arg(long, default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
}

impl DnsOptions {
    /// # Errors
    /// When the domain is no name.
    pub fn check(&self) -> anyhow::Result<()> {
        process::domain(&self.cluster_domain).map(drop)
    }
}

/// Addresses of the DNS Service, one for each range that has room.
pub fn servers(service_cidrs: &[IpNetwork]) -> Vec<IpAddr> {
    service_cidrs.iter().filter_map(|range| skerry_apiserver::dns_service_ip(*range)).collect()
}

pub fn run(args: DnsArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Some(DnsCommand::Lookup(args)) => lookup::run(args),
        None => process::run(args.serve.read()?),
    }
}
