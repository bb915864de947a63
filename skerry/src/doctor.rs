//! `skerry doctor`: looks at everything that is wrong more often than not, at once, and says what to do next.
//!
//! Each check is a function of [`edges::Edges`], so that a test can break one thing at a time; each has a time
//! of its own, and one that hangs holds up no other.

mod cluster;
mod edges;
mod machine;
mod report;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;

use crate::{
    args::FolderArgs,
    cli::{ApiOptions, Format},
};
use edges::{Edges, Real};
use report::{Checked, Outcome, Report};

#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub folders: FolderArgs,
    #[command(flatten)]
    pub api: ApiOptions,
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
    /// Where containerd listens
    #[arg(long, default_value = "/run/containerd/containerd.sock")]
    pub containerd_socket: PathBuf,
    /// Where programs and maps are pinned
    #[arg(long, default_value = proxy_abi::PIN_ROOT)]
    pub pin_root: PathBuf,
    /// The domain of the cluster's names
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
}

/// Exit code 0: all is well; 1: there are findings.
pub fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(async {
        let edges = Real::new(&args).await;
        examine(&edges, &args, Duration::from_secs(1)).await
    });
    // A disk that does not answer keeps its thread; nobody waits for it.
    runtime.shutdown_background();
    report.print(args.output);
    Ok(if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All checks side by side, in the order in which a person should read them. Their limits are so many times
/// `unit`.
async fn examine(edges: &impl Edges, args: &DoctorArgs, unit: Duration) -> Report {
    let limit = |units: u32| unit * units;
    let outcomes = futures::join!(
        timed("programs", limit(2), machine::programs(edges)),
        timed("api server", limit(6), cluster::api_server(edges)),
        timed("clock", limit(6), cluster::clock(edges)),
        timed("nodes", limit(10), cluster::nodes(edges)),
        timed("versions", limit(6), cluster::versions(edges)),
        timed("names", limit(8), cluster::names(edges, &args.cluster_domain)),
        timed("certificates", limit(3), machine::certificates(edges, args)),
        timed("disk", limit(3), machine::disk(edges, args)),
        timed("kernel", limit(3), machine::kernel(edges)),
        timed("containerd", limit(3), machine::containerd(edges)),
        timed("firewall", limit(6), machine::firewall(edges)),
    );
    let (a, b, c, d, e, f, g, h, i, j, k) = outcomes;
    Report { outcomes: vec![a, b, c, d, e, f, g, h, i, j, k] }
}

/// One check; what takes longer than `limit` is a finding itself.
async fn timed(check: &'static str, limit: Duration, work: impl Future<Output = Checked>) -> Outcome {
    let begun = Instant::now();
    let checked = tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Checked::found(
            format!("no answer within {limit:?}"),
            "look what keeps it waiting: a disk, a network, a process that hangs",
        )
    });
    Outcome { check, checked, took: begun.elapsed() }
}
