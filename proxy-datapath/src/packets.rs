//! Packets and their headers: how they are read, changed and written. Below everything else.
//!
//! Here belongs what knows where a field lies: reading ([`parse`] fills in a [`view`]), turning one packet
//! into another with every checksum that follows ([`rewrite`]), IP headers of our own making ([`ip`]), what
//! stands around a packet on its way ([`outer`]). Not here: tables, services, what becomes of a packet.

pub(crate) mod addresses;
pub(crate) mod checksum;
pub(crate) mod crc32c;
pub(crate) mod head;
pub(crate) mod ip;
pub(crate) mod outer;
pub(crate) mod packet;
pub(crate) mod parse;
pub(crate) mod rewrite;
pub(crate) mod view;
