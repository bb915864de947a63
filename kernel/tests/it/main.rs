//! The wrappers against the running kernel, one module an object.

mod links;
mod maps;
mod packets;
mod runs;
