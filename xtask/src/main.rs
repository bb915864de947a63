//! What a person types in this repository: `cargo xtask …`.
//!
//! Builds with nothing but a Rust toolchain and a linker, since it is what installs the rest.

mod bench;
mod build;
mod cluster;
mod dist;
#[cfg(test)]
mod documents;
mod host;
mod lints;
mod mutants;
mod progress;
mod reach;
mod setup;
mod test;
mod verdict;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Set up, build, run and test Skerry", disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what is missing: Debian packages, bpf-linker, kubectl
    Setup,
    /// Build the kernel programs, `skerry` and `skerry-cni` (release)
    Build,
    /// Make one archive for machines without a toolchain, of programs that are smaller and take longer to build
    Dist(dist::Args),
    /// Start a cluster of namespaces on this machine, or take up new programs in the one that runs
    Up(cluster::UpArgs),
    /// End it
    Down(cluster::DownArgs),
    /// Run every test
    Test(test::Args),
    /// Run the tests of the kernel programs under Linux 6.1 and 6.12, in virtual machines
    VmTest(vm::Args),
    /// Change the code that only computes in small ways, and count the changes that no test notices
    Mutants(mutants::Args),
    /// The loop of a minute: formatting, clippy, the tests that need no root
    Check,
    /// Formatting, clippy, licences, and the rules that clippy doesn't know
    CiLints,
    /// Measure, by the ids of docs/budgets.md (P1, P4, P8 …); all without any
    Bench(bench::Args),
    /// Write the definitions of the API server's schemas anew, after k8s-openapi has changed
    Definitions,
    /// Run a command in a node of the running cluster, a shell without one
    Lab(cluster::LabArgs),
    /// Remove what `up --host` or `skerry up` put on this machine
    Uninstall(host::UninstallArgs),
}

fn main() -> ExitCode {
    let done: Result<ExitCode> = match Cli::parse().command {
        Command::Setup => setup::run().map(|()| ExitCode::SUCCESS),
        Command::Build => cluster::build().map(|()| ExitCode::SUCCESS),
        Command::Dist(args) => dist::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Up(args) => cluster::up(&args).map(|()| ExitCode::SUCCESS),
        Command::Down(args) => cluster::down(&args).map(|()| ExitCode::SUCCESS),
        Command::Test(args) => test::run(&args),
        Command::VmTest(args) => vm::run(&args),
        Command::Mutants(args) => mutants::run(&args),
        Command::Check => lints::quick().map(|()| ExitCode::SUCCESS),
        Command::CiLints => lints::run().map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => bench::run(&args),
        Command::Definitions => build::definitions().map(|()| ExitCode::SUCCESS),
        Command::Lab(args) => cluster::lab(&args),
        Command::Uninstall(args) => host::uninstall(&args),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A line that says what is going on, apart from the output of what is called.
fn say(what: &str) {
    progress::wipe();
    println!("xtask: {what}");
}
