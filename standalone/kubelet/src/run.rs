use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use skerry_client::Connection;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    access::{self, AccessError},
    admission::sysctls::{Allowed, SysctlError},
    agent::{Agent, AgentParts},
    config::{Config, ServerAccess},
    cri::{Cri, CriError, RuntimeSetup},
    join, local_volumes,
    machine::Machine,
    node, pods,
    recorder::Recorder,
    service_env, tunnel,
};

/// How long a runtime that is not there yet is waited for.
const RUNTIME_LIMIT: Duration = Duration::from_secs(60);
const RUNTIME_RETRY: Duration = Duration::from_millis(100);
/// Between two tries to renew the node's certificate.
const RENEW_RETRY: Duration = Duration::from_secs(600);
/// Sleeps are cut to this, so that a clock that was set is noticed.
const RENEW_CHECK: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    #[error("container runtime at {}: no answer for {} s: is containerd running, and is its CRI plugin enabled?", socket.display(), RUNTIME_LIMIT.as_secs())]
    Runtime { socket: PathBuf, source: CriError },
    #[error(transparent)]
    Socket(CriError),
    #[error("create folder {}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("allowed unsafe sysctls")]
    Sysctls(#[from] SysctlError),
}

/// Runs the node agent until `shutdown`; pods run on after it.
///
/// # Errors
/// When the runtime does not answer, folders can't be made or credentials are not usable. An API server that
/// is away is no error: it is waited for.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), KubeletError> {
    for path in [&config.root_dir, &config.pod_log_dir] {
        std::fs::create_dir_all(path)
            .map_err(|source| KubeletError::Folder { path: path.clone(), source })?;
    }
    let machine = Machine::read(&config.root_dir);
    let sysctls = Allowed::new(&machine.kernel, &config.allowed_unsafe_sysctls)?;
    let cri = Cri::new(&config.runtime_socket).map_err(KubeletError::Socket)?;
    let runtime = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        found = await_runtime(&cri, &config) => found?,
    };
    let server = access::reach(&config.server).await?;
    let recorder = Recorder::start(server.client.clone(), config.node_name.clone());
    let (sender, service_env) = watch::channel(None);
    let agent = Arc::new(Agent::new(AgentParts {
        cri,
        client: server.client.clone(),
        recorder,
        machine,
        runtime,
        sysctls,
        service_env,
        config,
    }));
    let side = async {
        tokio::join!(
            service_env::follow(server.client.clone(), sender),
            local_volumes::run(agent.clone()),
            keep_certificate(&agent),
            keep_logs(&agent),
            keep_tunnel(&agent, &server, &shutdown)
        )
    };
    let main = async {
        tokio::join!(
            node::run(agent.clone(), shutdown.clone()),
            pods::dispatch::run(agent.clone(), shutdown.clone())
        )
    };
    tokio::select! {
        _ = main => {}
        _ = side => {}
    }
    Ok(())
}

/// Waits for the runtime's first answer.
async fn await_runtime(cri: &Cri, config: &Config) -> Result<RuntimeSetup, KubeletError> {
    let deadline = tokio::time::Instant::now() + RUNTIME_LIMIT;
    loop {
        match cri.setup().await {
            Ok(setup) => return Ok(setup),
            Err(source) if tokio::time::Instant::now() > deadline => {
                return Err(KubeletError::Runtime { socket: config.runtime_socket.clone(), source });
            }
            Err(_) => tokio::time::sleep(RUNTIME_RETRY).await,
        }
    }
}

async fn keep_tunnel(agent: &Arc<Agent>, server: &Connection, shutdown: &CancellationToken) {
    if agent.config.tunnel {
        tunnel::run(agent.clone(), server.clone(), shutdown.clone()).await;
    }
}

/// Turns logs over when they are large.
async fn keep_logs(agent: &Agent) {
    let Some(limits) = agent.config.log_limits else { return };
    if let Err(error) = agent.log_keeper.run(limits, &agent.cri).await {
        tracing::error!(%error, "no inotify instance: logs are not turned over");
    }
}

/// Renews the node's certificate after two thirds of its life, for as long as the agent runs.
async fn keep_certificate(agent: &Agent) {
    // The owner of a kubeconfig sees to its certificate.
    let ServerAccess::Joined { server, dir } = &agent.config.server else {
        return std::future::pending().await;
    };
    loop {
        let at = join::read(dir).ok().and_then(|have| join::renew_at(&have.certificate));
        let left = at.map(|at| at.duration_since(Timestamp::now()));
        let left = left.and_then(|left| Duration::try_from(left).ok()).unwrap_or_default();
        if !left.is_zero() {
            tokio::time::sleep(left.min(RENEW_CHECK)).await;
            continue;
        }
        match join::renew(server, &agent.config.node_name, dir).await {
            Ok(_) => tracing::info!("the node's certificate was renewed"),
            Err(error) => {
                tracing::warn!(
                    error = skerry_vocabulary::chain(&error),
                    "certificate not renewed, trying again later"
                );
                tokio::time::sleep(RENEW_RETRY).await;
            }
        }
    }
}
