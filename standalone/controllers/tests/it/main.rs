//! Controllers against the API server, one module a behaviour.

mod claims;
mod cluster;
mod finalizers;
mod load_balancers;
mod schedules;
mod scheduling;
mod slices;
mod support;
mod unreadable;
mod workloads;
