use std::{
    net::{Ipv6Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use nix::sys::signal::Signal;
use skerry_dns::{Name, metrics::Metrics};
use tokio::net::TcpListener;

use super::ServeArgs;
use crate::{
    families,
    notify::Supervisor,
    paths::Paths,
    privilege,
    supervise::{Role, shutdown_on_signal},
};

/// The process. It ends with `skerry node`, which has its sockets and tells it what there is.
pub fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let paths = Paths(&args.folders);
    let supervisor = Supervisor::from_env();
    let _role = Role::take(&paths.lock("dns"), "dns")?;
    let parent = nix::unistd::getppid();
    privilege::drop_to(args.dns.dns_uid, &paths.dns_data())?;
    // After the change of user, which would take it back.
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).context("ask to end with skerry node")?;
    anyhow::ensure!(nix::unistd::getppid() == parent, "skerry node ended meanwhile");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(args, supervisor))
}

async fn serve(args: ServeArgs, supervisor: Supervisor) -> anyhow::Result<ExitCode> {
    let shutdown = shutdown_on_signal()?;
    let paths = Paths(&args.folders);
    let domain = domain(&args.dns.cluster_domain)?;
    let metrics = Arc::new(Metrics::new(&domain.to_ascii()));
    if args.dns.dns_metrics_port != 0 {
        tokio::spawn(serve_metrics(args.dns.dns_metrics_port, metrics.clone()));
    }
    let ranges = args.cluster.pod_cidrs.iter().chain(&args.cluster.service_cidrs).copied();
    let config = skerry_dns::Config {
        domain,
        ranges: ranges.collect(),
        servers: super::servers(&args.cluster.service_cidrs),
        feed: paths.dns_feed(),
        state: paths.dns_data().join("state"),
        admin: paths.dns_admin(),
        resolv_conf: args.dns.resolv_conf.clone(),
    };
    tokio::select! {
        done = skerry_dns::run(config, metrics, move || supervisor.ready()) => done.context("answer for names")?,
        () = shutdown.cancelled() => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Somebody else's having the port keeps no name from being answered.
async fn serve_metrics(port: u16, metrics: Arc<Metrics>) {
    let address = families::listen_address(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%address, %error, "no metrics of names: give --dns-metrics-port a free port");
            return;
        }
    };
    let respond = move |path: &str| {
        let (code, text) = match path {
            "/metrics" => (200, metrics.text()),
            "/health" | "/healthz" | "/ready" | "/readyz" => (200, "OK".to_owned()),
            _ => (404, "there are /metrics, /health and /ready".to_owned()),
        };
        let kind = if path == "/metrics" { METRICS_TYPE } else { "text/plain" };
        let mut response = http::Response::new(text.into_bytes().into());
        *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::NOT_FOUND);
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
        response
    };
    proxy_agent::answer_http(listener, |_| true, respond).await;
}

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// With its final dot.
pub fn domain(text: &str) -> anyhow::Result<Name> {
    let mut name = Name::from_ascii(text)
        .with_context(|| format!("--cluster-domain {text}: write a name such as cluster.local"))?;
    anyhow::ensure!(!name.is_root(), "--cluster-domain {text}: write a name such as cluster.local");
    name.set_fqdn(true);
    Ok(name.to_lowercase())
}
