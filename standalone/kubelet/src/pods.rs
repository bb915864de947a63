//! Pods of this node: a pure core ([`decide`], [`status`]) and one worker a pod around it.

mod absorb;
mod admit;
pub mod backoff;
pub mod conditions;
pub mod decide;
pub mod dispatch;
#[cfg(test)]
mod fixture;
mod grpc;
pub mod hooks;
mod http_get;
mod image_name;
pub mod mailbox;
pub mod memory;
pub mod probes;
pub mod references;
pub mod remove;
pub mod report;
pub mod resize;
pub mod sandbox;
mod source;
pub mod start;
pub mod status;
pub mod status_patch;
pub mod timeline;
pub mod view;
pub mod worker;
