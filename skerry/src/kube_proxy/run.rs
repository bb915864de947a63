//! The machine's own programs: none of them is needed where the thing that it lists cannot be there.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

pub struct Family {
    /// What the programs' names begin with.
    pub prefix: &'static str,
    /// Lists the tables of the legacy flavour that this network namespace has.
    legacy_tables: &'static str,
}

pub struct Flavour {
    /// Behind [`Family::prefix`]: `iptables-legacy`, `ip6tables-nft`.
    pub name: &'static str,
    is_legacy: bool,
}

pub const FAMILIES: &[Family] = &[
    Family { prefix: "ip", legacy_tables: "/proc/net/ip_tables_names" },
    Family { prefix: "ip6", legacy_tables: "/proc/net/ip6_tables_names" },
];

pub const FLAVOURS: &[Flavour] =
    &[Flavour { name: "tables-legacy", is_legacy: true }, Flavour { name: "tables-nft", is_legacy: false }];

/// What `iptables-save` of a flavour prints; `None`: there is nothing of it here.
///
/// # Errors
/// When there is but no program to list it, or the program fails.
pub fn save(family: &Family, flavour: &Flavour) -> anyhow::Result<Option<String>> {
    // The legacy programs would load a table by looking at it.
    if flavour.is_legacy && !has_tables(family.legacy_tables) {
        return Ok(None);
    }
    let program = program(family, flavour, "save");
    match output(&program, &[])? {
        Some(saved) => Ok(Some(saved)),
        None if flavour.is_legacy => {
            bail!(
                "{} lists tables but there is no program `{program}`: install iptables",
                family.legacy_tables
            )
        }
        None => Ok(None),
    }
}

fn has_tables(names: &str) -> bool {
    std::fs::read_to_string(names).is_ok_and(|names| !names.trim().is_empty())
}

/// Changes each table in `text` by one commit, and leaves what the text does not name.
///
/// # Errors
/// When the program fails: tables before the failing one are changed then.
pub fn restore(family: &Family, flavour: &Flavour, text: &str) -> anyhow::Result<()> {
    // `-w`: wait for others that hold the lock of the legacy flavour.
    feed(&program(family, flavour, "restore"), &["--noflush", "-w", "10"], text)
}

/// `iptables-legacy-save`; where distributions have one flavour only, under the plain name.
fn program(family: &Family, flavour: &Flavour, what: &str) -> String {
    let (prefix, name) = (family.prefix, flavour.name);
    let full = format!("{prefix}{name}-{what}");
    let plain = format!("{prefix}tables-{what}");
    let is_plain =
        !is_installed(&full) && is_installed(&plain) && plain_is_legacy(prefix) == flavour.is_legacy;
    if is_plain { plain } else { full }
}

/// `iptables v1.8.9 (nf_tables)` and `(legacy)`; older ones say neither and are the old kind.
fn plain_is_legacy(prefix: &str) -> bool {
    let version = output(&format!("{prefix}tables"), &["-V"]).ok().flatten();
    version.is_some_and(|version| !version.contains("nf_tables"))
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).is_file())
}

/// Standard output of a program; `None`: it is not installed.
///
/// # Errors
/// When it fails: the text has what it said.
pub fn output(program: &str, args: &[&str]) -> anyhow::Result<Option<String>> {
    let done = match Command::new(program).args(args).stdin(Stdio::null()).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        done => done.with_context(|| format!("start {program}"))?,
    };
    if !done.status.success() {
        bail!("`{program} {}`: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(Some(String::from_utf8_lossy(&done.stdout).into_owned()))
}

/// Runs a program with `input` on its standard input.
///
/// # Errors
/// When it can't be started or fails: the text has what it said.
pub fn feed(program: &str, args: &[&str], input: &str) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {program}"))?;
    let mut stdin = child.stdin.take().context("its standard input")?;
    let input = input.to_owned();
    // Beside the reader of its messages: both pipes are finite.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let done = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    if !done.status.success() {
        bail!("`{program} {}`: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    match writer.join() {
        Ok(written) => written.with_context(|| format!("write to {program}")),
        Err(_) => bail!("write to {program}: the thread ended"),
    }
}
