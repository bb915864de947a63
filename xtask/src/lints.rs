//! The checks that need no root: formatting, clippy for both worlds, the object's panics, what pure crates reach.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{
    build::{KERNEL_PROGRAMS, cargo, succeed},
    reach, say, setup,
};

/// # Errors
/// On the first check that fails; its messages are above.
pub fn run() -> Result<()> {
    setup::run()?;
    say("cargo fmt");
    succeed(cargo().args(["fmt", "--all", "--check"]))?;
    say("what the pure crates reach");
    reach::check()?;
    say("clippy");
    let everything = ["clippy", "--release", "--workspace", "--exclude", KERNEL_PROGRAMS, "--all-targets"];
    succeed(cargo().args(everything).args(["--", "-D", "warnings"]))?;
    say("clippy for the kernel programs");
    kernel_clippy()?;
    say("panics in the kernel programs");
    let object = ebpf_build::build().context("build the kernel programs")?;
    ebpf_build::check_no_panics(&object).context("check the kernel programs")?;
    Ok(())
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
