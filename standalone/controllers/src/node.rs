//! Nodes: address ranges, life cycle, eviction by taints.

pub mod eviction;
pub mod heartbeat;
pub mod ipam;
mod judge;
mod ranges;

pub use eviction::Since;
pub use heartbeat::Heartbeats;
pub use ranges::{RangeError, Ranges};
