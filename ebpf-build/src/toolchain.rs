use std::{
    env,
    ffi::{OsStr, OsString},
    fmt,
    path::Path,
    process::Command,
};

/// A compiler that can make code for `bpfel-unknown-none`.
#[derive(Debug, Clone)]
pub struct Toolchain {
    cargo: Vec<OsString>,
    rustc: Option<OsString>,
    sysroot: String,
    build_core: bool,
}

/// No candidate has `core` for the target, ready-made or as source.
#[derive(Debug, thiserror::Error)]
#[error(
    "no toolchain can compile for bpfel-unknown-none; tried: {tried}; install one of \
     `rustup toolchain install nightly --component rust-src` or \
     `apt-get install rustc-web libstd-rust-web-dev-bpf`, or set $EBPF_RUSTC to a compiler, \
     or $EBPF_OBJECT to a ready object"
)]
pub struct NoToolchain {
    tried: String,
}

impl Toolchain {
    /// The first usable one of: `$EBPF_RUSTC`, rustup's `$EBPF_TOOLCHAIN` (nightly), the compiler of this
    /// build, the distribution's `/usr/bin/rustc`.
    ///
    /// # Errors
    /// None is usable; the error lists what each lacks and how to install one.
    pub fn pick() -> Result<Toolchain, NoToolchain> {
        let mut tried = Vec::new();
        for (cargo, rustc) in candidates() {
            let name = rustc.as_deref().unwrap_or(OsStr::new("rustup's")).to_string_lossy().into_owned();
            let mut ask = match &rustc {
                Some(rustc) => Command::new(rustc),
                None => through_rustup(&cargo, "rustc"),
            };
            clear_cargo_environment(&mut ask).args(["--print", "sysroot"]);
            let Some(sysroot) = output(&mut ask) else {
                tried.push(format!("{name} (does not run)"));
                continue;
            };
            let (ready, source) = core_in(Path::new(&sysroot));
            if ready || source {
                return Ok(Toolchain { cargo, rustc, sysroot, build_core: !ready });
            }
            tried.push(format!("{name} in {sysroot} (neither core for the target nor rust-src)"));
        }
        Err(NoToolchain { tried: tried.join(", ") })
    }

    /// A cargo that uses this compiler, free of what an outer cargo has set.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = match self.cargo.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments);
                command
            }
            None => Command::new("cargo"),
        };
        clear_cargo_environment(&mut command);
        if let Some(rustc) = &self.rustc {
            command.env("RUSTC", rustc);
        }
        if self.build_core {
            command.arg("-Zbuild-std=core");
        }
        command
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = if self.build_core { "core from rust-src" } else { "ready-made core" };
        write!(f, "the toolchain in {} ({core})", self.sysroot)
    }
}

/// Pairs of a cargo and the compiler it is told to use; none where rustup picks it.
fn candidates() -> Vec<(Vec<OsString>, Option<OsString>)> {
    let cargo = || vec![env::var_os("CARGO").unwrap_or_else(|| "cargo".into())];
    let nightly = env::var_os("EBPF_TOOLCHAIN").unwrap_or_else(|| "nightly".into());
    let explicit = env::var_os("EBPF_RUSTC").map(|rustc| (cargo(), Some(rustc)));
    let current = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    explicit
        .into_iter()
        .chain([
            (vec!["rustup".into(), "run".into(), nightly, "cargo".into()], None),
            (cargo(), Some(current)),
            (cargo(), Some("/usr/bin/rustc".into())),
        ])
        .collect()
}

fn through_rustup(cargo: &[OsString], tool: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(cargo.iter().skip(1).take(2)).arg(tool);
    command
}

/// Whether a sysroot has `core` for the target, and whether it has core's source.
fn core_in(sysroot: &Path) -> (bool, bool) {
    let rustlib = sysroot.join("lib/rustlib");
    let ready = rustlib.join("bpfel-unknown-none/lib").read_dir().is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libcore-") && name.ends_with(".rlib")
        })
    });
    (ready, rustlib.join("src/rust/library/core/src/lib.rs").exists())
}

/// Takes away what a surrounding cargo sets for its own compiler: it would bend the nested one.
pub(crate) fn clear_cargo_environment(command: &mut Command) -> &mut Command {
    for variable in [
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
        "CARGO_MAKEFLAGS",
        "MAKEFLAGS",
    ] {
        command.env_remove(variable);
    }
    // What cargo tells a build script about its own package would make the nested one build anew for each
    // caller.
    for (variable, _) in env::vars_os() {
        let name = variable.to_string_lossy();
        let told = ["CARGO_CFG_", "CARGO_FEATURE_", "CARGO_PKG_", "CARGO_MANIFEST_", "DEP_"];
        if told.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(&variable);
        }
    }
    for variable in ["TARGET", "HOST", "OUT_DIR", "PROFILE", "OPT_LEVEL", "DEBUG", "NUM_JOBS"] {
        command.env_remove(variable);
    }
    command
}

/// The trimmed standard output of a command that succeeds.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
