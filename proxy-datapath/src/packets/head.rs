//! A frame's first headers: read once, changed in working memory, written once. Each access to a packet is a
//! call of the kernel's.

use proxy_abi::{Addr, Be16, DIRECT_MAC_TAG, OVERLAY_DEV_MAC, OVERLAY_SRC_MAC, Reason, Tuple};

use crate::packets::{
    addresses::pair,
    checksum::{changed, fix_checksum},
    view::{ETH, View},
};

/// Where the IPv6 header's hop limit lies; what changes in it ends with it.
pub(crate) const V6_HOPS: usize = 21;

/// Ethernet and IP header as the packet has them, or will have them once they are written.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Puts the IP header's words on multiples of their size.
    reserved: [u8; 2],
    pub(crate) bytes: [u8; Head::V6],
    /// What is still to be written.
    pub(crate) frame_changed: bool,
    pub(crate) ip_changed: bool,
}

impl Default for Head {
    fn default() -> Head {
        Head { reserved: [0; 2], bytes: [0; Head::V6], frame_changed: false, ip_changed: false }
    }
}

impl Head {
    /// Bytes of an Ethernet header and an IPv4 header without options.
    pub const V4: usize = 34;
    /// Bytes of an Ethernet header and an IPv6 header.
    pub const V6: usize = 54;

    /// Room for `N` bytes of a packet that is read anew: nothing of it is changed yet.
    #[inline(always)]
    pub(crate) fn begin<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        self.frame_changed = false;
        self.ip_changed = false;
        self.bytes.first_chunk_mut()
    }

    /// Room for what an IPv6 header has more than one of IPv4 without options.
    #[inline(always)]
    pub(crate) fn rest_of_v6(&mut self) -> Option<&mut [u8; Head::V6 - Head::V4]> {
        self.bytes.last_chunk_mut()
    }

    /// Whose address the frame has as its source.
    #[inline(always)]
    pub(crate) fn source(&self) -> &[u8; 6] {
        self.bytes.get(6..).and_then(|rest| rest.first_chunk()).unwrap_or(&[0; 6])
    }

    /// The IP header: 20 bytes, or 40.
    #[inline(always)]
    pub(crate) fn ip(&self) -> &[u8; 40] {
        self.last()
    }

    /// `diff`: what the addresses change in a checksum.
    #[inline(always)]
    pub(crate) fn set_addresses(&mut self, v4: bool, diff: u32, src: &Addr, dst: &Addr) {
        self.ip_changed = true;
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
        self.ip_changed = true;
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
        self.frame_changed = true;
        self.put(0, *macs);
    }

    /// To a pod's end of its veth pair.
    #[inline(always)]
    pub(crate) fn address_to(&mut self, mac: &[u8; 6]) {
        self.frame_changed = true;
        self.put(0, *mac);
    }

    /// Inner Ethernet header of the tunnel, alike between all nodes.
    #[inline(always)]
    pub(crate) fn address_tunnel(&mut self) {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (OVERLAY_DEV_MAC, OVERLAY_SRC_MAC);
        self.address(&[a, b, c, d, e, f, g, h, i, j, k, l]);
    }

    /// Names the backend of a direct packet in the frame's addresses: see [`DIRECT_MAC_TAG`].
    #[inline(always)]
    pub(crate) fn name_backend(&mut self, to: &Tuple) {
        let [a, b, c, d] = to.dst.0[2].to_ne_bytes();
        let [e, f, g, h] = to.dst.0[3].to_ne_bytes();
        let [i, j] = to.dport.raw().to_ne_bytes();
        self.address(&[DIRECT_MAC_TAG, a, b, c, d, e, DIRECT_MAC_TAG, f, g, h, i, j]);
    }

    /// Reads what [`Head::name_backend`] wrote to `to`: one of this node's pods, so that it shares the first
    /// 8 bytes with `router`. False: the frame names none.
    #[inline(always)]
    pub(crate) fn named_backend(&self, router: &Addr, v4: bool, to: &mut Tuple) -> bool {
        let [tag, a, b, c, d, e, _, f, g, h, i, j, ..] = self.bytes;
        let (high, low) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
        to.dst = Addr([router.0[0], router.0[1], high, low]);
        to.dport = Be16::from_raw(u16::from_ne_bytes([i, j]));
        tag == DIRECT_MAC_TAG && to.dst.is_v4() == v4
    }

    /// Its first bytes.
    #[inline(always)]
    pub fn first<const N: usize>(&self) -> &[u8; N] {
        self.bytes.first_chunk().unwrap_or(&[0; N])
    }

    /// Its last bytes.
    #[inline(always)]
    pub(crate) fn last<const N: usize>(&self) -> &[u8; N] {
        self.bytes.last_chunk().unwrap_or(&[0; N])
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
