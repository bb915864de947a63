//! The cluster's names: the state that they are made of, and what a question for one is answered.
//!
//! Pure: what the agent says comes in by [`Zone::apply`], [`Zone::answer`] is a function of that, of the
//! question and of nothing else. The layout of names follows the Kubernetes DNS specification, version 1.1.0.

mod answer;
mod reverse;
mod state;
#[cfg(test)]
mod tests;

pub use answer::{Answer, Outcome, Why};
pub use state::{Change, KINDS, Zone};
