//! From objects to plans, one module a behaviour.

mod choice;
mod convergence;
mod listed;
mod outside;
mod ranges;
mod resets;
mod services;
mod shares;
mod shown;
mod warnings;
mod world;
