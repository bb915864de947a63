//! `skerry uninstall`: everything that was put on this machine goes again.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    args::{ClusterArgs, UninstallArgs},
    node,
    paths::Paths,
    preflight, supervise,
};

/// How long a process may take to end: `up` waits for its children.
const STOP_GRACE_MS: i32 = 30_000;
/// How long all pods together may take to go.
const PODS_LIMIT: Duration = Duration::from_secs(120);

pub fn run(args: UninstallArgs) -> anyhow::Result<ExitCode> {
    preflight::root()?;
    let mut problems = Vec::new();
    let mut step = |what: &str, done: anyhow::Result<()>| match done {
        Ok(()) => println!("{what}: done"),
        Err(error) => {
            println!("{what}: {error:#}");
            problems.push(what.to_owned());
        }
    };
    let paths = Paths(&args.folders);
    // `up` first: it would start the others again.
    for role in ["up", "node", "server"] {
        step(&format!("stop {role}"), stop(&paths.lock(role)));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    step("remove pods", runtime.block_on(remove_pods(&args)));
    step("remove programs, devices, routes and settings", runtime.block_on(remove_network(&args)));
    step("remove the CNI plugin", proxy_agent::remove_plugin(&args.node.cni_bin_dir).map_err(Into::into));
    step("remove the run folder", remove(&args.folders.run_dir));
    if !args.keep_data {
        step("remove the data folder", remove(&args.folders.data_dir));
    }
    if problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("{} left; mend what the lines above say and run it again", problems.join(", "))
}

/// Ends the holder of a role and waits for it by its pidfd.
fn stop(lock: &Path) -> anyhow::Result<()> {
    let Some(pid) = supervise::holder(lock)? else { return Ok(()) };
    // SAFETY: pidfd_open takes two numbers and returns a descriptor or -1; no memory of ours is involved.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(Errno::result(fd).context("open the process")?)?;
    // SAFETY: the call above returned a new descriptor that nobody else owns.
    let fd = unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
    kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("end process {pid}"))?;
    let ended = |timeout_ms: i32| {
        let mut poll = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&fd), nix::poll::PollFlags::POLLIN)];
        let timeout = nix::poll::PollTimeout::try_from(timeout_ms).unwrap_or(nix::poll::PollTimeout::MAX);
        nix::poll::poll(&mut poll, timeout).map(|ready| ready > 0)
    };
    if ended(STOP_GRACE_MS)? {
        return Ok(());
    }
    kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("kill process {pid}"))?;
    if !ended(STOP_GRACE_MS)? {
        bail!("process {pid} does not end");
    }
    Ok(())
}

async fn remove_pods(args: &UninstallArgs) -> anyhow::Result<()> {
    if preflight::containerd(&args.node.containerd_socket).is_err() {
        println!(
            "no containerd answers at {}: its pods are not looked at",
            args.node.containerd_socket.display()
        );
        return Ok(());
    }
    let access = skerry_kubelet::ServerAccess::Joined { server: String::new(), dir: Default::default() };
    let config = skerry_kubelet::Config {
        runtime_socket: args.node.containerd_socket.clone(),
        root_dir: Paths(&args.folders).node_dir().join("kubelet"),
        pod_log_dir: args.node.pod_log_dir.clone(),
        cgroup_parent: args.node.cgroup_parent.clone(),
        ..skerry_kubelet::Config::new(node::name(args.node.node_name.as_deref())?, Vec::new(), access)
    };
    let errors =
        tokio::time::timeout(PODS_LIMIT, skerry_kubelet::cleanup(&config)).await.context("in two minutes")?;
    all_of(errors)
}

async fn remove_network(args: &UninstallArgs) -> anyhow::Result<()> {
    let cluster =
        ClusterArgs { pod_cidrs: Vec::new(), service_cidrs: Vec::new(), nodeport_range: (30000, 32767) };
    let config = node::proxy_config(
        &args.node.tunnel,
        None,
        node::name(args.node.node_name.as_deref())?,
        args.node.node_ips.clone(),
        &args.folders.run_dir,
        &cluster,
        args.node.cgroup_root.clone(),
        args.node.cni_conf_dir.clone(),
        None,
    );
    all_of(proxy_agent::cleanup(&config).await)
}

/// One error that tells of all.
fn all_of<E: std::error::Error + Send + Sync + 'static>(errors: Vec<E>) -> anyhow::Result<()> {
    if errors.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> =
        errors.into_iter().map(|error| format!("{:#}", anyhow::Error::from(error))).collect();
    bail!("{}", texts.join("; "))
}

/// A file or a folder with all in it; not there is well.
fn remove(path: &Path) -> anyhow::Result<()> {
    let done = match path.symlink_metadata() {
        Ok(what) if what.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match done {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
