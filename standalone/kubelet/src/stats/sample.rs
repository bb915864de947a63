//! One look at all counters.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use tokio::time::Instant;

use super::{
    cgroup::{Counters, Trees},
    network::{self, Interface},
};
use crate::{
    cgroups,
    spec::{PodId, sandbox::cgroup_parent},
};

/// What one look found.
#[derive(Clone, Debug)]
pub struct Sample {
    pub at: Timestamp,
    /// The same moment on a clock that nobody sets.
    pub clock: Instant,
    pub node: Counters,
    pub interfaces: Option<Vec<Interface>>,
    pub pods: Vec<PodSample>,
}

#[derive(Clone, Debug)]
pub struct PodSample {
    pub id: PodId,
    pub started: Option<Timestamp>,
    /// The pod's own cgroup: its containers and its sandbox.
    pub whole: Counters,
    pub processes: Option<u64>,
    /// `None` on the host's network.
    pub interfaces: Option<Vec<Interface>>,
    pub containers: Vec<ContainerSample>,
}

/// A running container.
#[derive(Clone, Debug)]
pub struct ContainerSample {
    pub name: String,
    pub id: String,
    pub image: String,
    pub started: Timestamp,
    pub counters: Counters,
}

/// What there is to look at.
pub struct Targets {
    pub node: PathBuf,
    pub pods: Vec<PodTarget>,
}

pub struct PodTarget {
    id: PodId,
    started: Option<Timestamp>,
    cgroup: PathBuf,
    host_network: bool,
    containers: Vec<ContainerTarget>,
}

struct ContainerTarget {
    name: String,
    id: String,
    image: String,
    started: Timestamp,
    cgroup: PathBuf,
}

impl PodTarget {
    /// A pod of which a container runs, by the status that the node itself has worked out.
    pub fn of(pod: &Pod, status: &PodStatus, parent: &str, systemd: bool) -> Option<PodTarget> {
        let cgroup = cgroups::folder(&cgroup_parent(pod, parent, systemd));
        let all = [
            &status.container_statuses,
            &status.init_container_statuses,
            &status.ephemeral_container_statuses,
        ];
        let container = |status: &ContainerStatus| {
            let started = status.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0;
            let (_, id) = status.container_id.as_deref()?.split_once("://")?;
            Some(ContainerTarget {
                name: status.name.clone(),
                id: id.to_owned(),
                image: status.image.clone(),
                started,
                cgroup: cgroups::container(&cgroup, id, systemd),
            })
        };
        let containers: Vec<ContainerTarget> =
            all.into_iter().flatten().flatten().filter_map(container).collect();
        (!containers.is_empty()).then(|| PodTarget {
            id: PodId::of(pod),
            started: status.start_time.as_ref().map(|time| time.0),
            host_network: pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)),
            cgroup,
            containers,
        })
    }

    fn look(&self, trees: &Trees) -> PodSample {
        let process = || self.containers.iter().find_map(|container| trees.process(&container.cgroup));
        PodSample {
            id: self.id.clone(),
            started: self.started,
            whole: trees.counters(&self.cgroup),
            processes: trees.processes(&self.cgroup),
            interfaces: if self.host_network { None } else { process().and_then(network::interfaces) },
            containers: self.containers.iter().map(|container| container.look(trees)).collect(),
        }
    }
}

impl ContainerTarget {
    fn look(&self, trees: &Trees) -> ContainerSample {
        ContainerSample {
            name: self.name.clone(),
            id: self.id.clone(),
            image: self.image.clone(),
            started: self.started,
            counters: trees.counters(&self.cgroup),
        }
    }
}

impl Targets {
    pub fn new(cgroup_parent: &str, pods: Vec<PodTarget>) -> Targets {
        Targets { node: Path::new(cgroup_parent.trim_matches('/')).to_owned(), pods }
    }

    /// Reads everything; blocks.
    pub fn look(&self, clock: Instant) -> Sample {
        let trees = Trees::mounted();
        Sample {
            at: Timestamp::now(),
            clock,
            node: trees.counters_of_node(&self.node),
            interfaces: network::of_node(),
            pods: self.pods.iter().map(|pod| pod.look(&trees)).collect(),
        }
    }
}
