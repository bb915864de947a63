//! `up`, `down` and `lab`: a cluster of namespaces on this machine.

use std::{
    fs,
    net::IpAddr,
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use skerry_lab::{Cluster, Lab, cluster, paths};

use crate::{build, host, progress::Progress, say, setup};

/// The lab of `up`.
const LAB: &str = "skerry";
/// What a namespace and a containerd each cost leaves room for on a small machine.
const MAX_NODES: usize = 32;

#[derive(Debug, Args)]
pub struct UpArgs {
    /// Workers beside the server node, which then takes no ordinary pods; without any it takes them itself,
    /// too
    #[arg(long, alias = "workers", value_name = "N", value_parser = workers)]
    nodes: Option<usize>,
    /// On the machine itself instead of in namespaces
    #[arg(long, conflicts_with = "nodes")]
    host: bool,
    #[command(flatten)]
    host_args: host::HostArgs,
    /// Address families of nodes, pods and services; dual has IPv4 first
    #[arg(long, value_enum, default_value_t = Families::V4, conflicts_with = "host")]
    families: Families,
    /// Take the programs as they were built last
    #[arg(long)]
    no_build: bool,
    /// The cluster's name
    #[arg(long, default_value = LAB)]
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Families {
    V4,
    V6,
    Dual,
}

impl From<Families> for cluster::Families {
    fn from(families: Families) -> cluster::Families {
        match families {
            Families::V4 => cluster::Families::V4,
            Families::V6 => cluster::Families::V6,
            Families::Dual => cluster::Families::Dual,
        }
    }
}

#[derive(Debug, Args)]
pub struct DownArgs {
    /// The cluster's name
    #[arg(long, default_value = LAB)]
    name: String,
    /// Keep its files for the next `up`
    #[arg(long)]
    keep_data: bool,
    /// Every cluster and lab on this machine
    #[arg(long, conflicts_with_all = ["name", "keep_data"])]
    all: bool,
    /// The one of `up --host`
    #[arg(long, conflicts_with_all = ["name", "all"])]
    host: bool,
    #[command(flatten)]
    host_args: host::HostArgs,
}

#[derive(Debug, Args)]
pub struct LabArgs {
    /// The cluster's name
    #[arg(long, default_value = LAB)]
    name: String,
    /// The node: master, node1, node2 … or `out` for the client outside of the cluster
    node: String,
    /// What to run there
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// # Errors
/// When something does not start.
pub fn up(args: &UpArgs) -> Result<()> {
    // Set-up, the builds, the cluster.
    let progress = Progress::new(if args.no_build { 1 } else { 2 + build::STEPS });
    if !args.no_build {
        set_up_and_build(&progress)?;
    }
    if args.host {
        progress.step("starting our own containerd and `skerry up` on this machine");
        return host::up(&args.host_args);
    }
    let begun = Instant::now();
    let running = Lab::find(&args.name)?.map(|lab| lab.nodes()).transpose()?.unwrap_or_default();
    let workers = args.nodes.unwrap_or(running.len().saturating_sub(1));
    if !running.is_empty() && running.len() != workers + 1 {
        bail!(
            "the cluster {} has {} workers: `{}` first, or leave --nodes out",
            args.name,
            running.len() - 1,
            with_name("down", &args.name)
        );
    }
    match running.len() {
        0 => progress.step(&format!("starting a cluster: a server node and {workers} workers")),
        _ => progress.step("a cluster runs: taking up the new programs, its data stays"),
    }
    let families = args.families.into();
    let options = cluster::Options { workers, families, ..cluster::Options::default() };
    let tell = |done, all| progress.part(done, all);
    let cluster = Cluster::start_telling(Lab::named(&args.name)?, &options, &tell)?;
    drop(progress);
    say(&format!("every node is Ready, {:.1} s after the build", begun.elapsed().as_secs_f64()));
    print!("{}", cluster.kubectl().run("get nodes -o wide")?);
    let kubeconfig = cluster.kubectl().kubeconfig().display().to_string();
    let kubectl = cluster.kubectl().program().display().to_string();
    println!(
        "\nThe kubeconfig is {kubeconfig}. To try:\n\n\
         export KUBECONFIG={kubeconfig} PATH={}:$PATH\n\
         kubectl create deployment k8s-nginx --image=nginx -r 3\n\
         kubectl expose deployment k8s-nginx --type=NodePort --port=8080 --target-port=80\n\
         curl http://{}:$(kubectl get service k8s-nginx -o jsonpath='{{.spec.ports[0].nodePort}}')\n\n\
         `{} master` is a shell on the server node; `{}` ends it all.",
        std::path::Path::new(&kubectl).parent().unwrap_or(&paths::target()).display(),
        host_in_url(cluster.server_ip().context("a server node")?),
        with_name("lab", &args.name),
        with_name("down", &args.name),
    );
    Ok(())
}

/// What `build` does: everything before a cluster can be started.
///
/// # Errors
/// When something can't be installed or compiled.
pub fn build() -> Result<()> {
    set_up_and_build(&Progress::new(1 + build::STEPS))
}

fn set_up_and_build(progress: &Progress) -> Result<()> {
    progress.step("looking for what is missing");
    setup::run()?;
    build::programs(progress)
}

/// A command of this program for the cluster of this name, as a person types it.
fn with_name(command: &str, name: &str) -> String {
    if name == LAB {
        format!("cargo xtask {command}")
    } else {
        format!("cargo xtask {command} --name {name}")
    }
}

fn host_in_url(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(workers) if workers < MAX_NODES => Ok(workers),
        Ok(_) => Err(format!("at most {} on one machine", MAX_NODES - 1)),
        Err(_) => Err("not a number of workers".to_owned()),
    }
}

/// # Errors
/// What could not be removed.
pub fn down(args: &DownArgs) -> Result<()> {
    if args.host {
        return host::down(&args.host_args);
    }
    let names = if args.all { skerry_lab::names() } else { vec![args.name.clone()] };
    for name in names {
        let there = fs::metadata(std::path::Path::new(paths::STATE).join(&name)).is_ok();
        skerry_lab::end(&name, !args.keep_data).with_context(|| format!("end {name}"))?;
        say(&if there { format!("ended {name}") } else { format!("nothing of the name {name} runs here") });
    }
    Ok(())
}

/// # Errors
/// When there is no such cluster or node.
pub fn lab(args: &LabArgs) -> Result<ExitCode> {
    let lab = Lab::find(&args.name)?
        .with_context(|| format!("no cluster {}: `{}`", args.name, with_name("up", &args.name)))?;
    let shell = vec!["bash".to_owned()];
    let words = if args.command.is_empty() { &shell } else { &args.command };
    let program = words.first().context("a program")?;
    let mut command: Command = if args.node == "out" {
        lab.client().command(program)
    } else {
        let nodes = lab.nodes()?;
        let known: Vec<&str> = nodes.iter().map(skerry_lab::Node::name).collect();
        let node = nodes.iter().find(|node| node.name() == args.node);
        node.with_context(|| format!("no node {}: there are {}", args.node, known.join(", ")))?
            .command(program)?
    };
    let status = command.args(words.get(1..).unwrap_or_default()).status().context("start it")?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_name_the_cluster_that_they_are_for() {
        assert_eq!(with_name("down", LAB), "cargo xtask down");
        assert_eq!(with_name("down", "two"), "cargo xtask down --name two");
    }

    #[test]
    fn too_many_workers_are_refused_while_the_arguments_are_read() {
        assert_eq!(workers("31"), Ok(31));
        assert_eq!(workers("99").unwrap_err(), "at most 31 on one machine");
        assert!(workers("-1").is_err() && workers("three").is_err());
    }
}
