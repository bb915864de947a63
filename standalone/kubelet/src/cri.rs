//! The container runtime, reached over CRI v1 on a unix socket, and containerd's own event stream.
//!
//! containerd 1.6 does not implement `GetContainerEvents`; its `containerd.services.events.v1` stream on the
//! same socket tells of exits instead ([`events`]).

mod client;
mod error;
pub mod events;
mod state;

pub use client::{Cri, ListedPod, RuntimeSetup};
pub use error::CriError;
pub use state::{ContainerPhase, ContainerRecord, PodRuntime, SandboxRecord};

/// Labels and annotations that every CRI client for Kubernetes writes, so that a restarted agent finds its
/// pods again.
pub mod labels {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
    /// The node whose agent made the sandbox. Pods without it are somebody else's and are left alone.
    pub const NODE: &str = "skerry.io/node";
    /// The pod's cgroup, which the agent removes at its end.
    pub const CGROUP: &str = "skerry.io/cgroup";
    /// Where the agent put the file that the container sees as its termination message.
    pub const TERMINATION_MESSAGE_FILE: &str = "skerry.io/termination-message-file";
}
