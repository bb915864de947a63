//! What would go wrong later, found out and named first.

use std::{net::SocketAddr, net::TcpListener, path::Path, process::Command};

use anyhow::{Context, bail, ensure};

/// Free space below which nothing is begun, in bytes.
const MIN_FREE: u64 = 64 << 20;
/// The oldest that is tested (`cargo xtask vm-test`). What newer ones have besides is found out by trying.
const MIN_KERNEL: (u32, u32) = (6, 1);

pub fn root() -> anyhow::Result<()> {
    ensure!(
        nix::unistd::Uid::effective().is_root(),
        "root is needed to load eBPF programs and to make devices: run it with sudo"
    );
    Ok(())
}

pub fn kernel() -> anyhow::Result<()> {
    let release = skerry_kernel::kernel_release().context("ask for the kernel's release")?;
    check_kernel(&release)
}

fn check_kernel(release: &str) -> anyhow::Result<()> {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (major, minor) = MIN_KERNEL;
    ensure!(
        version >= MIN_KERNEL,
        "kernel {release} is too old: {major}.{minor} or newer is needed (Debian 12 has 6.1); install a newer kernel and \
         reboot"
    );
    Ok(())
}

/// `listener`: what wants the port, and the flag that gives it another.
pub fn port_is_free(bind: SocketAddr, listener: &str, flag: &str) -> anyhow::Result<()> {
    match TcpListener::bind(bind) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!(
                "{bind} is taken, and {listener} wants it: end what listens there (`ss -ltnp`), or choose another with {flag}"
            )
        }
        Err(error) => Err(error).with_context(|| format!("listen on {bind} for {listener}")),
    }
}

pub fn disk(path: &Path) -> anyhow::Result<()> {
    let stat = nix::sys::statvfs::statvfs(path)
        .with_context(|| format!("look at the disk of {}", path.display()))?;
    let free = stat.blocks_available() * stat.fragment_size();
    ensure!(
        free >= MIN_FREE,
        "the disk of {} is full ({} MiB free, {} needed): free some, or choose another --data-dir",
        path.display(),
        free >> 20,
        MIN_FREE >> 20
    );
    Ok(())
}

pub fn containerd(socket: &Path) -> anyhow::Result<()> {
    match std::os::unix::net::UnixStream::connect(socket) {
        Ok(_) => Ok(()),
        Err(error) => Err(error).with_context(|| {
            format!(
                "connect to containerd at {}: install and start it (Debian: apt-get install containerd), or name its socket with --containerd-socket",
                socket.display()
            )
        }),
    }
}

/// Things that do not stop us but that a person will want to know.
pub fn warnings() -> Vec<String> {
    // Pods' packets go past the host's FORWARD chain; what the stack itself forwards does not.
    let dropping = [("iptables", nft_chain()), ("iptables-legacy", legacy_chain())];
    let dropping = dropping.into_iter().filter(|(_, text)| text.as_deref().is_some_and(drops_forwarded));
    dropping
        .map(|(program, _)| {
            format!(
                "the FORWARD chain of {program} drops by default (Docker sets that): pods' traffic goes past it, but what \
                 this machine itself forwards for them is dropped; `{program} -P FORWARD ACCEPT` lifts it"
            )
        })
        .collect()
}

/// `nft` only looks; iptables of either flavour would make tables and a lock file.
fn nft_chain() -> Option<String> {
    output(Command::new("nft").args(["list", "chain", "ip", "filter", "FORWARD"]))
}

/// Only where the table is loaded: the look itself would load it.
fn legacy_chain() -> Option<String> {
    let tables = std::fs::read_to_string("/proc/net/ip_tables_names").ok()?;
    tables.lines().any(|table| table == "filter").then_some(())?;
    output(Command::new("iptables-legacy-save").args(["-t", "filter"]))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As nft lists a chain, or as iptables-save lists a table.
fn drops_forwarded(text: &str) -> bool {
    text.lines().any(|line| {
        line.contains("hook forward") && line.contains("policy drop") || line.starts_with(":FORWARD DROP ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_named_with_what_is_needed() {
        for good in ["6.1.0-18-amd64", "6.5", "6.6.0", "6.12.9-amd64", "6.18.44-fc-v669", "7.0"] {
            check_kernel(good).unwrap();
        }
        for old in ["4.19.0", "5.15.0-91-generic", "6.0.0"] {
            let error = check_kernel(old).unwrap_err().to_string();
            assert!(error.contains(old) && error.contains("6.1"), "{error}");
        }
    }

    #[test]
    fn dockers_forward_chain_is_seen_in_both_flavours() {
        let nft = "table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n";
        assert!(drops_forwarded(nft) && !drops_forwarded(&nft.replace("drop", "accept")));
        let legacy = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\nCOMMIT\n";
        assert!(drops_forwarded(legacy) && !drops_forwarded(&legacy.replace("DROP", "ACCEPT")));
    }

    #[test]
    fn a_taken_port_is_named_with_the_flag_that_changes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = port_is_free(listener.local_addr().unwrap(), "the API server", "--bind").unwrap_err();
        assert!(error.to_string().contains("--bind"), "{error}");
    }
}
