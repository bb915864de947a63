//! Several nodes on one machine: network namespaces, containerd, images, faults. Tests, benches and `xtask lab` use it.

mod netns;

pub use netns::{Netns, NetnsError};
