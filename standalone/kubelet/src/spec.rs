//! From a Pod to what CRI is asked for: pure translation, no IO.

pub mod container;
pub mod dns;
pub mod env;
pub mod ephemeral;
pub mod fields;
pub mod names;
pub mod profiles;
pub mod registry;
pub mod resources;
pub mod sandbox;

pub use names::PodId;
