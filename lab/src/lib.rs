//! Several nodes on one machine: network namespaces, containerd, images, faults. Tests, benches and `xtask lab` use it.

mod netns;
mod skip;

pub use netns::{Netns, NetnsError};
pub use skip::{SKIPS, skipped};
