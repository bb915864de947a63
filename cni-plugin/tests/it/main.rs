//! The plugin as a runtime calls it, one module a behaviour.

mod faults;
mod support;
mod wire;
