//! The schema as a whole.

mod hostile;
mod readers;
mod reference;
