//! Controllers against the API server, one module a behaviour.

mod cluster;
mod load_balancers;
mod support;
mod workloads;
