//! IP headers that are written here: around a packet, or over an answer.

use proxy_abi::Addr;

use crate::packets::{
    addresses::pair,
    checksum::{add_bytes, finish},
    packet::Packet,
    view::ETH,
};

/// Bytes of a header without options or extensions.
pub(crate) const V4: u32 = 20;
pub(crate) const V6: u32 = 40;

/// Don't fragment, in the byte that holds the flags (RFC 791 section 3.1).
pub(crate) const DF: u8 = 0x40;

/// What packets that are made here have to live.
pub(crate) const HOPS: u8 = 64;

#[inline(always)]
pub(crate) const fn length(v4: bool) -> u32 {
    if v4 { V4 } else { V6 }
}

/// What an IPv4 header says besides its two ends.
#[derive(Clone, Copy)]
pub(crate) struct Fields {
    /// Class and congestion marks, as they lie in the header.
    pub class: u8,
    /// Bytes that follow the header.
    pub payload: u16,
    /// As it lies in the header.
    pub id: [u8; 2],
    /// [`DF`], or 0: it may be cut.
    pub flags: u8,
    /// IANA's number.
    pub protocol: u8,
}

/// Writes an IPv4 header without options after the Ethernet header.
#[inline(always)]
pub(crate) fn write_v4<P: Packet>(packet: &mut P, fields: Fields, src: &Addr, dst: &Addr) -> Option<()> {
    let Fields { class, payload, id: [c, d], flags, protocol } = fields;
    let [a, b] = payload.wrapping_add(V4 as u16).to_be_bytes();
    let [e, f, g, h, i, j, k, l] = pair(src, dst);
    let mut header = [0x45, class, a, b, c, d, flags, 0, HOPS, protocol, 0, 0, e, f, g, h, i, j, k, l];
    let [m, n] = finish(add_bytes(0, &header)).to_ne_bytes();
    header[10] = m;
    header[11] = n;
    packet.store_new(ETH, &header)
}

/// Writes an IPv6 header after the Ethernet header. `class`: its first four bytes (version, class, flow
/// label).
#[inline(always)]
pub(crate) fn write_v6<P: Packet>(
    packet: &mut P,
    class: [u8; 4],
    payload: u16,
    protocol: u8,
    (src, dst): (&Addr, &Addr),
) -> Option<()> {
    let ([a, b, c, d], [e, f]) = (class, payload.to_be_bytes());
    packet.store_new(ETH, &[a, b, c, d, e, f, protocol, HOPS])?;
    packet.store_new(ETH + 8, &src.octets())?;
    packet.store_new(ETH + 24, &dst.octets())
}
