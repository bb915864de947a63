//! Outer headers: what stands around a packet on its way between machines. Whatever kind there is is written
//! and read here.
//!
//! | around the packet | written by | taken off by |
//! | --- | --- | --- |
//! | VXLAN (RFC 7348) | [`vxlan`]; behind the stack the device | the device, which leaves [`Tunnel`] |
//! | IP (RFC 2003, RFC 2473) | [`wrap_v4`], [`wrap_v6`] | [`unwrap`], where [`around`] says so |
//!
//! Congestion marks are carried over to the outer header (RFC 6040 section 4.1).

use proxy_abi::{Addr, Be16, Tuple, proto};

use crate::packets::{
    head::Head,
    ip::{self},
    packet::{Frame, NextHop},
    view::{ETH, ETHERTYPE_V4, ETHERTYPE_V6, View},
};

/// IP protocol numbers of an IP packet inside another (RFC 2003, RFC 2473).
pub(crate) const IPV4_INSIDE: u8 = 4;
pub(crate) const IPV6_INSIDE: u8 = 41;

/// Bytes that VXLAN over IPv4 adds to an IP packet: Ethernet, IPv4, UDP and VXLAN headers (RFC 7348 section
/// 5).
pub(crate) const VXLAN: u32 = 50;
const UDP: u32 = 8;
const VXLAN_HEADER: u32 = 8;
/// The VXLAN header's flag "the network's number is valid".
const HAS_VNI: u8 = 0x08;
/// Outer source ports of VXLAN: one a flow, so that receivers spread flows over their queues (RFC 7348
/// section 5).
const FIRST_SOURCE_PORT: u32 = 0xc000;

/// What the kernel tells of the outer header that its VXLAN device took off.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tunnel {
    /// Who sent it.
    pub peer: Addr,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
}

/// A packet that is to be wrapped, and what goes around it.
#[derive(Clone, Copy)]
pub(crate) struct Wrapping<'a> {
    pub inner: &'a Head,
    pub view: &'a View,
    /// Outer source and destination, and ports where the outer header has some.
    pub outer: &'a Tuple,
    /// The outer packet's next station.
    pub next: &'a NextHop,
}

/// The outer source port for a flow.
#[inline(always)]
pub(crate) const fn source_port(tuple: &Tuple) -> Be16 {
    let ports = (tuple.sport.raw() as u32) << 16 | tuple.dport.raw() as u32;
    let mixed = (ports ^ tuple.src.0[3] ^ tuple.dst.0[3]).wrapping_mul(0x9e37_79b1);
    Be16::new((FIRST_SOURCE_PORT | mixed >> 18) as u16)
}

/// Puts the frame into a VXLAN datagram over IPv4, as the VXLAN device does: no outer checksum, may be cut on
/// the way. `id`: names the datagram's pieces.
#[inline(always)]
pub(crate) fn vxlan<P: Frame>(
    packet: &mut P,
    of: Wrapping<'_>,
    vni: u32,
    id: impl FnOnce() -> u16,
) -> Option<()> {
    let class = of.inner.ip()[1];
    let marks = if of.view.v4 { class & 3 } else { class >> 4 & 3 };
    // From here on the inner frame's length counts: Ethernet header and IP packet.
    let payload = of.view.length.wrapping_add((ETH + UDP + VXLAN_HEADER) as u16);
    packet.prepend(VXLAN)?;
    let fields = ip::Fields { class: marks, payload, id: id().to_ne_bytes(), flags: 0, protocol: proto::UDP };
    ip::write_v4(packet, fields, &of.outer.src, &of.outer.dst)?;
    let ([a, b], [c, d]) = (of.outer.sport.raw().to_ne_bytes(), of.outer.dport.raw().to_ne_bytes());
    let [e, f] = payload.to_be_bytes();
    let [_, g, h, i] = vni.to_be_bytes();
    packet.store_new(ETH + ip::V4, &[a, b, c, d, e, f, 0, 0, HAS_VNI, 0, 0, 0, g, h, i, 0])?;
    address(packet, of.next, ETHERTYPE_V4)
}

/// The number of an IP packet inside one of the same family.
#[inline(always)]
pub(crate) const fn same_inside(v4: bool) -> u8 {
    if v4 { IPV4_INSIDE } else { IPV6_INSIDE }
}

/// Puts the packet into another one (RFC 2003). What the way does to it (class, marks, whether it may be cut)
/// is as for the packet itself. `id`: names the pieces, asked for where it may be cut.
#[inline(always)]
pub(crate) fn wrap_v4<P: Frame>(packet: &mut P, of: Wrapping<'_>, id: impl FnOnce() -> u16) -> Option<()> {
    let inner = of.inner.ip();
    packet.prepend(ip::V4)?;
    let flags = inner[6] & ip::DF;
    // One that is never cut needs no name (RFC 6864 section 4.1).
    let id = if flags == 0 { id().to_ne_bytes() } else { [0, 0] };
    let fields = ip::Fields { class: inner[1], payload: of.view.length, id, flags, protocol: IPV4_INSIDE };
    ip::write_v4(packet, fields, &of.outer.src, &of.outer.dst)?;
    address(packet, of.next, ETHERTYPE_V4)
}

/// The same with IPv6 (RFC 2473).
#[inline(always)]
pub(crate) fn wrap_v6<P: Frame>(packet: &mut P, of: Wrapping<'_>) -> Option<()> {
    let [a, b, c, d, ..] = *of.inner.ip();
    packet.prepend(ip::V6)?;
    let ends = (&of.outer.src, &of.outer.dst);
    ip::write_v6(packet, [a, b, c, d], of.view.length, IPV6_INSIDE, ends)?;
    address(packet, of.next, ETHERTYPE_V6)
}

/// The Ethernet header towards the next station.
#[inline(always)]
fn address<P: Frame>(packet: &mut P, hop: &NextHop, ethertype: [u8; 2]) -> Option<()> {
    packet.store_new(0, &hop.macs)?;
    packet.store_new(12, &ethertype)
}

/// Whether what follows the IP header is an IP packet.
#[inline(always)]
pub(crate) const fn is_around(protocol: u8) -> bool {
    protocol == IPV4_INSIDE || protocol == IPV6_INSIDE
}

/// Bytes of the IP header around another IP packet; 0: there is none inside, or it can't be told where it
/// begins, since the outer header has options or the packet was cut on its way.
#[inline(always)]
pub(crate) const fn around(view: &View) -> u32 {
    let length = ip::length(view.v4);
    if is_around(view.proto) && !view.fragment && view.l4 as u32 == ETH + length { length } else { 0 }
}

/// Takes the outer header of `outer` bytes off: the frame's addresses move up to the inner packet.
#[inline(always)]
pub(crate) fn unwrap<P: Frame>(packet: &mut P, outer: u32) -> Option<()> {
    let macs: [u8; 12] = packet.load(0)?;
    let [version]: [u8; 1] = packet.load(ETH + outer)?;
    packet.strip(outer)?;
    packet.store_new(0, &macs)?;
    packet.store_new(12, if version >> 4 == 6 { &ETHERTYPE_V6 } else { &ETHERTYPE_V4 })
}
