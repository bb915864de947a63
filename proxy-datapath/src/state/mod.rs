//! The tables, and what is known of the packet in hand.

pub(crate) mod tables;
pub(crate) mod verdict;
