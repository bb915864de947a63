//! The controllers: loops that bring what is there towards what the API objects ask for.
//!
//! Each controller is two halves. The pure half takes a snapshot (objects, `now`) and returns a plan; it
//! never awaits, locks or logs. The thin half takes keys from its work queue, reads the snapshot from the one
//! shared `cache`, and carries the plan out through the Kubernetes API. Nothing polls: keys come from watch
//! events, and from timers only where Kubernetes itself has a clock (lease grace, tolerationSeconds,
//! minReadySeconds, progressDeadlineSeconds).
//!
//! They speak the Kubernetes API alone, so they also run against an upstream API server.
#![forbid(unsafe_code)]

mod cache;
mod condition;
mod context;
mod cronjob;
mod daemonset;
mod dependents;
mod deployment;
mod disruption;
mod endpoints;
mod endpointslice;
mod garbage;
mod job;
mod listening;
mod loadbalancer;
mod namespace;
mod node;
mod owner;
mod pod;
mod podgc;
mod replicaset;
mod revisions;
mod run;
mod serviceaccount;
mod servicecidr;
mod statefulset;
mod template;
mod volume;

pub use run::{Config, Error, run};
