//! `Packet` over an skb, and the helpers that carry out a verdict.

use core::mem::{self, MaybeUninit};

use aya_ebpf::{
    EbpfContext,
    bindings::{
        __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, BPF_F_TUNINFO_IPV6,
        BPF_F_ZERO_CSUM_TX, bpf_tunnel_key,
    },
    helpers::generated as helper,
    programs::TcContext,
};
use proxy_abi::{Addr, Be16, Facts, Tuple};
use proxy_datapath::{
    Change, NextHop, Packet, PacketSteps, Round, Scratch, Sender, Shape, Tables, Tunnel, Verdict, is_change,
};

use crate::{fib, steps, tables::Kernel};

const TUNNEL_HOPS: u8 = 64;

/// Bytes where words are read as such: BPF reads what may lie anywhere byte by byte.
#[repr(C, align(8))]
pub(crate) struct Aligned<T>(pub T);

/// The packet a tc program runs for.
pub struct Skb<'a>(&'a TcContext);

impl Skb<'_> {
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Skb<'_> {
        Skb(ctx)
    }

    #[inline(always)]
    fn raw(&self) -> *mut __sk_buff {
        self.0.skb.skb
    }

    /// The device the packet came in by, or goes out of.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid for the whole run.
        unsafe { (*self.raw()).ifindex }
    }

    /// # Safety
    /// `to` must be writable.
    #[inline(always)]
    unsafe fn copy_to<const N: usize>(&self, at: u32, to: *mut [u8; N]) -> Option<()> {
        // SAFETY: the helper writes N bytes or, if it fails, zeroes.
        (unsafe { helper::bpf_skb_load_bytes(self.raw().cast(), at, to.cast(), N as u32) } == 0).then_some(())
    }

    /// Metadata of the tunnel the packet came through; on egress, where it is to go. False: there is none.
    #[inline(always)]
    pub fn tunnel(&self, tunnel: &mut Tunnel) -> bool {
        // SAFETY: integers and arrays of them: all zeroes is a value.
        let mut key: bpf_tunnel_key = unsafe { mem::zeroed() };
        // SAFETY: the helper writes no more than the size it is told.
        if unsafe { helper::bpf_skb_get_tunnel_key(self.raw(), &mut key, TUNNEL_KEY_SIZE, 0) } == 0 {
            // SAFETY: without BPF_F_TUNINFO_IPV6 the helper has filled in the IPv4 arm, in host byte order.
            tunnel.peer = Addr::from_v4_raw(unsafe { key.__bindgen_anon_1.remote_ipv4 }.to_be());
            tunnel.vni = key.tunnel_id;
            return true;
        }
        // SAFETY: as above.
        if unsafe {
            helper::bpf_skb_get_tunnel_key(self.raw(), &mut key, TUNNEL_KEY_SIZE, BPF_F_TUNINFO_IPV6 as u64)
        } == 0
        {
            // SAFETY: with the flag it is the IPv6 arm, in network byte order.
            tunnel.peer = Addr(unsafe { key.__bindgen_anon_1.remote_ipv6 });
            tunnel.vni = key.tunnel_id;
            return true;
        }
        false
    }

    /// Names the node that the VXLAN device will send the packet to. No outer checksum over IPv4: the inner
    /// one protects the data, and devices have been seen to get the outer one wrong. Over IPv6 the receiver
    /// drops what has none (RFC 8200 section 8.1), unless its device was made to take it (RFC 6935).
    #[inline(always)]
    pub fn set_tunnel(&self, node: &Addr, facts: &Facts) -> bool {
        // SAFETY: integers and arrays of them: all zeroes is a value.
        let mut key: bpf_tunnel_key = unsafe { mem::zeroed() };
        key.tunnel_id = facts.vni;
        key.tunnel_ttl = TUNNEL_HOPS;
        let flags;
        if node.is_v4() {
            flags = BPF_F_ZERO_CSUM_TX as u64;
            key.__bindgen_anon_1.remote_ipv4 = u32::from_be(node.v4_raw());
            key.__bindgen_anon_3.local_ipv4 = u32::from_be(facts.node_v4.v4_raw());
        } else {
            key.__bindgen_anon_1.remote_ipv6 = node.0;
            key.__bindgen_anon_3.local_ipv6 = facts.node_v6.0;
            flags = BPF_F_TUNINFO_IPV6 as u64;
        }
        // SAFETY: the helper reads no more than the size it is told.
        unsafe { helper::bpf_skb_set_tunnel_key(self.raw(), &mut key, TUNNEL_KEY_SIZE, flags) == 0 }
    }
}

const TUNNEL_KEY_SIZE: u32 = size_of::<bpf_tunnel_key>() as u32;

impl Packet for Skb<'_> {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn is_merged(&self) -> bool {
        // SAFETY: the context is valid for the whole run.
        unsafe { (*self.raw()).gso_size != 0 }
    }

    #[inline(always)]
    fn socket_port(&self) -> Option<Be16> {
        // SAFETY: the context is valid for the whole run, and every arm of the union is this pointer.
        let socket = unsafe { (*self.raw()).__bindgen_anon_2.sk };
        if socket.is_null() {
            return None;
        }
        // SAFETY: it holds a reference to it; in host byte order. A test run's has none.
        Some(Be16::new(unsafe { (*socket).src_port } as u16))
    }

    #[inline(always)]
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let mut aligned = Aligned(MaybeUninit::<[u8; N]>::uninit());
        // SAFETY: as large as what is copied there.
        unsafe { self.copy_to(at, aligned.0.as_mut_ptr()) }?;
        // SAFETY: written.
        Some(unsafe { aligned.0.assume_init() })
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: u32, into: &mut [u8; N]) -> Option<()> {
        // SAFETY: as large as what is copied there.
        unsafe { self.copy_to(at, into) }
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, at: u32, bytes: &[u8; N]) -> Option<()> {
        self.0.store(at as usize, bytes, 0).ok()
    }

    #[inline(always)]
    fn store_new<const N: usize>(&mut self, at: u32, bytes: &[u8; N]) -> Option<()> {
        self.0.store(at as usize, bytes, BPF_F_RECOMPUTE_CSUM as u64).ok()
    }

    #[inline(always)]
    fn fix_header_checksum(&mut self, at: u32, diff: u32) -> Option<()> {
        self.0.l3_csum_replace(at as usize, 0, diff as u64, 0).ok()
    }

    #[inline(always)]
    fn fix_transport_checksum(&mut self, at: u32, pseudo: u32, diff: u32, zero_is_none: bool) -> Option<()> {
        let flags = if zero_is_none { BPF_F_MARK_MANGLED_0 as u64 } else { 0 };
        if is_change(pseudo) {
            let flags = flags | BPF_F_PSEUDO_HDR as u64;
            self.0.l4_csum_replace(at as usize, 0, pseudo as u64, flags).ok()?;
        }
        if is_change(diff) {
            self.0.l4_csum_replace(at as usize, 0, diff as u64, flags).ok()?;
        }
        Some(())
    }

    #[inline(always)]
    fn work_out(&self, change: &mut Change) {
        Kernel.repeat(Change::ROUNDS, |round| {
            change.advance(round);
            Round::Again
        });
    }

    #[inline(always)]
    fn resize(&mut self, length: u32) -> Option<()> {
        // SAFETY: the context is valid for the whole run; nothing here holds pointers into the packet.
        (unsafe { helper::bpf_skb_change_tail(self.raw(), length, 0) } == 0).then_some(())
    }

    #[inline(always)]
    fn take_in(&mut self) -> Option<()> {
        const PACKET_HOST: u32 = 0;
        // SAFETY: the context is valid for the whole run.
        (unsafe { helper::bpf_skb_change_type(self.raw(), PACKET_HOST) } == 0).then_some(())
    }

    #[inline(always)]
    fn way_out(&self, tuple: &Tuple, hop: &mut NextHop) {
        // SAFETY: the context is valid for the whole run.
        let mut query = fib::query(tuple, unsafe { (*self.raw()).ingress_ifindex });
        fib::ask(self.0.as_ptr(), &mut query, hop);
    }
}

impl PacketSteps for Skb<'_> {
    #[inline(always)]
    fn parse(&self, s: &mut Scratch) -> Shape {
        steps::skb_parse(self.raw(), s)
    }

    #[inline(always)]
    fn sender<T: Tables>(&self, _tables: &T, s: &mut Scratch) -> Sender {
        steps::skb_sender(self.raw(), s)
    }

    #[inline(always)]
    fn speaks_from_service<T: Tables>(&self, _tables: &T, s: &mut Scratch) -> bool {
        steps::skb_speaks_from_service(self.raw(), s)
    }

    #[inline(always)]
    fn keep_path<T: Tables>(&self, _tables: &T, s: &mut Scratch) {
        steps::skb_keep(self.raw(), s);
    }

    #[inline(always)]
    fn rewrite(&mut self, s: &mut Scratch) -> bool {
        steps::skb_rewrite(self.raw(), s)
    }

    #[inline(always)]
    fn forward(&mut self, s: &mut Scratch, _facts: &Facts) -> Verdict {
        steps::skb_forward(self.raw(), s);
        s.verdict
    }

    #[inline(always)]
    fn reject(&mut self, s: &mut Scratch) -> Verdict {
        steps::skb_reject(self.raw(), s);
        s.verdict
    }

    #[inline(always)]
    fn expired(&mut self, s: &mut Scratch, at: &Addr) -> Verdict {
        s.to.src = *at;
        steps::skb_expired(self.raw(), s);
        s.verdict
    }

    #[inline(always)]
    fn too_big(&mut self, s: &mut Scratch, mtu: u32) -> Verdict {
        steps::skb_too_big(self.raw(), s, mtu);
        s.verdict
    }
}
