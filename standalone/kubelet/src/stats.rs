//! What the node and its pods use of the machine: read from cgroups, /proc and file systems when somebody
//! asks. Nothing is read while nobody does.
//!
//! [`Sampler`] takes a [`Sample`] of counters and makes a [`Reading`] of two of them ([`reading`], pure);
//! `summary`, `usage` and the `exposition`s are forms that a reading is told in.

mod cgroup;
mod disk;
mod exposition;
mod forms;
mod network;
mod own;
mod reading;
mod resource;
mod sample;
mod sampler;
mod storage;
mod summary;
mod usage;

#[cfg(test)]
mod fixture;

pub use disk::Used;
pub use exposition::MEDIA_TYPE;
pub use own::text as own_metrics;
pub use reading::Reading;
pub use resource::{container_metrics, resource_metrics};
pub use sample::{PodTarget, Sample, Targets};
pub use sampler::Sampler;
pub use storage::Storage;
pub use summary::summary;
pub use usage::usage;
