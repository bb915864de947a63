//! `skerry server`: API server, controllers and scheduler, without privileges.

use std::{net::IpAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use skerry_apiserver::{Health, Readiness};
use skerry_informer::{Readers, Report};
use skerry_store::{LogStore, Options};
use tokio_util::sync::CancellationToken;

use crate::{
    args::ServerArgs,
    families,
    notify::Supervisor,
    paths::{Paths, make_dir},
    preflight, privilege,
    supervise::{Role, shutdown_on_signal},
};

/// What changes all the time and may be a minute older after a crash: node leases, and events.
const RELAXED: [&str; 2] = ["/registry/leases.coordination.k8s.io/kube-node-lease/", "/registry/events/"];

pub fn run(mut args: ServerArgs) -> anyhow::Result<ExitCode> {
    args.bind = families::listen_address(args.bind);
    let paths = Paths(&args.folders);
    make_dir(&args.folders.data_dir, 0o711)?;
    make_dir(&args.folders.run_dir, 0o755)?;
    make_dir(&paths.server_dir(), 0o700)?;
    preflight::disk(&args.folders.data_dir)?;
    let _role = Role::take(&paths.lock("server"), "server")?;
    families::check(&args.cluster)?;
    let advertise = match args.advertise {
        Some(address) => address,
        None => families::primary(&families::node_addresses(&[], &args.cluster)?, &args.cluster)?,
    };
    preflight::port_is_free(args.bind, "the API server", "--bind")?;
    ensure!(
        args.bind.port() >= 1024 || args.bind.port() == 0,
        "the API server runs without root and cannot have port {}: give --bind one above 1023",
        args.bind.port()
    );
    if let Err(error) = skerry_kernel::raise_open_files() {
        tracing::warn!(%error, "raise the limit of open files");
    }
    let supervisor = Supervisor::from_env();
    privilege::drop_to(args.server_uid, &paths.server_dir())?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(serve(args, advertise, supervisor))
}

async fn serve(args: ServerArgs, advertise: IpAddr, supervisor: Supervisor) -> anyhow::Result<ExitCode> {
    let paths = Paths(&args.folders);
    let shutdown = shutdown_on_signal()?;
    let options = Options {
        relaxed_prefixes: RELAXED.iter().map(|prefix| (*prefix).to_owned()).collect(),
        ..Options::default()
    };
    let store = Arc::new(LogStore::open(&paths.store(), options).context("open the store")?);
    let controllers = skerry_controllers::Config {
        cluster_cidrs: args.cluster.pod_cidrs.clone(),
        node_grace: Duration::from_secs(args.node_monitor_grace_period),
        ..skerry_controllers::Config::new(paths.kubeconfig("controllers"))
    };
    let scheduler = skerry_scheduler::Config::new(paths.kubeconfig("scheduler"));
    let config = skerry_apiserver::Config {
        extra_sans: args.tls_sans.clone(),
        service_cidrs: args.cluster.service_cidrs.clone(),
        nodeport_range: args.cluster.nodeport_range.0..=args.cluster.nodeport_range.1,
        readiness: readiness(&controllers.readers, &scheduler.readers),
        ..skerry_apiserver::Config::new(args.folders.data_dir.clone(), args.bind, advertise)
    };
    let server = skerry_apiserver::Server::bind(config, store).await.context("start the API server")?;
    tracing::info!(address = %server.address(), "the API is served");
    // The API server ends last: the others still write through it.
    let (clients, api) = (shutdown.child_token(), CancellationToken::new());
    let is_serving = server.serving();
    tokio::spawn(async move {
        is_serving.cancelled().await;
        supervisor.ready();
    });
    let serving = tokio::spawn(server.run(api.clone()));
    let controllers = tokio::spawn(skerry_controllers::run(controllers, clients.clone()));
    let scheduler = tokio::spawn(skerry_scheduler::run(scheduler, clients.clone()));
    let mut parts = tokio::task::JoinSet::new();
    parts.spawn(
        async move { ("controllers", controllers.await.map(|done| done.map_err(anyhow::Error::from))) },
    );
    parts.spawn(async move { ("scheduler", scheduler.await.map(|done| done.map_err(anyhow::Error::from))) });
    let mut failed = None;
    while let Some(done) = parts.join_next().await {
        let (name, done) = done?;
        let done = done.map_err(anyhow::Error::from).and_then(|inner| inner);
        if let Err(error) = done {
            failed.get_or_insert(error.context(format!("run the {name}")));
        } else if !shutdown.is_cancelled() {
            failed.get_or_insert(anyhow::anyhow!("the {name} ended by themselves"));
        }
        // One without the others is no server: end, and let the supervisor start afresh.
        clients.cancel();
    }
    api.cancel();
    serving.await?.context("serve the API")?;
    match failed {
        Some(error) => Err(error),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Objects that are named at most; of the others the number is said.
const MAX_NAMED: usize = 10;

/// `/readyz` tells of the controllers and the scheduler, too: they decide nothing before their caches are
/// filled, and leave as it is what they can't read.
fn readiness(controllers: &Readers, scheduler: &Readers) -> Readiness {
    let (unread, unscheduled) = (controllers.clone(), scheduler.clone());
    let (controllers, scheduler) = (controllers.clone(), scheduler.clone());
    Readiness::default()
        .with_unreadable("controllers", move || unread.unreadable_total())
        .with_unreadable("scheduler", move || unscheduled.unreadable_total())
        .with("controllers", move || health(&controllers.report()))
        .with("scheduler", move || health(&scheduler.report()))
}

fn health(report: &Report) -> Health {
    if !report.filling.is_empty() {
        return Health::Failed(format!("not read yet: {}", report.filling.join(", ")));
    }
    let unreadable = &report.unreadable;
    if unreadable.is_empty() {
        return Health::Ok;
    }
    let names = unreadable[..unreadable.len().min(MAX_NAMED)].join(", ");
    let more = match unreadable.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Health::Noted(format!("{} objects can't be read and stay as they are: {names}{more}", unreadable.len()))
}
