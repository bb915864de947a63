use std::{
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use bytemuck::{Pod, Zeroable};

use crate::{
    Error,
    sys::{self, Command, RawMap},
};

/// A map whose keys are `K` and whose values are `V`. Opening it compares both sizes with the kernel's.
#[derive(Debug)]
pub struct Map<K, V> {
    pub(crate) raw: RawMap,
    pub(crate) name: String,
    info: MapInfo,
    types: PhantomData<fn(K) -> V>,
}

/// What to create; sizes come from the types.
#[derive(Clone, Copy, Debug)]
pub struct MapSpec<'a> {
    /// At most 15 bytes are kept.
    pub name: &'a str,
    /// One of [`map_type`].
    pub map_type: u32,
    pub max_entries: u32,
    /// `BPF_F_…` of map creation, e.g. [`map_type::NO_PREALLOC`].
    pub flags: u32,
}

/// `enum bpf_map_type` of `linux/bpf.h`, as far as it is used here.
pub mod map_type {
    pub const HASH: u32 = 1;
    pub const ARRAY: u32 = 2;
    pub const PERCPU_HASH: u32 = 5;
    pub const PERCPU_ARRAY: u32 = 6;
    pub const LRU_HASH: u32 = 9;
    pub const LRU_PERCPU_HASH: u32 = 10;
    pub const LPM_TRIE: u32 = 11;
    pub(crate) const PERCPU_CGROUP_STORAGE: u32 = 21;
    /// `BPF_F_NO_PREALLOC`; required for an LPM trie.
    pub const NO_PREALLOC: u32 = 1;
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct MapInfo {
    pub map_type: u32,
    pub id: u32,
    /// Bytes.
    pub key_size: u32,
    /// Bytes, of one CPU's value in a per-CPU map.
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
    /// NUL-padded.
    pub name: [u8; 16],
}

impl MapInfo {
    fn per_cpu(&self) -> bool {
        matches!(
            self.map_type,
            map_type::PERCPU_HASH
                | map_type::PERCPU_ARRAY
                | map_type::LRU_PERCPU_HASH
                | map_type::PERCPU_CGROUP_STORAGE
        )
    }
}

/// When an update may happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Update {
    Any = 0,
    /// Only if the key is not there yet (`BPF_NOEXIST`).
    Insert = 1,
    /// Only if it is (`BPF_EXIST`).
    Replace = 2,
}

pub(crate) fn short_name(name: &str) -> [u8; 16] {
    let mut short = [0; 16];
    for (to, from) in short.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    short
}

fn create(spec: &MapSpec<'_>, key_size: usize, value_size: usize) -> Result<OwnedFd, Error> {
    let mut attribute = sys::MapCreate {
        map_type: spec.map_type,
        key_size: key_size as u32,
        value_size: value_size as u32,
        max_entries: spec.max_entries,
        flags: spec.flags,
        name: short_name(spec.name),
        ..Zeroable::zeroed()
    };
    sys::plain_fd(Command::MapCreate, &mut attribute).map_err(|e| Error::system("create map", spec.name, e))
}

fn checked_info<K, V>(fd: BorrowedFd<'_>, name: &str, per_cpu: bool) -> Result<MapInfo, Error> {
    let info: MapInfo = sys::info(fd).map_err(|e| Error::system("ask about map", name, e))?;
    if info.per_cpu() != per_cpu {
        return Err(Error::Kind { map: name.to_owned(), per_cpu: info.per_cpu() });
    }
    for (part, found, expected) in
        [("the key", info.key_size, size_of::<K>()), ("the value", info.value_size, size_of::<V>())]
    {
        if found as usize != expected {
            return Err(Error::Layout { map: name.to_owned(), part, found, expected });
        }
    }
    Ok(info)
}

/// What the kernel says of the map pinned at `path`, whatever its layout.
pub fn pinned_map_info(path: &Path) -> Result<MapInfo, Error> {
    let name = path.display();
    let fd = sys::get(path).map_err(|e| Error::system("open pinned map", &name, e))?;
    sys::info(fd.as_fd()).map_err(|e| Error::system("ask about map", &name, e))
}

fn pin(fd: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    sys::pin(fd, path).map_err(|e| Error::system("pin map at", path.display(), e))
}

impl<K: Pod, V: Pod> Map<K, V> {
    pub fn create(spec: &MapSpec<'_>) -> Result<Map<K, V>, Error> {
        Map::from_fd(create(spec, size_of::<K>(), size_of::<V>())?, spec.name)
    }

    /// The map pinned at `path`.
    pub fn open(path: &Path) -> Result<Map<K, V>, Error> {
        let name = path.display().to_string();
        let fd = sys::get(path).map_err(|e| Error::system("open pinned map", &name, e))?;
        Map::from_fd(fd, &name)
    }

    /// The map with this kernel-wide number.
    pub fn by_id(id: u32) -> Result<Map<K, V>, Error> {
        let fd = sys::plain_fd(Command::MapFdById, &mut sys::ById { id, next_id: 0, open_flags: 0 })
            .map_err(|e| Error::system("open map with id", id, e))?;
        Map::from_fd(fd, &format!("#{id}"))
    }

    /// A map that somebody else opened; `name` is for error texts.
    pub fn from_fd(fd: OwnedFd, name: &str) -> Result<Map<K, V>, Error> {
        let info = checked_info::<K, V>(fd.as_fd(), name, false)?;
        let raw = RawMap::new(fd, size_of::<K>(), size_of::<V>());
        Ok(Map { raw, name: name.to_owned(), info, types: PhantomData })
    }

    pub fn pin(&self, path: &Path) -> Result<(), Error> {
        pin(self.raw.fd(), path)
    }

    pub fn info(&self) -> &MapInfo {
        &self.info
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.raw.fd()
    }

    /// `None`: no such key.
    pub fn lookup(&self, key: &K) -> Result<Option<V>, Error> {
        let mut value = V::zeroed();
        match self.raw.lookup(bytemuck::bytes_of(key), bytemuck::bytes_of_mut(&mut value)) {
            Ok(()) => Ok(Some(value)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(self.error("look up in map", e)),
        }
    }

    /// [`Error::is_full`], [`Error::is_exists`] and [`Error::is_not_found`] tell the usual refusals apart.
    pub fn update(&self, key: &K, value: &V, when: Update) -> Result<(), Error> {
        self.raw
            .update(bytemuck::bytes_of(key), bytemuck::bytes_of(value), when as u64)
            .map_err(|e| self.error("update map", e))
    }

    /// `false`: it was not there.
    pub fn delete(&self, key: &K) -> Result<bool, Error> {
        match self.raw.delete(bytemuck::bytes_of(key)) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(self.error("delete from map", e)),
        }
    }

    /// The key after `key`, or the first one. A key that is gone meanwhile starts a hash map over: bound the
    /// walk, as [`Map::entries`] does.
    pub fn next_key(&self, key: Option<&K>) -> Result<Option<K>, Error> {
        let mut next = K::zeroed();
        match self.raw.next_key(key.map(bytemuck::bytes_of), bytemuck::bytes_of_mut(&mut next)) {
            Ok(()) => Ok(Some(next)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(self.error("walk map", e)),
        }
    }

    pub(crate) fn error(&self, operation: &'static str, source: std::io::Error) -> Error {
        Error::system(operation, &self.name, source)
    }
}

/// A map that keeps one value for each possible CPU.
#[derive(Debug)]
pub struct PerCpuMap<K, V> {
    raw: RawMap,
    name: String,
    cpus: usize,
    info: MapInfo,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Pod, V: Pod> PerCpuMap<K, V> {
    pub fn create(spec: &MapSpec<'_>) -> Result<PerCpuMap<K, V>, Error> {
        PerCpuMap::from_fd(create(spec, size_of::<K>(), size_of::<V>())?, spec.name)
    }

    /// The map pinned at `path`.
    pub fn open(path: &Path) -> Result<PerCpuMap<K, V>, Error> {
        let name = path.display().to_string();
        let fd = sys::get(path).map_err(|e| Error::system("open pinned map", &name, e))?;
        PerCpuMap::from_fd(fd, &name)
    }

    /// As [`Map::from_fd`].
    pub fn from_fd(fd: OwnedFd, name: &str) -> Result<PerCpuMap<K, V>, Error> {
        let info = checked_info::<K, V>(fd.as_fd(), name, true)?;
        let cpus = possible_cpus()?;
        let raw = RawMap::new(fd, size_of::<K>(), stride::<V>() * cpus);
        Ok(PerCpuMap { raw, name: name.to_owned(), cpus, info, types: PhantomData })
    }

    pub fn pin(&self, path: &Path) -> Result<(), Error> {
        pin(self.raw.fd(), path)
    }

    pub fn info(&self) -> &MapInfo {
        &self.info
    }

    /// One value for each possible CPU; `None`: no such key.
    pub fn lookup(&self, key: &K) -> Result<Option<Vec<V>>, Error> {
        let mut bytes = vec![0; stride::<V>() * self.cpus];
        match self.raw.lookup(bytemuck::bytes_of(key), &mut bytes) {
            Ok(()) => Ok(Some(
                bytes
                    .chunks_exact(stride::<V>())
                    .map(|cpu| bytemuck::pod_read_unaligned(&cpu[..size_of::<V>()]))
                    .collect(),
            )),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(Error::system("look up in map", &self.name, e)),
        }
    }

    /// Writes the same value for every CPU.
    pub fn fill(&self, key: &K, value: &V) -> Result<(), Error> {
        let mut bytes = vec![0; stride::<V>() * self.cpus];
        for cpu in bytes.chunks_exact_mut(stride::<V>()) {
            cpu[..size_of::<V>()].copy_from_slice(bytemuck::bytes_of(value));
        }
        self.raw
            .update(bytemuck::bytes_of(key), &bytes, Update::Any as u64)
            .map_err(|e| Error::system("update map", &self.name, e))
    }
}

/// The kernel lays per-CPU values out in steps of eight bytes.
fn stride<V>() -> usize {
    size_of::<V>().next_multiple_of(8)
}

fn possible_cpus() -> Result<usize, Error> {
    const PATH: &str = "/sys/devices/system/cpu/possible";
    let text = std::fs::read_to_string(PATH).map_err(|e| Error::system("read", PATH, e))?;
    count_cpus(&text).ok_or(Error::Cpus { text })
}

/// `0-3,8` is five.
fn count_cpus(list: &str) -> Option<usize> {
    list.trim().split(',').try_fold(0, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(sum + (last.parse::<usize>().ok()? + 1).checked_sub(first.parse::<usize>().ok()?)?)
    })
}

#[cfg(test)]
mod tests {
    use super::count_cpus;

    #[test]
    fn cpu_lists_are_counted() {
        for (list, count) in
            [("0\n", Some(1)), ("0-1\n", Some(2)), ("0-3,8\n", Some(5)), ("", None), ("3-1", None)]
        {
            assert_eq!(count_cpus(list), count, "{list:?}");
        }
    }
}
