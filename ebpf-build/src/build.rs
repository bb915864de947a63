use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use crate::toolchain::{NoToolchain, Toolchain, clear_cargo_environment, output};

/// Hands in a ready object, so that a machine without a BPF toolchain can build everything else.
const OBJECT_VARIABLE: &str = "EBPF_OBJECT";
const TARGET: &str = "bpfel-unknown-none";
const BINARY: &str = "skerry-bpf";

/// Why there is no object.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Toolchain(#[from] NoToolchain),
    #[error("run {command}: start it")]
    Spawn { command: String, source: std::io::Error },
    #[error(
        "compile the kernel programs with {toolchain}: {status}; its messages are above \
         (bpf-linker missing? `cargo install bpf-linker --version 0.10.4 --locked`)"
    )]
    Failed { toolchain: String, status: ExitStatus },
    #[error("${OBJECT_VARIABLE} names {path}: not a file")]
    NoSuchObject { path: PathBuf },
}

/// Compiles `proxy-ebpf` and returns the object's path. A second call finds nothing to do: all callers share
/// one target folder, `target/bpf` of the workspace, and cargo's lock on it puts concurrent builds in a line.
///
/// # Errors
/// No usable toolchain, or the compilation failed.
pub fn build() -> Result<PathBuf, BuildError> {
    build_by(Command::status)
}

/// As [`build`]; `run` starts the compiler and waits for it, and may watch what it prints.
///
/// # Errors
/// As of [`build`].
pub fn build_by(
    run: impl FnOnce(&mut Command) -> std::io::Result<ExitStatus>,
) -> Result<PathBuf, BuildError> {
    if let Some(path) = env::var_os(OBJECT_VARIABLE).map(PathBuf::from) {
        return if path.is_file() { Ok(path) } else { Err(BuildError::NoSuchObject { path }) };
    }
    let toolchain = Toolchain::pick()?;
    let target_dir = workspace().join("target/bpf");
    let mut command = toolchain.cargo();
    command
        .current_dir(workspace())
        .args(["build", "--release", "--package", "proxy-ebpf", "--bin", BINARY, "--target", TARGET])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags())
        // aya-ebpf names an unstable inline assembly target.
        .env("RUSTC_BOOTSTRAP", "1");
    if let Some(path) = linker_library_path() {
        command.env("LD_LIBRARY_PATH", path);
    }
    let status =
        run(&mut command).map_err(|source| BuildError::Spawn { command: format!("{command:?}"), source })?;
    if !status.success() {
        return Err(BuildError::Failed { toolchain: toolchain.to_string(), status });
    }
    Ok(target_dir.join(TARGET).join("release").join(BINARY))
}

/// Prints the lines that make cargo run the calling build script again when the object may have changed.
pub fn watch() {
    for variable in [OBJECT_VARIABLE, "EBPF_RUSTC", "EBPF_TOOLCHAIN"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    for package in ["proxy-abi", "proxy-datapath", "proxy-ebpf"] {
        for part in ["src", "Cargo.toml"] {
            println!("cargo::rerun-if-changed={}", workspace().join(package).join(part).display());
        }
    }
}

fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

fn rustflags() -> String {
    // Set by cargo for build scripts; elsewhere the machine we run on is the one we build for.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| env::consts::ARCH.to_owned());
    // BTF is made from the debug information; 0x1f separates flags in the encoded form.
    [
        &format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2",
        "-Ctarget-cpu=v3",
        "-Clink-arg=--btf",
        "-Clink-arg=--disable-expand-memcpy-in-order",
    ]
    .join("\x1f")
}

/// `bpf-linker` opens the first `libLLVM*` it finds in this variable: the one of rustup's stable toolchain
/// has the version it was built against. A distribution's library folder must not come before it.
fn linker_library_path() -> Option<OsString> {
    let mut rustc = Command::new("rustc");
    clear_cargo_environment(&mut rustc).args(["--print", "sysroot"]);
    let library = Path::new(&output(&mut rustc)?).join("lib");
    let has_llvm = library
        .read_dir()
        .ok()?
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libLLVM"));
    has_llvm.then(|| library.into_os_string())
}
