//! How large the maps of services are to be. They are made anew, larger, as an upgrade makes them: what is
//! attached goes on by the old ones until the new ones are filled.

use bytemuck::Pod;
use proxy_abi::{Frontend, FrontendKey, MAPS, Member, Slot, SourceRangeKey, map};
use proxy_state::{Demand, Limits};
use skerry_kernel::{Error, Map, MapSpec, pinned_map_info};

use crate::{
    config::MapSizes,
    programs::pins::{Pins, PinsError},
};

/// Larger maps could not be had: the old ones stay.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnlargeError {
    #[error(transparent)]
    Pins(#[from] PinsError),
    #[error(transparent)]
    Map(#[from] Error),
}

/// The sizes to ask for when this is wanted, or `None`: it fits, or was asked for already, or takes more than
/// `max_bytes`.
pub(crate) fn larger(demand: &Demand, now: &Limits, asked: &MapSizes, max_bytes: u64) -> Option<MapSizes> {
    let size = |demand: u64, now: u32, asked: u32| {
        // A quarter more, so that the next Service finds room.
        let wanted = (demand + demand / 4).next_power_of_two().try_into().unwrap_or(u32::MAX);
        if demand > u64::from(now) { wanted } else { now.max(asked) }
    };
    let sizes = MapSizes {
        frontends: size(demand.frontends, now.frontends, asked.frontends),
        slots: size(demand.slots, now.slots, asked.slots),
        members: size(demand.members, now.members, asked.members),
        source_ranges: size(demand.source_ranges, now.source_ranges, asked.source_ranges),
        ..*asked
    };
    let is_larger = tables(&sizes).iter().zip(tables(asked)).any(|((_, new), (_, old))| *new > old)
        && tables(&sizes).iter().zip(limits(now)).any(|((_, new), now)| *new > now);
    if !is_larger {
        return None;
    }
    let bytes = bytes(&sizes);
    if bytes > max_bytes {
        tracing::error!(
            bytes,
            max_bytes,
            "the maps that all Services need take more than an eighth of the memory: not all are served"
        );
        return None;
    }
    Some(sizes)
}

/// Makes the maps of services anew where one is smaller than it should be, all of them: frontends and the
/// slots that they point to belong together. True if so. What is attached keeps the old ones.
pub(crate) fn enlarge(pins: &Pins, sizes: &MapSizes) -> Result<bool, EnlargeError> {
    let fresh = |name: &str| pins.map(&format!("{name}-new"));
    // Killed between the first and the last of them: the rest follows, or frontends would point into other
    // slots.
    let names = tables(sizes).map(|(name, _)| name);
    if !fresh(names[0]).exists() && fresh(map::FRONTENDS).exists() {
        for name in names.into_iter().filter(|name| fresh(name).exists()) {
            pins.replace(&fresh(name), &pins.map(name))?;
        }
        return Ok(true);
    }
    let mut is_smaller = false;
    let mut made = Vec::new();
    for (name, wanted) in tables(sizes) {
        let path = pins.map(name);
        if !path.exists() {
            return Ok(false);
        }
        let info = pinned_map_info(&path)?;
        is_smaller |= info.max_entries < wanted;
        made.push((name, info.map_type, info.flags, info.max_entries.max(wanted)));
    }
    if !is_smaller {
        return Ok(false);
    }
    for (name, map_type, flags, max_entries) in &made {
        pins.remove(&fresh(name))?;
        let spec = MapSpec { name, map_type: *map_type, max_entries: *max_entries, flags: *flags };
        let path = fresh(name);
        let pinned = match *name {
            map::FRONTENDS => pin::<FrontendKey, Frontend>(&spec, &path),
            map::SLOTS => pin::<u32, Slot>(&spec, &path),
            map::MEMBERS => pin::<Member, u32>(&spec, &path),
            _ => pin::<SourceRangeKey, u32>(&spec, &path),
        };
        if let Err(error) = pinned {
            made.iter().try_for_each(|(name, ..)| pins.remove(&fresh(name)))?;
            return Err(error.into());
        }
    }
    for (name, _, _, max_entries) in &made {
        pins.replace(&fresh(name), &pins.map(name))?;
        tracing::info!(name, max_entries, "map made anew, larger");
    }
    Ok(true)
}

fn pin<K: Pod, V: Pod>(spec: &MapSpec<'_>, path: &std::path::Path) -> Result<(), Error> {
    Map::<K, V>::create(spec)?.pin(path)
}

/// The maps that say what Services there are: frontends point into the slots, and name the others' entries by
/// number. They are changed together, or programs of another version would see elements of theirs given to
/// somebody else.
pub(crate) const OF_SERVICES: [&str; 4] = [map::SOURCE_RANGES, map::MEMBERS, map::SLOTS, map::FRONTENDS];

/// In the order in which they are put in place: the frontends last, so that whoever finds the old ones finds
/// all old.
fn tables(sizes: &MapSizes) -> [(&'static str, u32); 4] {
    let sizes = [sizes.source_ranges, sizes.members, sizes.slots, sizes.frontends];
    std::array::from_fn(|index| (OF_SERVICES[index], sizes[index]))
}

fn limits(now: &Limits) -> [u32; 4] {
    [now.source_ranges, now.members, now.slots, now.frontends]
}

/// What the kernel allocates for them, about: a hash element has 48 bytes of its own and a bucket of 16.
fn bytes(sizes: &MapSizes) -> u64 {
    tables(sizes).iter().map(|(name, size)| u64::from(*size) * element_bytes(name)).sum()
}

/// Of one element of a map, with what the kernel needs beside it.
pub(crate) fn element_bytes(name: &str) -> u64 {
    let Some(spec) = MAPS.iter().find(|spec| spec.name == name) else { return 0 };
    let content = u64::from(spec.key_size.next_multiple_of(8) + spec.value_size.next_multiple_of(8));
    if name == map::SLOTS { content } else { content + 64 }
}

/// An eighth of the machine's memory; 64 MiB where that can't be read.
pub(crate) fn default_max_bytes() -> u64 {
    memory_bytes().map_or(64 << 20, |bytes| bytes / 8)
}

/// Entries of flows, two a connection: what a sixteenth of the machine's memory holds, within bounds. Memory
/// is taken only for those that there are.
pub(crate) fn default_flows() -> u32 {
    const BOUNDS: (u64, u64) = (65_536, 524_288);
    let room = memory_bytes().unwrap_or(0) / 16 / element_bytes(map::FLOWS);
    1 << room.clamp(BOUNDS.0, BOUNDS.1).ilog2()
}

fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const NOW: Limits = Limits {
        frontends: 65_536,
        slots: 262_144,
        members: 65_536,
        source_ranges: 16_384,
        pod_cidrs: 16_384,
        tunnel_peers: 16_384,
        grace_ms: 1000,
        ids_until: 0,
    };

    #[test]
    fn what_fits_is_left_alone_and_what_does_not_gets_a_quarter_more() {
        let asked = Config::new("n").map_sizes;
        let fits = Demand { frontends: 65_536, slots: 262_144, members: 1, source_ranges: 0 };
        assert_eq!(larger(&fits, &NOW, &asked, u64::MAX), None);
        let more = Demand { frontends: 65_537, slots: 344_064, ..fits };
        let sizes = larger(&more, &NOW, &asked, u64::MAX).unwrap();
        assert_eq!((sizes.frontends, sizes.slots, sizes.members), (131_072, 524_288, 65_536));
        assert_eq!(larger(&more, &NOW, &sizes, u64::MAX), None, "asked for, and not had");
        assert_eq!(larger(&more, &NOW, &asked, 1 << 20), None, "more than memory allows");
    }

    /// Real maps; removed with their value.
    struct Folder(Pins);

    impl Folder {
        fn new(name: &str) -> Folder {
            let pins = Pins::new(&std::path::PathBuf::from(format!(
                "/sys/fs/bpf/skerry-capacity-{}-{name}",
                std::process::id()
            )));
            pins.prepare().unwrap();
            Folder(pins)
        }

        fn make(&self, pin_name: &str, name: &str, max_entries: u32) {
            const HASH: u32 = 1;
            let spec = MapSpec { name, map_type: HASH, max_entries, flags: 0 };
            pin::<FrontendKey, Frontend>(&spec, &self.0.map(pin_name)).unwrap();
        }

        fn sizes(&self) -> Vec<u32> {
            let names = tables(&Config::new("n").map_sizes).map(|(name, _)| name);
            names.iter().map(|name| pinned_map_info(&self.0.map(name)).unwrap().max_entries).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            if let Err(error) = std::fs::remove_dir_all(self.0.root()) {
                eprintln!("{}: {error}", self.0.root().display());
            }
        }
    }

    #[test]
    fn a_change_of_maps_that_was_cut_off_is_finished_and_one_that_had_not_begun_is_not() {
        let small =
            MapSizes { frontends: 1, slots: 1, members: 1, source_ranges: 1, ..Config::new("n").map_sizes };
        let names = tables(&small).map(|(name, _)| name);
        for replaced in 0..=names.len() {
            let folder = Folder::new(&replaced.to_string());
            for (index, name) in names.into_iter().enumerate() {
                folder.make(name, name, if index < replaced { 64 } else { 16 });
                if index >= replaced {
                    folder.make(&format!("{name}-new"), name, 64);
                }
            }
            let finished = enlarge(&folder.0, &small).unwrap();
            let all = if replaced == 0 { 16 } else { 64 };
            assert_eq!(folder.sizes(), [all; 4], "{replaced} were in place");
            assert_eq!(finished, (1..names.len()).contains(&replaced), "{replaced} were in place");
        }
    }

    #[test]
    fn sizes_in_memory_are_about_the_kernels() {
        assert_eq!((element_bytes(map::SLOTS), element_bytes("no such map")), (40, 0));
        assert!(bytes(&Config::new("n").map_sizes) < 32 << 20);
    }
}
