//! The schema as a whole.

mod hostile;
mod reference;
