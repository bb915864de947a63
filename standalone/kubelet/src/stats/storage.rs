//! What pods use of the node's disk: written layers, logs, volumes. Read apart from the counters, since it
//! costs a walk.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use k8s_cri::v1;
use k8s_openapi::api::core::v1::{Pod, Volume};

use super::disk::{self, FileSystem, Used};
use crate::{agent::Agent, spec::PodId, volumes};

/// The node's file systems and what its pods have in them.
#[derive(Debug, Default)]
pub struct Storage {
    /// The file system of the agent's own folder: volumes and logs.
    pub node: Option<FileSystem>,
    pub images: Option<(FileSystem, Used)>,
    /// By uid.
    pub pods: HashMap<String, PodStorage>,
    /// What containers have written beside their volumes, by id.
    pub layers: HashMap<String, Used>,
}

#[derive(Debug, Default)]
pub struct PodStorage {
    /// By container.
    pub logs: HashMap<String, Used>,
    pub volumes: Vec<VolumeStorage>,
}

#[derive(Debug)]
pub struct VolumeStorage {
    pub name: String,
    pub claim: Option<String>,
    pub file_system: FileSystem,
    pub used: Used,
    /// It lies on the node's disk and goes with the pod.
    pub ephemeral: bool,
}

/// Where one pod's things lie.
struct Places {
    uid: String,
    logs: Vec<(String, PathBuf)>,
    volumes: Vec<(Volume, PathBuf)>,
}

impl Storage {
    /// What can't be read is left out.
    pub async fn read(agent: &Arc<Agent>) -> Storage {
        let layers = agent.cri.written_layers().await.unwrap_or_default();
        let images = agent.cri.image_file_system().await.ok().flatten();
        let root = agent.config.root_dir.clone();
        let places: Vec<Places> = agent.pods().iter().map(|(pod, _)| places(agent, pod)).collect();
        let read = tokio::task::spawn_blocking(move || Storage {
            node: disk::file_system(&root),
            images: images.and_then(of_images),
            pods: places.iter().map(|places| (places.uid.clone(), places.read())).collect(),
            layers,
        });
        read.await.unwrap_or_default()
    }
}

fn places(agent: &Agent, pod: &Pod) -> Places {
    let id = PodId::of(pod);
    let folder = agent.config.pod_log_dir.join(id.log_folder());
    let spec = pod.spec.as_ref();
    let names = spec.into_iter().flat_map(|spec| {
        let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| &container.name);
        let others = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        others.map(|container| &container.name).chain(ephemeral)
    });
    let logs = names.map(|name| (name.clone(), folder.join(name))).collect();
    let volumes = spec.into_iter().flat_map(|spec| spec.volumes.iter().flatten());
    // What lies elsewhere on the node is not the pod's.
    let own = volumes.filter(|volume| volume.host_path.is_none());
    let own =
        own.filter_map(|volume| Some((volume.clone(), volumes::path(&agent.config.root_dir, pod, volume)?)));
    Places { uid: id.uid, logs, volumes: own.collect() }
}

impl Places {
    fn read(&self) -> PodStorage {
        let logs = self.logs.iter().filter_map(|(name, folder)| Some((name.clone(), disk::used(folder)?)));
        let volumes = self.volumes.iter().filter_map(|(volume, path)| {
            let in_memory =
                volume.empty_dir.as_ref().is_some_and(|dir| dir.medium.as_deref() == Some("Memory"));
            let claim = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone());
            Some(VolumeStorage {
                name: volume.name.clone(),
                ephemeral: claim.is_none() && !in_memory,
                claim,
                file_system: disk::file_system(path)?,
                used: disk::used(path)?,
            })
        });
        PodStorage { logs: logs.collect(), volumes: volumes.collect() }
    }
}

impl PodStorage {
    /// All that goes with the pod and lies on the disk.
    pub fn ephemeral(&self) -> Used {
        let volumes = self.volumes.iter().filter(|volume| volume.ephemeral).map(|volume| volume.used);
        self.logs.values().copied().chain(volumes).fold(Used::default(), Used::and)
    }
}

fn of_images(usage: v1::FilesystemUsage) -> Option<(FileSystem, Used)> {
    let value = |value: Option<v1::UInt64Value>| value.map_or(0, |value| value.value);
    let used = Used { bytes: value(usage.used_bytes), inodes: value(usage.inodes_used) };
    Some((disk::file_system(usage.fs_id?.mountpoint.as_ref())?, used))
}
