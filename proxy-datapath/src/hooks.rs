//! The places where the kernel asks what is to become of a packet or a connection: one function a hook, and
//! its branches.
//!
//! | file | who asks | functions |
//! | --- | --- | --- |
//! | [`socket`] | a socket, before there is a packet | `sock_connect`, `sock_sendmsg`, `sock_recvmsg`, `sock_peername` |
//! | [`pod`] | a pod's device | `from_pod`, `to_pod` |
//! | [`overlay`] | the VXLAN device | `from_overlay`, `to_overlay` |
//! | [`uplink`] | a device that leads out of the node | `from_uplink`, `to_uplink` |
//! | [`nic`] | its driver, before there is an skb | `from_nic` |
//! | [`wire`] | a balancer's driver | `from_wire` |
//!
//! Here belongs the order of what is asked and refused. What is looked up, judged by the tables, tracked and
//! sent on is a step's business.

mod ingress;
pub(crate) mod nic;
pub(crate) mod overlay;
mod own;
pub(crate) mod pod;
pub(crate) mod socket;
pub(crate) mod uplink;
pub(crate) mod wire;
