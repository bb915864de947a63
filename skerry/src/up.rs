//! `skerry up`: server and node of this machine, watched over.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::ValueEnum;

use crate::{
    args::UpArgs,
    families, node,
    notify::Ear,
    paths::{Paths, make_dir},
    preflight, status,
    supervise::{Role, keep_running, shutdown_on_signal},
};

const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// After this long without a Ready node a person is told that something is wrong; we go on trying.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(mut args: UpArgs) -> anyhow::Result<ExitCode> {
    args.server.bind = families::listen_address(args.server.bind);
    let folders = &args.server.folders;
    let paths = Paths(folders);
    preflight::root()?;
    preflight::kernel()?;
    make_dir(&folders.data_dir, 0o711)?;
    make_dir(&folders.run_dir, 0o755)?;
    preflight::disk(&folders.data_dir)?;
    let _role = Role::take(&paths.lock("up"), "up")?;
    families::check(&args.server.cluster)?;
    args.node.tunnel.check()?;
    args.node.dns.check()?;
    preflight::port_is_free(args.server.bind, "the API server", "--bind")?;
    preflight::containerd(&args.node.containerd_socket)?;
    for warning in preflight::warnings() {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(supervise(args))
}

async fn supervise(args: UpArgs) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    proxy_agent::check_overlay(args.node.tunnel.vxlan_port).await?;
    let shutdown = shutdown_on_signal()?;
    let program = std::env::current_exe().context("find our own file")?;
    let node_ips = families::node_addresses(&args.node.node_ips, &args.server.cluster)?;
    let advertise = match args.server.advertise {
        Some(address) => address,
        None => families::primary(&node_ips, &args.server.cluster)?,
    };
    let api = own_server(args.server.bind, advertise);
    // The server's flags are ours; the node gets those of its own, and the way to the server.
    let server_args = server_args(&args, advertise, &node_ips);
    let node_args = node_args(&args, api);
    let paths = Paths(&args.server.folders);
    let ear = |role: &str| Ear::open(&paths.notify(role));
    let (server_ear, node_ear) = (ear("server")?, ear("node")?);
    let server =
        tokio::spawn(keep_running("server", program.clone(), server_args, server_ear, shutdown.clone()));
    let token = paths.join_token();
    let stopped = tokio::select! {
        made = appears(&token) => { made?; false }
        () = shutdown.cancelled() => true,
    };
    if stopped {
        server.await?;
        return Ok(ExitCode::SUCCESS);
    }
    let node = tokio::spawn(keep_running("node", program, node_args, node_ear, shutdown.clone()));
    tokio::select! {
        done = announce(&args, started) => done?,
        () = shutdown.cancelled() => {}
    }
    shutdown.cancelled().await;
    let (server, node) = tokio::join!(server, node);
    server?;
    node?;
    Ok(ExitCode::SUCCESS)
}

/// Waits until this node is Ready and says how to go on.
async fn announce(args: &UpArgs, started: Instant) -> anyhow::Result<()> {
    let kubeconfig = Paths(&args.server.folders).kubeconfig("admin");
    let name = node::name(args.node.node_name.as_deref())?;
    let ready = status::node_ready(&kubeconfig, &name);
    tokio::pin!(ready);
    let late = tokio::time::timeout(PATIENCE, &mut ready).await;
    match late {
        Ok(ready) => ready?,
        Err(_) => {
            tracing::error!(node = %name, "not Ready after {PATIENCE:?}: the lines above say why; still trying");
            ready.await?;
        }
    }
    // A role is not a node's to give itself: it comes with the administrator's credentials.
    if let Err(error) = status::label_node(&kubeconfig, &name, CONTROL_PLANE).await {
        tracing::warn!("{error:#}");
    }
    println!("node {name} is Ready after {:.1} s", started.elapsed().as_secs_f64());
    println!("export KUBECONFIG={}", kubeconfig.display());
    Ok(())
}

/// How this machine's node reaches its server: not by an address that may change, where it can.
fn own_server(bind: SocketAddr, advertise: IpAddr) -> SocketAddr {
    let ip = if bind.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { advertise };
    SocketAddr::new(ip, bind.port())
}

fn server_args(args: &UpArgs, advertise: IpAddr, node_ips: &[IpAddr]) -> Vec<String> {
    let server = &args.server;
    let mut list = vec!["server".to_owned()];
    list.extend(args.server.folders.flags());
    list.extend(args.server.cluster.flags());
    list.extend(["--bind".to_owned(), server.bind.to_string()]);
    list.extend(["--advertise".to_owned(), advertise.to_string()]);
    list.extend(["--server-uid".to_owned(), server.server_uid.to_string()]);
    // The server is reached by every address of its node.
    let addresses = node_ips.iter().filter(|ip| **ip != advertise).map(IpAddr::to_string);
    for san in server.tls_sans.iter().cloned().chain(addresses) {
        list.extend(["--tls-san".to_owned(), san]);
    }
    list
}

fn node_args(args: &UpArgs, api: SocketAddr) -> Vec<String> {
    let (node, path) = (&args.node, |path: &Path| path.display().to_string());
    let mut list = vec!["node".to_owned()];
    list.extend(args.server.folders.flags());
    list.extend(args.server.cluster.flags());
    let mut flag = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            list.extend([format!("--{name}"), value]);
        }
    };
    flag("server", Some(format!("https://{api}")));
    flag("token-file", Some(path(&Paths(&args.server.folders).join_token())));
    flag("node-name", node.node_name.clone());
    // Not what was found: the node finds it again when it changes.
    let node_ips: Vec<String> = node.node_ips.iter().map(IpAddr::to_string).collect();
    flag("node-ip", (!node_ips.is_empty()).then(|| node_ips.join(",")));
    for label in &node.labels {
        flag("label", Some(label.clone()));
    }
    if args.taint_server {
        flag("taint", Some(format!("{CONTROL_PLANE}:NoSchedule")));
    }
    for taint in &node.taints {
        flag("taint", Some(taint.clone()));
    }
    for sysctl in &node.allowed_unsafe_sysctls {
        flag("allowed-unsafe-sysctls", Some(sysctl.clone()));
    }
    flag("containerd-socket", Some(path(&node.containerd_socket)));
    flag("cgroup-root", node.cgroup_root.as_deref().map(path));
    flag("cgroup-parent", Some(node.cgroup_parent.clone()));
    flag("cni-conf-dir", Some(path(&node.cni_conf_dir)));
    flag("cni-bin-dir", Some(path(&node.cni_bin_dir)));
    flag("pod-log-dir", Some(path(&node.pod_log_dir)));
    flag("uplink", node.tunnel.uplink.clone());
    flag("other-uplinks", Some(node.tunnel.other_uplinks.to_string()));
    for cidr in &node.tunnel.nodeport_addresses {
        flag("nodeport-addresses", Some(cidr.to_string()));
    }
    flag("external-ips", Some(node.tunnel.external_ips.to_string()));
    flag("vxlan-port", Some(node.tunnel.vxlan_port.to_string()));
    flag("vxlan-vni", Some(node.tunnel.vxlan_vni.to_string()));
    flag("pin-root", Some(path(&node.tunnel.pin_root)));
    flag("metrics-bind", node.tunnel.metrics_bind.map(|bind| bind.to_string()));
    flag("tools-bind", Some(node.tunnel.tools_bind.to_string()));
    flag("healthz-bind", Some(node.tunnel.healthz_bind.to_string()));
    flag("announce", Some(node.tunnel.announce.to_string()));
    flag("socket-lb", named(node.tunnel.socket_lb));
    flag("load-balancer-mode", named(node.tunnel.load_balancer_mode));
    flag("balancing", named(node.tunnel.balancing));
    flag("maglev-table-size", Some(node.tunnel.maglev_table_size.to_string()));
    flag("uplink-xdp", named(node.tunnel.uplink_xdp));
    for cidr in &node.tunnel.unwrap_from {
        flag("unwrap-from", Some(cidr.to_string()));
    }
    list.extend(node.dns.flags());
    list
}

/// A choice as it is typed.
fn named(choice: impl ValueEnum) -> Option<String> {
    choice.to_possible_value().map(|value| value.get_name().to_owned())
}

/// Returns once the file is there. A thread of its own waits in the kernel; it ends with the process.
async fn appears(path: &Path) -> anyhow::Result<()> {
    let (told, there) = tokio::sync::oneshot::channel();
    let path = path.to_owned();
    std::thread::spawn(move || drop(told.send(wait_for(&path))));
    there.await?
}

/// Told by inotify of the nearest folder that exists.
fn wait_for(path: &Path) -> anyhow::Result<()> {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    while !path.exists() {
        let folder = path.ancestors().skip(1).find(|folder| folder.is_dir()).context("no folder to watch")?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(folder, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
        // What is to come may have come between the look and the watch.
        let next = path.ancestors().take_while(|above| *above != folder).last().unwrap_or(path);
        if !next.exists() {
            inotify.read_events()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command, NodeOptions, SocketLb, UplinkXdp};
    use clap::Parser;

    #[test]
    fn what_the_children_are_told_is_what_was_typed() {
        let typed = [
            "skerry",
            "up",
            "--data-dir",
            "/d",
            "--run-dir",
            "/r",
            "--node-name",
            "n1",
            "--taint-server",
            "--pin-root",
            "/p",
            "--pod-cidr",
            "10.1.0.0/16",
            "--tls-san",
            "a,b",
            "--taint",
            "x=y:NoExecute",
            "--cgroup-root",
            "/c",
            "--nodeport-addresses",
            "192.168.0.0/16,2001:db8::/32",
            "--external-ips",
            "none",
            "--tools-bind",
            "127.0.0.1:0",
            "--healthz-bind",
            "127.0.0.1:0",
            "--announce",
            "false",
            "--uplink-xdp",
            "generic",
            "--unwrap-from",
            "10.0.0.5/32,2001:db8::5/128",
            "--socket-lb",
            "host",
            "--load-balancer-mode",
            "dsr",
            "--balancing",
            "maglev",
            "--maglev-table-size",
            "4093",
            "--other-uplinks",
            "eth1,eth2",
            "--cluster-domain",
            "edge.example",
            "--dns-port",
            "5353",
            "--resolv-conf",
            "/x",
        ];
        let Command::Up(args) = Cli::parse_from(typed).command else { panic!("up") };
        let api = "10.0.0.1:6443".parse::<SocketAddr>().unwrap();
        let child = |list: Vec<String>| {
            Cli::try_parse_from(["skerry".to_owned()].into_iter().chain(list)).unwrap().command
        };
        let node_ips = [api.ip(), "fd00::1".parse().unwrap()];
        let Command::Server(server) = child(server_args(&args, api.ip(), &node_ips)) else {
            panic!("server")
        };
        assert_eq!(server.tls_sans, ["a", "b", "fd00::1"]);
        assert_eq!(server.cluster.pod_cidrs, args.server.cluster.pod_cidrs);
        let Command::Node(node) = child(node_args(&args, api)) else { panic!("node") };
        assert!(node.node.node_ips.is_empty(), "what was found is not fixed");
        let given =
            UpArgs { node: NodeOptions { node_ips: node_ips.to_vec(), ..args.node.clone() }, ..args.clone() };
        let Command::Node(fixed) = child(node_args(&given, api)) else { panic!("node") };
        assert_eq!(fixed.node.node_ips, node_ips);
        assert_eq!(own_server("[::]:6443".parse().unwrap(), api.ip()), "127.0.0.1:6443".parse().unwrap());
        assert_eq!(own_server("10.0.0.1:7443".parse().unwrap(), api.ip()), "10.0.0.1:7443".parse().unwrap());
        assert_eq!(node.server, "https://10.0.0.1:6443");
        assert_eq!(node.node.taints, ["node-role.kubernetes.io/control-plane:NoSchedule", "x=y:NoExecute"]);
        assert_eq!(node.node.cgroup_root.as_deref(), Some(Path::new("/c")));
        assert_eq!(node.node.tunnel.pin_root, Path::new("/p"));
        assert_eq!(node.node.tunnel.nodeport_addresses, args.node.tunnel.nodeport_addresses);
        assert_eq!(node.node.tunnel.external_ips, args.node.tunnel.external_ips);
        assert_eq!(node.node.tunnel.socket_lb, SocketLb::Host);
        assert_eq!(node.node.tunnel.service_defaults(), args.node.tunnel.service_defaults());
        assert_eq!(node.node.tunnel.service_defaults().maglev_size, 4093);
        assert_eq!(node.node.tunnel.other_uplinks, args.node.tunnel.other_uplinks);
        assert_eq!(node.node.tunnel.unwrap_from, args.node.tunnel.unwrap_from);
        assert_eq!((node.node.dns.cluster_domain.as_str(), node.node.dns.dns_port), ("edge.example", 5353));
        assert_eq!(node.node.dns.flags(), args.node.dns.flags());
        assert_eq!(node.node.tunnel.tools_bind, args.node.tunnel.tools_bind);
        assert_eq!(node.node.tunnel.healthz_bind, args.node.tunnel.healthz_bind);
        assert_eq!((node.node.tunnel.announce, node.node.tunnel.uplink_xdp), (false, UplinkXdp::Generic));
    }
}
