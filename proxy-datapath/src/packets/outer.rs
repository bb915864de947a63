//! What a balancer in front of nodes sends inside other packets (DSR by IPIP): the node takes the outer header off, and has a
//! packet as the client sent it.

use proxy_abi::{Config, Prefix, endpoint_flag};

use crate::{
    packets::{
        packet::Frame,
        parse::{ETH, ETHERTYPE_V4, ETHERTYPE_V6, Kind, View},
    },
    state::tables::Tables,
    steps::service::asked,
};

/// IP protocol numbers of an IP packet inside another (RFC 2003, RFC 2473).
pub(crate) const IPV4_INSIDE: u8 = 4;
pub(crate) const IPV6_INSIDE: u8 = 41;
pub(crate) const OUTER_V4: u32 = 20;
pub(crate) const OUTER_V6: u32 = 40;

/// Bytes of the header around a packet that one of the balancers sent to this node; 0: it is no such packet. One whose outer
/// header has options, or that was cut on its way, is left to the kernel.
#[inline(always)]
pub(crate) fn wrapped_in<T: Tables>(tables: &T, view: &View, config: &Config) -> u32 {
    let is_inside = view.proto == IPV4_INSIDE || view.proto == IPV6_INSIDE;
    let outer = if view.v4 { OUTER_V4 } else { OUTER_V6 };
    if !is_inside
        || view.fragment
        || view.l4 as u32 != ETH + outer
        || !Prefix::any_has(&config.balancers, &view.src)
    {
        return 0;
    }
    let is_ours =
        tables.endpoint(&view.dst).is_some_and(|endpoint| endpoint.flags & endpoint_flag::NODE != 0);
    if is_ours { outer } else { 0 }
}

/// Takes the outer header off: the frame's addresses move up to the inner packet.
#[inline(always)]
pub(crate) fn unwrap<P: Frame>(packet: &mut P, outer: u32) -> Option<()> {
    let macs: [u8; 12] = packet.load(0)?;
    let [version]: [u8; 1] = packet.load(ETH + outer)?;
    packet.strip(outer)?;
    packet.store_new(0, &macs)?;
    packet.store_new(12, if version >> 4 == 6 { &ETHERTYPE_V6 } else { &ETHERTYPE_V4 })
}

/// Whether an unwrapped packet is for no service: the stack would send it on, maybe back to where it came from. What only a
/// flow can tell (errors, later fragments) is not said here.
#[inline(always)]
pub(crate) fn is_stray<T: Tables>(tables: &T, view: &View) -> bool {
    matches!(view.kind, Kind::Ports) && asked(tables, view).is_none()
}
