//! `skerry node`: the node agent and the service proxy; `skerry proxy`: the proxy alone.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use skerry_kubelet::Taint;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    args::{NodeArgs, ProxyArgs, TunnelOptions},
    dns, families, kube_proxy,
    notify::Supervisor,
    paths::{Paths, make_dir, write_private},
    preflight,
    supervise::{Role, shutdown_on_signal},
};

pub fn run(args: NodeArgs) -> anyhow::Result<ExitCode> {
    preflight::root()?;
    preflight::kernel()?;
    preflight::containerd(&args.node.containerd_socket)?;
    families::check(&args.cluster)?;
    args.node.tunnel.check()?;
    args.node.dns.check()?;
    let paths = Paths(&args.folders);
    make_dir(&args.folders.data_dir, 0o711)?;
    make_dir(&args.folders.run_dir, 0o755)?;
    make_dir(&paths.node_dir(), 0o700)?;
    preflight::disk(&args.folders.data_dir)?;
    let _role = Role::take(&paths.lock("node"), "node")?;
    let supervisor = Supervisor::from_env();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(args, supervisor))
}

/// The node is ready when its proxy is.
async fn tell_when_ready(mut progress: watch::Receiver<proxy_agent::Progress>, supervisor: Supervisor) {
    if progress.wait_for(|progress| progress.is_ready).await.is_ok() {
        supervisor.ready();
    }
}

async fn serve(args: NodeArgs, supervisor: Supervisor) -> anyhow::Result<ExitCode> {
    proxy_agent::check_overlay(args.node.tunnel.vxlan_port).await?;
    let shutdown = shutdown_on_signal()?;
    let paths = Paths(&args.folders);
    let node_name = name(args.node.node_name.as_deref())?;
    let node_ips = families::node_addresses(&args.node.node_ips, &args.cluster)?;
    let credentials = paths.node_dir().join("pki");
    // Before the server is asked for anything: it may be away, and names are answered from what was known.
    let names = match args.node.dns.dns_port {
        0 => None,
        _ => Some(dns::start(&args.node.dns, &args.folders, &args.cluster, shutdown.clone())?),
    };
    let token = match (&args.token, &args.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) => std::fs::read_to_string(path)
            .with_context(|| format!("read the join token {}", path.display()))?,
        (None, None) => {
            bail!("a join token is needed: give --token or --token-file (the server keeps it in join-token)")
        }
    };
    tokio::select! {
        joined = skerry_kubelet::join(&args.server, token.trim(), &node_name, &credentials) => {
            joined.with_context(|| format!("join the cluster at {}", args.server))?;
        }
        () = shutdown.cancelled() => return Ok(ExitCode::SUCCESS),
    }
    let kubeconfig = paths.node_dir().join("kubeconfig.yaml");
    write_private(&kubeconfig, node_kubeconfig(&args.server, &node_name, &credentials).as_bytes())?;

    // What was found is found again; only what was given is fixed.
    let given = args.node.node_ips.clone();
    let (addresses, found) = watch::channel(node_ips.clone());
    if given.is_empty() {
        let cluster = args.cluster.clone();
        tokio::spawn(async move {
            if let Err(error) = families::follow(cluster, addresses).await {
                tracing::error!(error = format!("{error:#}"), "this machine's addresses are not followed");
            }
        });
    }
    let (faults, network_fault) = watch::channel(None);
    let progress = watch::Sender::default();
    tokio::spawn(tell_faults(progress.subscribe(), faults));
    let access = skerry_kubelet::ServerAccess::Joined { server: args.server.clone(), dir: credentials };
    let kubelet = skerry_kubelet::Config {
        runtime_socket: args.node.containerd_socket.clone(),
        root_dir: paths.node_dir().join("kubelet"),
        local_volumes_dir: paths.node_dir().join("volumes"),
        pod_log_dir: args.node.pod_log_dir.clone(),
        log_limits: args.node.container_logs.limits()?,
        cgroup_parent: args.node.cgroup_parent.clone(),
        labels: labels(&args.node.labels)?,
        taints: taints(&args.node.taints)?,
        node_ips: found,
        network_fault,
        allowed_unsafe_sysctls: args.node.allowed_unsafe_sysctls.clone(),
        cluster_dns: dns::servers(&args.cluster.service_cidrs),
        cluster_domain: args.node.dns.cluster_domain.clone(),
        resolv_conf: args.node.dns.resolv_conf.clone(),
        ..skerry_kubelet::Config::new(node_name.clone(), node_ips, access)
    };
    let mut proxy = proxy_config(
        &args.node.tunnel,
        Some(kubeconfig.clone()),
        node_name.clone(),
        given,
        &args.folders.run_dir,
        &args.cluster,
        args.node.cgroup_root.clone(),
        args.node.cni_conf_dir.clone(),
        Some(cni_install(&args.node.cni_bin_dir)?),
    );
    proxy.cluster_cidrs = args.cluster.pod_cidrs.clone();
    let parts = shutdown.child_token();
    if let Some(feed) = names {
        proxy.names = Some(feed.source.clone());
        tokio::spawn(feed.follow(kubeconfig, node_name, args.node.dns.dns_port, parts.clone()));
    }
    let kubelet = skerry_kubelet::Config { addresses: Some(Arc::new(Addresses::of(&proxy))), ..kubelet };
    let kubelet = run_part("node agent", skerry_kubelet::run(kubelet, parts.clone()), parts.clone());
    tokio::spawn(tell_when_ready(progress.subscribe(), supervisor));
    let proxy = proxy_agent::run_with_progress(proxy, parts.clone(), progress);
    let proxy = run_part("service proxy", proxy, parts.clone());
    let (kubelet, proxy) = tokio::join!(kubelet, proxy);
    proxy?;
    kubelet?;
    Ok(ExitCode::SUCCESS)
}

/// When an address came to be, as the two who have to do with it know.
#[derive(Debug)]
struct Addresses {
    programmed: Arc<proxy_agent::Programmed>,
    cni_state_dir: PathBuf,
}

impl Addresses {
    fn of(proxy: &proxy_agent::Config) -> Addresses {
        Addresses { programmed: proxy.programmed.clone(), cni_state_dir: proxy.cni_state_dir.clone() }
    }
}

impl skerry_kubelet::Addresses for Addresses {
    fn told(&self, address: IpAddr) -> serde_json::Value {
        self.programmed.told(address, &self.cni_state_dir)
    }
}

pub fn run_proxy(args: ProxyArgs) -> anyhow::Result<ExitCode> {
    args.tunnel.check()?;
    preflight::root()?;
    preflight::kernel()?;
    make_dir(&args.run_dir, 0o755)?;
    let _role = Role::take(&args.run_dir.join("node.pid"), "proxy")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        proxy_agent::check_overlay(args.tunnel.vxlan_port).await?;
        let shutdown = shutdown_on_signal()?;
        let install = args.cni_bin_dir.as_deref().map(cni_install);
        let mut config = proxy_config(
            &args.tunnel,
            args.kubeconfig.clone(),
            name(args.node_name.as_deref())?,
            args.node_ips.clone(),
            &args.run_dir,
            &args.cluster,
            args.cgroup_root.clone(),
            args.cni_conf_dir.clone(),
            install.transpose()?,
        );
        config.cluster_cidrs = args.cluster_cidrs.clone();
        let progress = watch::Sender::default();
        if args.clean_kube_proxy {
            tokio::spawn(kube_proxy::clean_when_ready(progress.subscribe(), config.node_ports.clone()));
        }
        proxy_agent::run_with_progress(config, shutdown, progress).await.context("run the service proxy")?;
        Ok(ExitCode::SUCCESS)
    })
}

/// What the service proxy says of the node's network, for the Node's condition.
async fn tell_faults(
    mut progress: watch::Receiver<proxy_agent::Progress>,
    to: watch::Sender<Option<String>>,
) {
    while progress.changed().await.is_ok() {
        let is_broken = progress.borrow_and_update().is_broken;
        let fault =
            is_broken.then(|| "the service proxy can't set this node up: its log says why".to_owned());
        to.send_if_modified(|told| std::mem::replace(told, fault.clone()) != fault);
    }
}

/// Runs one of two parts; when it ends, for whatever reason, the other is told to.
async fn run_part<E: std::error::Error + Send + Sync + 'static>(
    name: &str,
    part: impl Future<Output = Result<(), E>> + Send + 'static,
    parts: CancellationToken,
) -> anyhow::Result<()> {
    let done = tokio::spawn(part).await;
    let asked = parts.is_cancelled();
    parts.cancel();
    done?.with_context(|| format!("run the {name}"))?;
    ensure!(asked, "the {name} ended by itself");
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "gathers the flags of two subcommands into one value")]
pub fn proxy_config(
    tunnel: &TunnelOptions,
    kubeconfig: Option<PathBuf>,
    node_name: String,
    node_ips: Vec<IpAddr>,
    run_dir: &Path,
    cluster: &crate::args::ClusterArgs,
    cgroup_root: Option<PathBuf>,
    cni_conf_dir: PathBuf,
    cni_bin: Option<proxy_agent::CniBinary>,
) -> proxy_agent::Config {
    proxy_agent::Config {
        kubeconfig,
        node_ips,
        run_dir: run_dir.to_owned(),
        pin_root: tunnel.pin_root.clone(),
        cgroup_root,
        cni_conf_dir,
        cni_bin,
        uplink: tunnel.uplink.clone(),
        other_uplinks: tunnel.other_uplinks.0.clone(),
        node_port_addresses: tunnel.nodeport_addresses.clone(),
        external_ips: tunnel.external_ips.0.clone(),
        vxlan_port: tunnel.vxlan_port,
        vni: tunnel.vxlan_vni,
        metrics_bind: tunnel.metrics_bind,
        tools_bind: Some(tunnel.tools_bind).filter(|address| address.port() != 0),
        healthz_bind: Some(tunnel.healthz_bind).filter(|address| address.port() != 0),
        announce: tunnel.announce,
        uplink_xdp: tunnel.uplink_xdp.mode(),
        unwrap_from: tunnel.unwrap_from.clone(),
        socket_lb: tunnel.socket_lb.into(),
        service_defaults: tunnel.service_defaults(),
        service_cidrs: cluster.service_cidrs.clone(),
        node_ports: cluster.nodeport_range.0..=cluster.nodeport_range.1,
        ..proxy_agent::Config::new(&node_name)
    }
}

fn cni_install(dir: &Path) -> anyhow::Result<proxy_agent::CniBinary> {
    Ok(proxy_agent::CniBinary { source: beside_us("skerry-cni")?, dir: dir.to_owned() })
}

/// The files that one build makes lie in one folder.
fn beside_us(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find our own file")?;
    let path = own.with_file_name(name);
    ensure!(path.is_file(), "{} is missing: install `{name}` beside `skerry`", path.display());
    Ok(path)
}

pub fn name(given: Option<&str>) -> anyhow::Result<String> {
    if let Some(name) = given {
        return Ok(name.to_owned());
    }
    let host = nix::unistd::gethostname().context("ask for the host's name: give --node-name")?;
    Ok(host.to_string_lossy().to_lowercase())
}

fn labels(given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let label = |text: &String| {
        let (key, value) =
            text.split_once('=').with_context(|| format!("--label {text}: write KEY=VALUE"))?;
        ensure!(
            skerry_apiserver::node_may_set_label(key),
            "--label {text}: a node may not give itself this label, set it with `kubectl label node`"
        );
        Ok((key.to_owned(), value.to_owned()))
    };
    given.iter().map(label).collect()
}

fn taints(given: &[String]) -> anyhow::Result<Vec<Taint>> {
    let taint = |text: &String| {
        let (key, effect) =
            text.rsplit_once(':').with_context(|| format!("--taint {text}: write KEY[=VALUE]:EFFECT"))?;
        ensure!(
            ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect),
            "--taint {text}: the effect is NoSchedule, PreferNoSchedule or NoExecute"
        );
        let (key, value) = match key.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (key, None),
        };
        Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned() })
    };
    given.iter().map(taint).collect()
}

/// A kubeconfig that names the files of the joined node, so that a renewed certificate is picked up.
fn node_kubeconfig(server: &str, node: &str, pki: &Path) -> String {
    let file = |name: &str| pki.join(name).display().to_string();
    serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "node",
        "clusters": [{"name": "skerry", "cluster": {"server": server, "certificate-authority": file("ca.crt")}}],
        "users": [{"name": node, "user": {"client-certificate": file("node.crt"), "client-key": file("node.key")}}],
        "contexts": [{"name": "node", "context": {"cluster": "skerry", "user": node}}],
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_a_node_may_not_give_itself_are_named_before_it_starts() {
        assert!(labels(&["disk=ssd".into(), "topology.kubernetes.io/zone=a".into()]).is_ok());
        let error = labels(&["node-role.kubernetes.io/worker=".into()]).unwrap_err().to_string();
        assert!(error.contains("kubectl label node"), "{error}");
    }

    #[test]
    fn taints_are_read_or_refused_with_the_form() {
        let read = taints(&["a/b=c:NoSchedule".into(), "d:NoExecute".into()]).unwrap();
        assert_eq!((read[0].key.as_str(), read[0].value.as_deref()), ("a/b", Some("c")));
        assert_eq!((read[1].key.as_str(), read[1].value.as_deref()), ("d", None));
        assert!(taints(&["a".into()]).unwrap_err().to_string().contains("KEY[=VALUE]:EFFECT"));
        assert!(taints(&["a:Never".into()]).unwrap_err().to_string().contains("PreferNoSchedule"));
    }
}
