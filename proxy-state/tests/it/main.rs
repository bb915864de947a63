//! From objects to plans, one module a behaviour.

mod convergence;
mod listed;
mod outside;
mod ranges;
mod resets;
mod services;
mod warnings;
mod world;
