//! The tables, and what is known of the packet in hand: plain data, and the trait that reads the maps.
//!
//! Here belongs what a step leaves for the next one ([`scratch`]): where the packet goes ([`hop`]), the
//! backend that was drawn for it ([`choice`]), what becomes of it ([`verdict`]). Not here: deciding any of
//! that.

pub(crate) mod choice;
pub(crate) mod hop;
pub(crate) mod scratch;
pub(crate) mod tables;
pub(crate) mod verdict;
