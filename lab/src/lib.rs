//! Several nodes on one machine: network namespaces, containerd, images, faults. Tests, benches and `xtask
//! lab` use it.
//!
//! A node has a network namespace with a cable to the lab's bridge, a mount namespace in which `/run`,
//! `/var/lib`, `/var/log`, `/opt`, `/etc` and `/sys/fs/bpf` are its own, a host name, a cgroup, and a
//! containerd. Nothing of the machine's is changed but for one interface of ours, through which a shell
//! reaches the nodes.

mod archive;
mod cgroup;
pub mod cluster;
mod command;
pub mod containerd;
mod daemon;
pub mod debian;
pub mod host;
pub mod images;
pub mod kubectl;
mod lab;
mod netns;
mod network;
mod node;
pub mod paths;
mod skip;
mod subnet;
mod tool;

pub use archive::Recipe;
pub use cgroup::{Cgroup, v2_mount};
pub use cluster::Cluster;
pub use command::{output, run, shown};
pub use daemon::{Daemon, tail};
pub use images::Image;
pub use kubectl::Kubectl;
pub use lab::{KEEP, Lab, end, has_program, names};
pub use netns::{Netns, NetnsError};
pub use node::Node;
pub use skip::{SKIPS, skipped};
pub use subnet::Subnet;
pub use tool::Tool;
