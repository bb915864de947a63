//! The API server as its clients see it, one module a behaviour.

mod access;
mod answers;
mod certificate;
mod clients;
mod crowds;
mod door;
mod evictions;
mod families;
mod faults;
mod lists;
mod nodes;
mod objects;
mod proxies;
mod rights;
mod services;
mod support;
mod usage;
mod watches;
