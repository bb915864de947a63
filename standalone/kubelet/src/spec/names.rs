use std::{fmt, hash::Hasher, path::PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};

/// Which pod; upstream's texts show it as `name_namespace(uid)`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl PodId {
    pub fn of(pod: &Pod) -> PodId {
        PodId {
            namespace: pod.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        }
    }

    /// `NAMESPACE_NAME_UID`: the pod's folder of logs.
    pub fn log_folder(&self) -> PathBuf {
        PathBuf::from(format!("{}_{}_{}", self.namespace, self.name, self.uid))
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}({})", self.name, self.namespace, self.uid)
    }
}

/// Hash of what decides how a container runs: a running one whose hash differs is made anew. Only the image
/// can be changed in a live pod, so that and the name are what counts (a wider hash would restart everything
/// after an upgrade).
pub fn spec_hash(container: &Container) -> String {
    let mut hasher = Fnv1a::default();
    hasher.write(container.name.as_bytes());
    hasher.write(&[0]);
    hasher.write(container.image.as_deref().unwrap_or_default().as_bytes());
    format!("{:x}", hasher.finish())
}

/// FNV-1a, 64 bits: the same in every build, unlike the standard library's hasher.
struct Fnv1a(u64);

impl Default for Fnv1a {
    fn default() -> Fnv1a {
        Fnv1a(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv1a {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
