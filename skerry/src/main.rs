//! The binary that a person types.
//!
//! One file, several processes: `server` faces the network and has no privileges, `node` has them and faces
//! nobody; `up` starts both and minds them.

mod args;
mod cli;
mod container_logs;
mod dns;
mod doctor;
mod document;
mod families;
mod kube_proxy;
mod kubeconfig;
mod lb;
#[cfg(test)]
mod manual;
mod node;
mod notify;
mod paths;
mod preflight;
mod privilege;
mod server;
mod status;
mod supervise;
mod uninstall;
mod up;

use clap::Parser;

use args::{Cli, Command};

fn main() -> std::process::ExitCode {
    skerry_kernel::return_freed_memory();
    let cli = Cli::parse();
    start_log();
    let done = match cli.command {
        Command::Up(args) => up::run(args),
        Command::Server(given) => given.read().and_then(server::run),
        Command::Node(given) => given.read().and_then(node::run),
        Command::Proxy(args) => node::run_proxy(args),
        Command::Lb(args) => lb::run(args),
        Command::Kubeconfig(args) => kubeconfig::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Status(args) => status::run(args),
        Command::Uninstall(args) => uninstall::run(args),
        Command::Dns(args) => dns::run(args),
        Command::Pod(args) => cli::pod(args),
        Command::Service(args) => cli::service(args),
        Command::Bpf(args) => cli::bpf(args),
        Command::Flows(args) => cli::flows(args),
        Command::Trace(args) => cli::trace(args),
        Command::CleanupKubeProxy(args) => kube_proxy::run_command(args),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            // The whole chain, once, here.
            eprintln!("skerry: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Standard error, level by `RUST_LOG`, else `info`.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new(
            "info,kube=warn,hyper=warn,tower=warn,h2=warn,rustls=warn,hickory_net=error",
        )
    });
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true).init();
}
