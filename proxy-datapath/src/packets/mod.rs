//! Packets and their headers.

pub(crate) mod checksum;
pub(crate) mod crc32c;
pub(crate) mod head;
pub(crate) mod outer;
pub(crate) mod packet;
pub(crate) mod parse;
pub(crate) mod rewrite;
