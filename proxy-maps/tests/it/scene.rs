//! Maps of a test's own, pinned in a folder that goes with it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytemuck::Pod;
use skerry_kernel::{Map, MapSpec, map_type, mount_bpffs};

pub struct Scene(PathBuf);

impl Scene {
    pub fn new(name: &str) -> Scene {
        let mount = Path::new("/sys/fs/bpf");
        mount_bpffs(mount).unwrap();
        let folder = mount.join(format!("skerry-maps-{name}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        Scene(folder)
    }

    pub fn folder(&self) -> &Path {
        &self.0
    }

    pub fn hash<K: Pod, V: Pod>(&self, name: &str) -> Map<K, V> {
        self.map(name, map_type::HASH, 0)
    }

    pub fn array<V: Pod>(&self, name: &str) -> Map<u32, V> {
        self.map(name, map_type::ARRAY, 0)
    }

    pub fn trie<K: Pod, V: Pod>(&self, name: &str) -> Map<K, V> {
        // The kernel asks it of tries.
        const BPF_F_NO_PREALLOC: u32 = 1;
        self.map(name, map_type::LPM_TRIE, BPF_F_NO_PREALLOC)
    }

    fn map<K: Pod, V: Pod>(&self, name: &str, map_type: u32, flags: u32) -> Map<K, V> {
        let map = Map::create(&MapSpec { name, map_type, max_entries: 64, flags }).unwrap();
        map.pin(&self.0.join(name)).unwrap();
        map
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
