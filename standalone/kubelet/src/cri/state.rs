//! What the runtime holds for one pod, in the agent's own words.

use k8s_cri::v1;

use super::labels;

/// One sandbox of a pod; the newest has the highest `attempt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxRecord {
    pub id: String,
    pub attempt: u32,
    /// Nanoseconds since the Unix epoch.
    pub created_ns: i64,
    pub ready: bool,
    /// The pod's addresses; empty on the host's network and while not known.
    pub ips: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerPhase {
    Created,
    Running,
    Exited,
    Unknown,
}

/// One instance of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRecord {
    pub id: String,
    pub name: String,
    /// The restart count that this instance stands for, from 0.
    pub attempt: u32,
    pub sandbox_id: String,
    pub phase: ContainerPhase,
    /// Nanoseconds since the Unix epoch; 0 while not known.
    pub created_ns: i64,
    pub started_ns: i64,
    pub finished_ns: i64,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub image: String,
    pub image_id: String,
    /// Hash of the container's specification when it was made.
    pub spec_hash: String,
    /// Seconds of grace that the pod had when this was made.
    pub grace_s: Option<i64>,
    pub log_path: String,
    pub termination_file: String,
    pub termination_policy: String,
}

/// Everything the runtime holds for one pod; newest first in both lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRuntime {
    pub sandboxes: Vec<SandboxRecord>,
    pub containers: Vec<ContainerRecord>,
}

impl PodRuntime {
    /// The newest sandbox if it is ready.
    pub fn ready_sandbox(&self) -> Option<&SandboxRecord> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }

    /// The newest instance of a container.
    pub fn latest(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The newest instance before the latest.
    pub fn previous(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().filter(|container| container.name == name).nth(1)
    }

    pub fn container(&self, id: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|container| container.id == id)
    }

    pub fn running(&self) -> impl Iterator<Item = &ContainerRecord> {
        self.containers.iter().filter(|container| container.phase == ContainerPhase::Running)
    }

    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }

    /// Puts a record in, in place of the one with its id.
    pub fn put_container(&mut self, record: ContainerRecord) {
        self.containers.retain(|container| container.id != record.id);
        self.containers.push(record);
        self.sort();
    }

    pub fn put_sandbox(&mut self, record: SandboxRecord) {
        self.sandboxes.retain(|sandbox| sandbox.id != record.id);
        self.sandboxes.push(record);
        self.sort();
    }

    fn sort(&mut self) {
        self.sandboxes.sort_by_key(|sandbox| std::cmp::Reverse((sandbox.attempt, sandbox.created_ns)));
        self.containers.sort_by_key(|container| std::cmp::Reverse((container.attempt, container.created_ns)));
    }
}

impl From<&v1::PodSandbox> for SandboxRecord {
    fn from(sandbox: &v1::PodSandbox) -> SandboxRecord {
        SandboxRecord {
            id: sandbox.id.clone(),
            attempt: sandbox.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
            created_ns: sandbox.created_at,
            ready: sandbox.state == v1::PodSandboxState::SandboxReady as i32,
            ips: Vec::new(),
        }
    }
}

impl From<&v1::PodSandboxStatus> for SandboxRecord {
    fn from(status: &v1::PodSandboxStatus) -> SandboxRecord {
        let ips = status.network.iter().flat_map(|network| {
            std::iter::once(network.ip.clone()).chain(network.additional_ips.iter().map(|ip| ip.ip.clone()))
        });
        SandboxRecord {
            id: status.id.clone(),
            attempt: status.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
            created_ns: status.created_at,
            ready: status.state == v1::PodSandboxState::SandboxReady as i32,
            ips: ips.filter(|ip| !ip.is_empty()).collect(),
        }
    }
}

impl From<i32> for ContainerPhase {
    fn from(state: i32) -> ContainerPhase {
        match v1::ContainerState::try_from(state) {
            Ok(v1::ContainerState::ContainerCreated) => ContainerPhase::Created,
            Ok(v1::ContainerState::ContainerRunning) => ContainerPhase::Running,
            Ok(v1::ContainerState::ContainerExited) => ContainerPhase::Exited,
            Ok(v1::ContainerState::ContainerUnknown) | Err(_) => ContainerPhase::Unknown,
        }
    }
}

impl ContainerRecord {
    /// An instance that was made a moment ago and whose status was not read yet.
    pub fn made(id: &str, name: &str, attempt: u32, sandbox_id: &str) -> ContainerRecord {
        let metadata = v1::ContainerMetadata { name: name.to_owned(), attempt };
        let status =
            v1::ContainerStatus { id: id.to_owned(), metadata: Some(metadata), ..Default::default() };
        ContainerRecord::from_status(&status, sandbox_id)
    }

    /// From `ContainerStatus`, which does not name the sandbox.
    pub fn from_status(status: &v1::ContainerStatus, sandbox_id: &str) -> ContainerRecord {
        let annotation = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
        let metadata = status.metadata.clone().unwrap_or_default();
        ContainerRecord {
            id: status.id.clone(),
            name: metadata.name,
            attempt: metadata.attempt,
            sandbox_id: sandbox_id.to_owned(),
            phase: status.state.into(),
            created_ns: status.created_at,
            started_ns: status.started_at,
            finished_ns: status.finished_at,
            exit_code: status.exit_code,
            reason: status.reason.clone(),
            message: status.message.clone(),
            image: status.image.as_ref().map(|image| image.image.clone()).unwrap_or_default(),
            image_id: status.image_ref.clone(),
            spec_hash: annotation(labels::CONTAINER_HASH),
            grace_s: annotation(labels::GRACE_PERIOD).parse().ok(),
            log_path: status.log_path.clone(),
            termination_file: annotation(labels::TERMINATION_MESSAGE_FILE),
            termination_policy: annotation(labels::TERMINATION_MESSAGE_POLICY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn record(name: &str, attempt: u32, created_ns: i64) -> ContainerRecord {
        let status = v1::ContainerStatus {
            id: format!("{name}-{attempt}-{created_ns}"),
            metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt }),
            created_at: created_ns,
            ..Default::default()
        };
        ContainerRecord::from_status(&status, "s")
    }

    #[test]
    fn the_latest_instance_is_the_one_with_the_highest_attempt() {
        let mut runtime = PodRuntime::default();
        for (attempt, created_ns) in [(1, 20), (0, 10), (2, 30)] {
            runtime.put_container(record("a", attempt, created_ns));
        }
        assert_eq!(runtime.latest("a").unwrap().attempt, 2);
        assert_eq!(runtime.previous("a").unwrap().attempt, 1);
        assert!(runtime.latest("b").is_none());
    }

    #[test]
    fn a_record_with_the_same_id_takes_the_others_place() {
        let mut runtime = PodRuntime::default();
        runtime.put_container(record("a", 0, 10));
        runtime.put_container(ContainerRecord { phase: ContainerPhase::Exited, ..record("a", 0, 10) });
        assert_eq!(runtime.containers.len(), 1);
        assert_eq!(runtime.latest("a").unwrap().phase, ContainerPhase::Exited);
    }
}
