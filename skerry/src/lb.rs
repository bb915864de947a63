//! `skerry lb`: the balancer that stands alone in front of nodes.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use skerry_balancer::{Mode, Options};

/// A file names virtual addresses and backends:
///
/// vips: [{address, port, protocol: TCP|UDP, mode: snat|dsr, balancing: maglev|random, backends: [{address, port, weight}],
/// healthCheck: {type: tcp|http, path, port, interval, timeout, rise, fall}}]
#[derive(Clone, Debug, Args)]
pub struct LbArgs {
    /// YAML or JSON; read again on SIGHUP
    #[arg(long, required_unless_present = "remove")]
    pub config: Option<PathBuf>,
    /// Device that clients' packets come in by, repeated; that of the default route if absent
    #[arg(long = "device")]
    pub devices: Vec<String>,
    /// Where on the devices the program runs
    #[arg(long, default_value = "auto", value_enum)]
    pub xdp_mode: XdpMode,
    /// Below it the program and its tables are pinned (bpffs; mounted if it is not)
    #[arg(long, default_value = "/sys/fs/bpf/skerry-lb")]
    pub pin_root: PathBuf,
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
    let Some(config) = args.config else { anyhow::bail!("--config is missing") };
    skerry_balancer::run(&Options {
        config,
        devices: args.devices,
        mode: match args.xdp_mode {
            XdpMode::Native => Mode::Native,
            XdpMode::Generic => Mode::Generic,
            XdpMode::Auto => Mode::Auto,
        },
        pin_root: args.pin_root,
        metrics_bind: args.metrics_bind,
        flows: args.flows,
    })?;
    Ok(ExitCode::SUCCESS)
}
