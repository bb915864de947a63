//! One cgroup's counters, from whichever trees are mounted: version 2, version 1, or both side by side, where
//! the first has the processes and the second the controllers.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::cgroups;

/// What a cgroup has used, as far as its trees tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Processor time so far, nanoseconds.
    pub cpu_ns: Option<u64>,
    pub memory: Option<Memory>,
}

/// Bytes, and faults so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub usage: u64,
    /// Usage less what the kernel can take back at once (inactive pages of files): what upstream evicts and
    /// scales by.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    pub cache: u64,
    pub faults: u64,
    pub major_faults: u64,
    /// `None`: no limit.
    pub limit: Option<u64>,
}

/// All trees that are mounted.
pub struct Trees {
    roots: Vec<PathBuf>,
}

impl Trees {
    pub fn mounted() -> Trees {
        Trees { roots: cgroups::mounted() }
    }

    /// The counters of a cgroup by its path below the roots.
    pub fn counters(&self, cgroup: &Path) -> Counters {
        let files = Files { folders: self.roots.iter().map(|root| root.join(cgroup)).collect() };
        let own = memory(&|name| files.first(name));
        // The root of version 2 has no usage of its own.
        let machine =
            || whole_machine(&files.first("memory.stat")?, &fs::read_to_string("/proc/meminfo").ok()?);
        let is_root = cgroup.as_os_str().is_empty();
        let memory = own.or_else(|| is_root.then(machine).flatten());
        Counters { cpu_ns: cpu(&|name| files.read(name)), memory }
    }

    /// The same of the node's own cgroup. One that no tree has yet, since nothing runs in it, uses nothing.
    pub fn counters_of_node(&self, cgroup: &Path) -> Counters {
        let mut counters = self.counters(cgroup);
        if counters.memory.is_none() && self.count_memory() {
            counters.memory = Some(Memory::default());
        }
        counters
    }

    fn count_memory(&self) -> bool {
        let has = |root: &PathBuf| {
            let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            root.join("memory.usage_in_bytes").exists()
                || controllers.split_whitespace().any(|name| name == "memory")
        };
        self.roots.iter().any(has)
    }

    /// A process of the cgroup.
    pub fn process(&self, cgroup: &Path) -> Option<i32> {
        let lists = self.roots.iter().map(|root| root.join(cgroup).join("cgroup.procs"));
        lists
            .filter_map(|path| fs::read_to_string(path).ok())
            .find_map(|list| list.lines().next()?.parse().ok())
    }

    /// How many processes it has, those below it included.
    pub fn processes(&self, cgroup: &Path) -> Option<u64> {
        let files = Files { folders: self.roots.iter().map(|root| root.join(cgroup)).collect() };
        files.first("pids.current")?.trim().parse().ok()
    }
}

struct Files {
    folders: Vec<PathBuf>,
}

impl Files {
    /// The file's text in every tree that has it.
    fn read(&self, name: &str) -> Vec<String> {
        self.folders.iter().filter_map(|folder| fs::read_to_string(folder.join(name)).ok()).collect()
    }

    fn first(&self, name: &str) -> Option<String> {
        self.folders.iter().find_map(|folder| fs::read_to_string(folder.join(name)).ok())
    }
}

/// `cpu.stat` of version 2 tells microseconds (that of version 1 has other lines), `cpuacct.usage`
/// nanoseconds.
fn cpu(read: &dyn Fn(&str) -> Vec<String>) -> Option<u64> {
    let stats = read("cpu.stat");
    let micros = stats.iter().find_map(|text| line(text, "usage_usec"));
    micros
        .map(|micros| micros.saturating_mul(1000))
        .or_else(|| read("cpuacct.usage").first()?.trim().parse().ok())
}

fn memory(read: &dyn Fn(&str) -> Option<String>) -> Option<Memory> {
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let stat = read("memory.stat").unwrap_or_default();
    if let Some(usage) = number("memory.current") {
        return Some(Memory {
            usage,
            working_set: usage.saturating_sub(line(&stat, "inactive_file").unwrap_or(0)),
            rss: line(&stat, "anon").unwrap_or(0),
            cache: line(&stat, "file").unwrap_or(0),
            faults: line(&stat, "pgfault").unwrap_or(0),
            major_faults: line(&stat, "pgmajfault").unwrap_or(0),
            limit: number("memory.max"),
        });
    }
    let usage = number("memory.usage_in_bytes")?;
    Some(Memory {
        usage,
        working_set: usage.saturating_sub(line(&stat, "total_inactive_file").unwrap_or(0)),
        rss: line(&stat, "total_rss").unwrap_or(0),
        cache: line(&stat, "total_cache").unwrap_or(0),
        faults: line(&stat, "total_pgfault").unwrap_or(0),
        major_faults: line(&stat, "total_pgmajfault").unwrap_or(0),
        // No limit is written as the largest number of pages.
        limit: number("memory.limit_in_bytes").filter(|limit| *limit < i64::MAX as u64 / 4096 * 4096),
    })
}

/// The machine as a whole, from /proc/meminfo and the root's `memory.stat`.
fn whole_machine(stat: &str, meminfo: &str) -> Option<Memory> {
    let kib = |name: &str| line(meminfo, name).map(|kib| kib * 1024);
    let usage = kib("MemTotal:")?.saturating_sub(kib("MemFree:")?);
    let inactive = line(stat, "inactive_file").or_else(|| kib("Inactive(file):")).unwrap_or(0);
    Some(Memory {
        usage,
        working_set: usage.saturating_sub(inactive),
        rss: line(stat, "anon").or_else(|| kib("AnonPages:")).unwrap_or(0),
        cache: line(stat, "file").or_else(|| kib("Cached:")).unwrap_or(0),
        faults: line(stat, "pgfault").unwrap_or(0),
        major_faults: line(stat, "pgmajfault").unwrap_or(0),
        limit: None,
    })
}

/// The number behind a name at the start of a line.
fn line(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn files(list: &[(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
        let files: BTreeMap<&str, &str> = list.iter().copied().collect();
        move |name| files.get(name).map(|text| (*text).to_owned())
    }

    #[test]
    fn both_versions_tell_the_same_of_the_same_memory() {
        let two = files(&[
            ("memory.current", "1000\n"),
            ("memory.stat", "anon 600\nfile 390\ninactive_file 300\npgfault 7\npgmajfault 2\n"),
            ("memory.max", "2000\n"),
        ]);
        let one = files(&[
            ("memory.usage_in_bytes", "1000\n"),
            (
                "memory.stat",
                "rss 1\ninactive_file 1\ntotal_rss 600\ntotal_cache 390\ntotal_inactive_file 300\ntotal_pgfault 7\n\
                 total_pgmajfault 2\n",
            ),
            ("memory.limit_in_bytes", "2000\n"),
        ]);
        let expected = Memory {
            usage: 1000,
            working_set: 700,
            rss: 600,
            cache: 390,
            faults: 7,
            major_faults: 2,
            limit: Some(2000),
        };
        assert_eq!(memory(&two), Some(expected));
        assert_eq!(memory(&one), Some(expected));
        assert_eq!(memory(&files(&[])), None);
    }

    #[test]
    fn what_has_no_limit_says_none() {
        let one = files(&[("memory.usage_in_bytes", "1"), ("memory.limit_in_bytes", "9223372036854771712")]);
        let two = files(&[("memory.current", "1"), ("memory.max", "max")]);
        assert_eq!((memory(&one).unwrap().limit, memory(&two).unwrap().limit), (None, None));
    }

    #[test]
    fn inactive_pages_beyond_the_usage_leave_nothing_and_not_less() {
        let odd = files(&[("memory.current", "10"), ("memory.stat", "inactive_file 20")]);
        assert_eq!(memory(&odd).unwrap().working_set, 0);
    }

    #[test]
    fn processor_time_is_found_where_its_version_has_it() {
        let read = |list: &'static [(&'static str, &'static [&'static str])]| {
            cpu(&move |name| {
                let found = list.iter().find(|(file, _)| *file == name);
                found.into_iter().flat_map(|(_, texts)| *texts).map(|text| (*text).to_owned()).collect()
            })
        };
        // Version 1's file of that name comes first and says nothing of it.
        assert_eq!(read(&[("cpu.stat", &["nr_periods 3\n", "usage_usec 5\nuser_usec 4\n"])]), Some(5000));
        assert_eq!(read(&[("cpu.stat", &["nr_periods 3\n"]), ("cpuacct.usage", &["77\n"])]), Some(77));
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn the_root_of_version_2_is_the_machine() {
        let meminfo =
            "MemTotal: 100 kB\nMemFree: 40 kB\nCached: 30 kB\nInactive(file): 10 kB\nAnonPages: 20 kB\n";
        let whole = whole_machine("", meminfo).unwrap();
        assert_eq!((whole.usage, whole.working_set, whole.rss), (60 << 10, 50 << 10, 20 << 10));
        assert_eq!(whole_machine("inactive_file 1024", meminfo).unwrap().working_set, 59 << 10);
    }
}
