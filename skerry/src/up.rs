//! `skerry up`: server and node of this machine, watched over.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::{
    args::{NodeArgs, ServerArgs, UpArgs},
    document::Document,
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
    let (server, node) = children(&args, advertise, &node_ips);
    let run_dir = &args.server.folders.run_dir;
    let server_args = Document::from(server).hand_over(run_dir)?;
    let node_args = Document::from(node).hand_over(run_dir)?;
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

/// What server and node are told: all that was typed, and what follows from it. `node_ips`: the machine's
/// addresses, given or found.
pub fn children(args: &UpArgs, advertise: IpAddr, node_ips: &[IpAddr]) -> (ServerArgs, NodeArgs) {
    let mut server = ServerArgs { advertise: Some(advertise), ..args.server.clone() };
    // The server is reached by every address of its node.
    server.tls_sans.extend(node_ips.iter().filter(|ip| **ip != advertise).map(IpAddr::to_string));
    let mut node = args.node.clone();
    if args.taint_server {
        node.taints.insert(0, format!("{CONTROL_PLANE}:NoSchedule"));
    }
    // Not the addresses that were found: the node finds them again when they change.
    let node = NodeArgs {
        folders: args.server.folders.clone(),
        cluster: args.server.cluster.clone(),
        node,
        server: format!("https://{}", own_server(args.server.bind, advertise)),
        token: None,
        token_file: Some(Paths(&args.server.folders).join_token()),
    };
    (server, node)
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
    use crate::args::{Cli, Command};
    use clap::Parser;

    #[test]
    fn what_the_children_are_told_follows_from_what_was_typed() {
        let typed =
            |more: &[&str]| match Cli::parse_from([&["skerry", "up", "--data-dir", "/d"], more].concat())
                .command
            {
                Command::Up(args) => args,
                other => panic!("{other:?}"),
            };
        let args = typed(&["--taint-server", "--taint", "x=y:NoExecute", "--tls-san", "a,b"]);
        let node_ips: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let (server, node) = children(&args, node_ips[0], &node_ips);
        assert_eq!(
            (server.advertise, &*server.tls_sans),
            (Some(node_ips[0]), &["a", "b", "fd00::1"].map(String::from)[..])
        );
        assert_eq!(node.node.taints, ["node-role.kubernetes.io/control-plane:NoSchedule", "x=y:NoExecute"]);
        assert_eq!(node.token_file.as_deref(), Some(Path::new("/d/server/join-token")));
        assert!(node.node.node_ips.is_empty(), "what was found is not fixed");
        let (_, fixed) = children(&typed(&["--node-ip", "10.0.0.1,fd00::1"]), node_ips[0], &node_ips);
        assert_eq!(fixed.node.node_ips, node_ips);
        assert_eq!(node.server, "https://127.0.0.1:6443", "not an address that may change");
        let (_, bound) = children(&typed(&["--bind", "10.0.0.1:7443"]), node_ips[0], &node_ips);
        assert_eq!(bound.server, "https://10.0.0.1:7443");
    }
}
