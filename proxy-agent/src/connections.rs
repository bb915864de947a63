//! Connections: the table of flows, the sockets that were given a backend, and which of them are ended.

pub(crate) mod flows;
pub(crate) mod pod_namespaces;
pub(crate) mod reset;
pub(crate) mod sockets;
