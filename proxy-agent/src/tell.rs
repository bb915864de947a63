//! What the agent tells of itself and of the programs: metrics, health, and records of dropped packets.

pub(crate) mod admin;
pub(crate) mod drops;
pub(crate) mod metrics;
pub(crate) mod serve;
