//! `up --host`: the machine itself as the node, as `skerry up` does it for users.

use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use skerry_lab::{host, kubectl, paths};

use crate::say;

const START: Duration = Duration::from_secs(60);
/// The administrator's kubeconfig of `skerry up`.
const KUBECONFIG: &str = "/var/lib/skerry/server/kubeconfig/admin.yaml";

/// Where `--host` puts itself; for tests, whose machine is a namespace.
#[derive(Debug, clap::Args)]
pub struct HostArgs {
    /// The cgroup of our daemons and pods, below the root of every tree
    #[arg(long, default_value = "skerry-host", hide = true)]
    host_cgroup: String,
    /// The folder of cgroup2 whose processes' connections are balanced
    #[arg(long, hide = true)]
    host_cgroup_root: Option<std::path::PathBuf>,
}

impl HostArgs {
    fn options(&self) -> host::Options {
        host::Options { cgroup: self.host_cgroup.clone(), cgroup_root: self.host_cgroup_root.clone() }
    }
}

#[derive(Debug, clap::Args)]
pub struct UninstallArgs {
    #[command(flatten)]
    host: HostArgs,
    /// Passed on to `skerry uninstall`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// # Errors
/// When containerd or `skerry up` does not start, or the node is not Ready within a minute.
pub fn up(args: &HostArgs) -> Result<()> {
    let options = args.options();
    let begun = Instant::now();
    let program = host::start(&options)?;
    let kubectl = kubectl::ensure()?;
    let ready = ["wait", "nodes", "--all", "--for=condition=Ready", "--timeout=10s"];
    loop {
        let mut command = Command::new(&kubectl);
        command.args(["--kubeconfig", KUBECONFIG]).args(ready);
        let Err(error) = skerry_lab::output(&mut command) else { break };
        let daemon = host::daemon(&options)?;
        if daemon.is_none() || begun.elapsed() > START {
            let log = skerry_lab::tail(std::path::Path::new("/var/lib/skerry-host/log/skerry.log"), 30);
            bail!("the node did not get Ready: {error:#}\nthe end of skerry's log:\n{log}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    say(&format!("the node is Ready, {:.1} s after the build", begun.elapsed().as_secs_f64()));
    println!(
        "\nThe kubeconfig is {KUBECONFIG}. To try:\n\n\
         export KUBECONFIG={KUBECONFIG} PATH={}:{}:$PATH\n\
         kubectl get nodes -o wide\n\
         kubectl create deployment k8s-nginx --image=nginx -r 3\n\
         skerry status\n\n\
         `cargo xtask down --host` ends it, `cargo xtask uninstall` removes what is left of it.",
        paths::target().join("tools").display(),
        program.parent().context("a folder")?.display(),
    );
    Ok(())
}

/// # Errors
/// What could not be ended.
pub fn down(args: &HostArgs) -> Result<()> {
    host::stop(&args.options(), false)?;
    say("ended the cluster on this machine; its files stay until `cargo xtask uninstall`");
    Ok(())
}

/// # Errors
/// When `skerry` is not built, or what could not be removed.
pub fn uninstall(args: &UninstallArgs) -> Result<ExitCode> {
    let mut command = Command::new(paths::binary("skerry")?);
    command.arg("uninstall").args(["--cni-conf-dir", "/var/lib/skerry-host/cni/net.d"]);
    command.args(["--cni-bin-dir", "/var/lib/skerry-host/cni/bin"]);
    command.args(["--containerd-socket", "/run/skerry-host/containerd/containerd.sock"]);
    command.args(["--cgroup-parent", &format!("/{}", args.host.host_cgroup)]);
    if let Some(root) = &args.host.host_cgroup_root {
        command.arg("--cgroup-root").arg(root);
    }
    let status = command.args(&args.args).status().context("start skerry uninstall")?;
    host::stop(&args.host.options(), true)?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}
