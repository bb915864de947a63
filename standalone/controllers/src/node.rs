//! Nodes: address ranges, life cycle, eviction by taints.

pub mod ipam;
mod ranges;

pub use ranges::{RangeError, Ranges};
