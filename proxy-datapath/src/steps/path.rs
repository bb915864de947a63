//! Where a flow's packets go, kept in its entry for the rest of the second: tables and routes are asked once
//! in a second by those that follow each other, not once a packet.
//!
//! A flow's first packet in a second forgets what was kept ([`note`](crate::steps::flow)), the second one
//! asks and keeps it. So what has changed is followed within a second, and a flow with few packets never pays
//! for the keeping.

use proxy_abi::{Path, path_known};

use crate::{
    packets::packet::{Frame, NextHop, Way},
    state::{
        hop::{Hop, Place},
        scratch::Scratch,
        tables::Tables,
    },
};

/// Copies what an entry has.
#[inline(always)]
pub(crate) fn recall(path: &Path, hop: &mut Hop, next: &mut NextHop) {
    let [a, b, c, d, e, f, ..] = path.macs;
    hop.place = Place::of(path.place);
    hop.ifindex = path.ifindex;
    hop.mac = [a, b, c, d, e, f];
    hop.node = path.node;
    next.way = Way::Found;
    next.ifindex = path.ifindex;
    next.mtu = path.mtu as u32;
    next.macs = path.macs;
}

/// What an entry is to have.
#[inline(always)]
pub(crate) fn fill(path: &mut Path, hop: &Hop, next: &NextHop, known: u8) {
    path.known = known;
    path.place = hop.place as u8;
    path.node = hop.node;
    path.mtu = next.mtu as u16;
    if known & path_known::NEXT_HOP != 0 {
        path.ifindex = next.ifindex;
        path.macs = next.macs;
    } else {
        let [a, b, c, d, e, f] = hop.mac;
        path.ifindex = hop.ifindex;
        path.macs = [a, b, c, d, e, f, 0, 0, 0, 0, 0, 0];
    }
}

/// What a new entry has.
#[inline(always)]
pub(crate) fn begin(path: &mut Path, hop: &Hop, next: &NextHop, known: u8) {
    path.known = 0;
    if known != 0 {
        fill(path, hop, next, known);
    }
}

/// Tells the packet's flow what is known, for its next packets in this second.
#[inline(always)]
pub(crate) fn keep<T: Tables>(tables: &T, s: &mut Scratch) {
    if !s.lively || s.known == s.kept {
        return;
    }
    let Scratch { view, hop, next, known, kept, .. } = s;
    tables.flow(&view.tuple, |flow| fill(&mut flow.path, hop, next, *known));
    *kept = *known;
}

/// What leaves a program in front of the stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// The packet as `s.to`.
    Itself,
    /// Another one around it, of `s.reverse_key`.
    Outer,
}

/// The next station, `s.next`, of what leaves and has `length` bytes (0: any): as kept, or the kernel is
/// asked.
#[inline(always)]
pub(crate) fn next_hop<P: Frame>(packet: &P, s: &mut Scratch, leaves: Leaves, length: u32) -> Way {
    if s.knows(path_known::NEXT_HOP) && length <= s.next.mtu {
        return Way::Found;
    }
    let tuple = if matches!(leaves, Leaves::Outer) { &s.reverse_key } else { &s.to };
    packet.next_hop(tuple, length, &mut s.next);
    s.kept &= !path_known::NEXT_HOP;
    s.known &= !path_known::NEXT_HOP;
    if matches!(s.next.way, Way::Found) {
        s.known |= path_known::NEXT_HOP;
    }
    s.next.way
}
