//! The places where the kernel asks what is to become of a packet or a connection: one function a hook.

pub(crate) mod nic;
pub(crate) mod overlay;
mod own;
pub(crate) mod peers;
pub(crate) mod pod;
pub(crate) mod socket;
pub(crate) mod uplink;
pub(crate) mod wire;
