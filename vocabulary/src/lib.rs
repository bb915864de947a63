//! The small words of the Kubernetes API, for every program here: how an object is named, what a quantity is
//! worth, what a selector picks, what a toleration tolerates, how a time is written and an error is told.
//!
//! Pure, without the API's object types: those who have typed objects, JSON or rows of a table read their
//! fields and ask here what they mean.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod chain;
mod key;
mod quantity;
mod selector;
mod taint;
pub mod time;

pub use chain::chain;
pub use key::ObjectKey;
pub use quantity::{Quantity, QuantityError};
pub use selector::Operator;
pub use taint::{Taint, Toleration};
