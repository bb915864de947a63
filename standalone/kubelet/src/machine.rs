//! What the machine is: read once at start.

use std::{fs, path::Path};

use jiff::Timestamp;
use nix::sys::{statvfs::statvfs, utsname::uname};

/// Capacity and identity of the node's machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    /// Size of the file system that holds the agent's folder.
    pub storage_bytes: u64,
    pub kernel: String,
    pub os_image: String,
    pub machine_id: String,
    pub boot_id: String,
    pub booted: Option<Timestamp>,
    /// Kubernetes' spelling: `amd64`, `arm64` …
    pub architecture: &'static str,
}

impl Machine {
    /// Reads /proc, /etc/os-release and the file system of `dir`; what cannot be read stays empty.
    pub fn read(dir: &Path) -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Machine {
            cpu_millis: 1000 * u64::try_from(cores).unwrap_or(1),
            memory_bytes: memory_total(&read("/proc/meminfo")).unwrap_or(0),
            storage_bytes: statvfs(dir).map_or(0, |stat| stat.blocks() * stat.fragment_size()),
            kernel: uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default(),
            os_image: os_image(&read("/etc/os-release")),
            machine_id: read("/etc/machine-id").trim().to_owned(),
            boot_id: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
            booted: booted(&read("/proc/stat")),
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                "x86" => "386",
                other => other,
            },
        }
    }
}

fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The line `btime` of /proc/stat: seconds since the epoch.
fn booted(stat: &str) -> Option<Timestamp> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Timestamp::from_second(seconds.trim().parse().ok()?).ok()
}

fn os_image(os_release: &str) -> String {
    let line = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.unwrap_or("Linux").trim_matches(['"', '\'']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_cores_and_a_kernel() {
        let machine = Machine::read(Path::new("/"));
        assert!(machine.memory_bytes > 0 && machine.cpu_millis >= 1000 && machine.storage_bytes > 0);
        assert!(!machine.kernel.is_empty() && !machine.boot_id.is_empty());
    }

    #[test]
    fn files_are_read_as_the_kernel_and_systemd_write_them() {
        assert_eq!(memory_total("MemFree: 1 kB\nMemTotal:       24 kB\n"), Some(24576));
        assert_eq!(booted("cpu 1 2\nbtime 1700000000\n"), Timestamp::from_second(1_700_000_000).ok());
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
    }
}
