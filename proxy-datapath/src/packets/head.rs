//! A frame's first headers: read once, changed in working memory, written once. Each access to a packet is a call of the kernel's.

use proxy_abi::{Addr, OVERLAY_DEV_MAC, OVERLAY_SRC_MAC, Reason};

use crate::packets::{
    checksum::{changed, fix_checksum},
    packet::Packet,
    parse::{ETH, View},
    rewrite::pair,
};

/// Where the IPv6 header's hop limit lies; what changes in it ends with it.
const V6_HOPS: usize = 21;

/// Ethernet and IP header as the packet has them, or will have them once they are written.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Puts the IP header's words on multiples of their size.
    reserved: [u8; 2],
    pub(crate) bytes: [u8; Head::V6],
    /// What is still to be written.
    frame: bool,
    ip: bool,
}

impl Default for Head {
    fn default() -> Head {
        Head { reserved: [0; 2], bytes: [0; Head::V6], frame: false, ip: false }
    }
}

impl Head {
    /// Bytes of an Ethernet header and an IPv4 header without options.
    pub const V4: usize = 34;
    /// Bytes of an Ethernet header and an IPv6 header.
    pub const V6: usize = 54;

    /// Reads what both families have. False: the packet is shorter.
    #[inline(always)]
    pub(crate) fn read<P: Packet>(&mut self, packet: &P) -> bool {
        self.frame = false;
        self.ip = false;
        self.bytes.first_chunk_mut::<{ Head::V4 }>().is_some_and(|first| packet.read(0, first).is_some())
    }

    /// Reads the Ethernet header of a frame that has no more.
    #[inline(always)]
    pub(crate) fn read_frame<P: Packet>(&mut self, packet: &P) -> Option<&[u8; 14]> {
        let frame = self.bytes.first_chunk_mut::<14>()?;
        packet.read(0, frame)?;
        Some(frame)
    }

    /// Whose address the frame has as its source.
    #[inline(always)]
    pub(crate) fn source(&self) -> &[u8; 6] {
        self.bytes.get(6..).and_then(|rest| rest.first_chunk()).unwrap_or(&[0; 6])
    }

    /// The IP header: 20 bytes, or 40.
    #[inline(always)]
    pub(crate) fn ip(&self) -> &[u8; 40] {
        self.bytes.last_chunk().unwrap_or(&[0; 40])
    }

    /// Reads the rest of an IPv6 header.
    #[inline(always)]
    pub(crate) fn read_v6<P: Packet>(&mut self, packet: &P) -> bool {
        self.bytes.last_chunk_mut::<20>().is_some_and(|last| packet.read(Head::V4 as u32, last).is_some())
    }

    /// `diff`: what the addresses change in a checksum.
    #[inline(always)]
    pub(crate) fn set_addresses(&mut self, v4: bool, diff: u32, src: &Addr, dst: &Addr) {
        self.ip = true;
        if v4 {
            self.fix_checksum(diff);
            self.put(26, pair(src, dst));
        } else {
            self.put(22, src.octets());
            self.put(38, dst.octets());
        }
    }

    /// Counts one hop, as a router does that is neither end of the packet's way.
    ///
    /// # Errors
    /// [`Reason::TtlExpired`] where none is left.
    #[inline(always)]
    pub(crate) fn count_hop(&mut self, view: &View) -> Result<(), Reason> {
        if view.ttl <= 1 {
            return Err(Reason::TtlExpired);
        }
        self.ip = true;
        let ttl = view.ttl - 1;
        if view.v4 {
            // The word in the checksum is TTL and protocol; the protocol stays.
            let word = |ttl| u16::from_ne_bytes([ttl, 0]) as u32;
            self.fix_checksum(changed(word(view.ttl), word(ttl)));
            self.bytes[22] = ttl;
        } else {
            self.bytes[V6_HOPS] = ttl;
        }
        Ok(())
    }

    /// Destination and source of the frame.
    #[inline(always)]
    pub(crate) fn address(&mut self, macs: &[u8; 12]) {
        self.frame = true;
        self.put(0, *macs);
    }

    /// To a pod's end of its veth pair.
    #[inline(always)]
    pub(crate) fn address_to(&mut self, mac: &[u8; 6]) {
        self.frame = true;
        self.put(0, *mac);
    }

    /// Inner Ethernet header of the tunnel, alike between all nodes.
    #[inline(always)]
    pub(crate) fn address_tunnel(&mut self) {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (OVERLAY_DEV_MAC, OVERLAY_SRC_MAC);
        self.address(&[a, b, c, d, e, f, g, h, i, j, k, l]);
    }

    /// Its first bytes.
    #[inline(always)]
    pub fn first<const N: usize>(&self) -> &[u8; N] {
        self.bytes.first_chunk().unwrap_or(&[0; N])
    }

    /// Writes what has changed.
    #[inline(always)]
    pub(crate) fn write<P: Packet>(&self, packet: &mut P, v4: bool) -> Option<()> {
        if v4 && self.ip {
            // The header's own checksum makes up for its changes, and none covers the frame's addresses.
            return packet.store(0, self.first::<{ Head::V4 }>());
        }
        if self.frame {
            packet.store(0, self.first::<12>())?;
        }
        if self.ip {
            // No header checksum makes up for them, as IPv4's does: a sum over the whole packet, where the device made one
            // (CHECKSUM_COMPLETE), has to follow. Fixing the transport checksum took the change out of it; newer kernels can
            // be told not to (BPF_F_IPV6, Linux commit ead7f9b8de65), but putting it back works on all of them.
            packet.store_new(V6_HOPS as u32, self.bytes.last_chunk::<33>()?)?;
        }
        Some(())
    }

    /// Works a change into the IPv4 header's checksum.
    #[inline(always)]
    fn fix_checksum(&mut self, diff: u32) {
        let [a, b] = fix_checksum([self.bytes[24], self.bytes[25]], diff, false);
        self.put(24, [a, b]);
    }

    #[inline(always)]
    fn put<const N: usize>(&mut self, at: usize, new: [u8; N]) {
        if let Some(old) = self.bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<N>()) {
            *old = new;
        }
    }
}

const _: () = assert!(Head::V4 as u32 == ETH + 20 && V6_HOPS as u32 == ETH + 7);
