//! P5: what the proxy holds at 10,000 services: its own memory, at its highest and now, and the kernel's for
//! its maps.

use std::{collections::BTreeMap, fs, os::fd::AsRawFd, path::Path};

use anyhow::{Context, Result};
use skerry_kernel::Program;
use skerry_lab::{Lab, Node};

use crate::{
    Options,
    process::{kilobytes, pss_mb},
    row::Row,
    synced::{Synced, answer_for_all, services},
};

const SERVICES: usize = 10_000;
const QUICK_SERVICES: usize = 500;
const RUNS: usize = 3;
/// Resident megabytes of Kubernetes 1.36's kube-proxy in the same kind of lab, by mode.
const RECORDED: [(f64, &str); 2] =
    [(238.0, "kube-proxy, its leanest mode"), (349.0, "kube-proxy, its fattest mode")];
const MB: f64 = 1024.0 * 1024.0;

/// # Errors
/// When the proxy does not get as far, or the kernel tells nothing of a map.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let lab = Lab::for_test()?;
    let (count, runs) = if options.quick { (QUICK_SERVICES, 1) } else { (SERVICES, RUNS) };
    let services = services(count);
    let _server = answer_for_all(&lab)?;
    let (mut pss, mut peak, mut maps) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        let mut synced = Synced::start(&lab, &format!("n{run}"), &services)?;
        let pid = synced.daemon.pid();
        pss.push(pss_mb(pid)?);
        peak.push(kilobytes(&format!("/proc/{pid}/status"), "VmHWM")? / 1024.0);
        maps.push(map_bytes(pid, &synced.node)? as f64 / MB);
        synced.daemon.kill()?;
    }
    let mut rows = Vec::new();
    for (case, ours) in [("memory (PSS)", &pss), ("resident memory at its highest", &peak)] {
        for (peer, name) in RECORDED {
            let case = format!("{count} services, {case}");
            rows.push(Row::against_recorded("P5", &case, "MB", ours, peer, name).lower_is_better());
        }
    }
    let case = format!("{count} services, kernel memory of the maps");
    rows.push(Row::of_runs("P5", &case, "MB", &maps, &[], "").lower_is_better());
    Ok(rows)
}

/// Bytes of every map that is pinned or that the process holds, each once.
fn map_bytes(pid: u32, node: &Node) -> Result<u64> {
    let mut maps = BTreeMap::new();
    let held = Path::new("/proc").join(pid.to_string()).join("fdinfo");
    for entry in fs::read_dir(&held).with_context(|| format!("read {}", held.display()))?.flatten() {
        // A descriptor that was closed meanwhile.
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        maps.extend(map_in(&text));
    }
    let pins = node.outside(proxy_abi::PIN_ROOT)?.join("maps");
    for entry in fs::read_dir(&pins).with_context(|| format!("read {}", pins.display()))?.flatten() {
        // Whatever is pinned opens by this call.
        let map = Program::open(&entry.path())?;
        let path = format!("/proc/self/fdinfo/{}", map.fd().as_raw_fd());
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        maps.extend([
            map_in(&text).with_context(|| format!("{}: no size in {text}", entry.path().display()))?
        ]);
    }
    Ok(maps.values().sum())
}

/// Number and bytes of the map that a descriptor is of (`map_id` and `memlock`, Linux 6.4 on counted by what
/// is allocated).
fn map_in(fdinfo: &str) -> Option<(u32, u64)> {
    let field =
        |name: &str| fdinfo.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    Some((u32::try_from(field("map_id:")?).ok()?, field("memlock:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maps_size_is_read_and_other_descriptors_have_none() {
        let map = "pos:\t0\nmap_type:\t1\nmax_entries:\t16\nmemlock:\t2048\nmap_id:\t77\nfrozen:\t0\n";
        assert_eq!(map_in(map), Some((77, 2048)));
        assert_eq!(map_in("pos:\t0\nprog_id:\t3\nmemlock:\t4096\n"), None);
    }
}
