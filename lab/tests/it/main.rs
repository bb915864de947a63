//! The lab against this machine.

mod images;
mod nodes;
