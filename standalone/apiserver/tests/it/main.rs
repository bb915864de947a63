//! The API server as its clients see it, one module a behaviour.

mod access;
mod clients;
mod door;
mod families;
mod faults;
mod lists;
mod nodes;
mod objects;
mod services;
mod support;
mod watches;
