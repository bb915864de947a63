//! A node agent by itself, as the tests start it inside a lab's node:
//! `node SERVER TOKEN NAME ADDRESS CGROUP_PARENT`. Logs are turned over early, so that tests see it.

use anyhow::Context as _;
use skerry_kubelet::{Config, LogLimits, ServerAccess};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter("info,skerry_kubelet=debug")
        .with_writer(std::io::stderr)
        .init();
    let mut args = std::env::args().skip(1);
    let mut next = |what: &'static str| args.next().context(what);
    let (server, token, name) =
        (next("the server's URL")?, next("the join token")?, next("the node's name")?);
    let (address, cgroup_parent) = (next("the node's address")?, next("the cgroup's parent")?);
    let dir = std::path::PathBuf::from("/var/lib/skerry/node/pki");
    let access = ServerAccess::Joined { server: server.clone(), dir: dir.clone() };
    let mut config = Config::new(&name, vec![address.parse().context("the node's address")?], access);
    config.cgroup_parent = cgroup_parent;
    config.log_limits = Some(LogLimits { max_bytes: 200_000, max_files: 3 });
    skerry_kubelet::join(&server, &token, &name, &dir).await?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let mut signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        signal.recv().await;
        stop.cancel();
        std::io::Result::Ok(())
    });
    skerry_kubelet::run(config, shutdown).await?;
    Ok(())
}
