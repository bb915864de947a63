//! `Packet` over an xdp_md, and the program of a balancer that stands in front of nodes.
//!
//! Headers are read in place, in a packet's first [`REACH`] bytes (the verifier wants a bound on every
//! offset), and so are the first ones written; more than a few other bytes are written by helpers: they come
//! from the stack, where words lie at multiples of their size or are moved byte by byte.

use core::{
    arch::asm,
    mem::{self, MaybeUninit},
};

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_F_CURRENT_NETNS, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as Ipv4,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as Ipv6, xdp_action, xdp_md,
    },
    helpers::generated as helper,
    macros::xdp,
    programs::XdpContext,
};
use proxy_abi::{Be16, Tuple, proto};
use proxy_datapath::{
    Action, Change, Frame, Head, NextHop, Packet, PacketSteps, Round, Scratch, Shape, Tables, Verdict,
    add_sums, fix_checksum, from_nic, from_wire,
};

use crate::{
    fib,
    skb::Aligned,
    steps,
    tables::Kernel,
    tc::{count, report},
};

/// Headers end before this; a power of two.
const REACH: usize = 1024;
/// Bytes that are read and written without a helper's help.
const READ_IN_PLACE: usize = 40;
const WRITTEN_IN_PLACE: usize = 8;

#[xdp]
pub fn lb_xdp(ctx: XdpContext) -> u32 {
    let Some(scratch) = steps::scratch() else { return xdp_action::XDP_PASS };
    let mut packet = Xdp::new(&ctx);
    let length = packet.length();
    let verdict = from_wire(&mut packet, &Kernel, scratch);
    finish(&packet, scratch, &verdict, length)
}

#[xdp]
pub fn uplink_xdp(ctx: XdpContext) -> u32 {
    let Some(scratch) = steps::scratch() else { return xdp_action::XDP_PASS };
    let mut packet = Xdp::new(&ctx);
    let length = packet.length();
    let verdict = from_nic(&mut packet, &Kernel, scratch);
    if matches!(verdict.action, Action::Pass) {
        // Counted by the tc program, which sees it next.
        return xdp_action::XDP_PASS;
    }
    finish(&packet, scratch, &verdict, length)
}

#[inline(always)]
fn finish(packet: &Xdp, scratch: &Scratch, verdict: &Verdict, length: u32) -> u32 {
    count(verdict.reason as u32, length);
    match verdict.action {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Answer => xdp_action::XDP_TX,
        Action::Out if verdict.ifindex == packet.ifindex() => xdp_action::XDP_TX,
        // SAFETY: plain numbers; the helper checks the device.
        Action::Out => unsafe { helper::bpf_redirect(verdict.ifindex, 0) as u32 },
        // The others are verdicts of nodes.
        Action::Drop
        | Action::Deliver
        | Action::Tunnel
        | Action::Keyed
        | Action::Addressed
        | Action::TakenIn => {
            report(packet.ifindex(), &scratch.view, verdict.reason, length);
            xdp_action::XDP_DROP
        }
    }
}

/// Changes nothing about an offset below [`REACH`], and shows the verifier that it is one: it forgets a
/// comparison of what is spilled later, but not a mask. Written down as an instruction, since the compiler
/// would leave it out.
#[inline(always)]
fn bounded(at: u64) -> u64 {
    let mut at = at;
    // SAFETY: one instruction on one register.
    unsafe {
        asm!("{at} &= {mask}", at = inout(reg) at, mask = const REACH - 1, options(pure, nomem, nostack))
    };
    at
}

/// Moves one word of a type that BPF knows by this name.
macro_rules! move_word {
    ($kind:literal, $from:expr, $to:expr) => {
        asm!(
            concat!("{word} = *(", $kind, " *)({from} + 0)"),
            concat!("*(", $kind, " *)({to} + 0) = {word}"),
            word = out(reg) _,
            from = in(reg) $from,
            to = in(reg) $to,
            options(nostack),
        )
    };
}

/// Copies bytes word by word, wherever they lie: the compiler would move what may lie anywhere byte by byte,
/// and each would take a register and then a word of the 512 bytes of stack.
///
/// `REST_FIRST`: what fills no word of 8 bytes comes first. After an Ethernet header no field of an IP header
/// is in two of the words that were written then, which would cost who reads it a wait; but on the stack
/// words must lie at multiples of their size.
///
/// # Safety
/// `from` must be readable, `to` writable, and they must not overlap.
#[inline(always)]
unsafe fn copy<const N: usize, const REST_FIRST: bool>(from: *const [u8; N], to: *mut [u8; N]) {
    let (from, to) = (from.cast::<u8>(), to.cast::<u8>());
    let (mut rest, mut done) = if REST_FIRST { (0, N % 8) } else { (N - N % 8, 0) };
    // SAFETY: all within the N bytes of either.
    unsafe {
        while done + 8 <= N {
            move_word!("u64", from.add(done), to.add(done));
            done += 8;
        }
        if N & 4 != 0 {
            move_word!("u32", from.add(rest), to.add(rest));
            rest += 4;
        }
        if N & 2 != 0 {
            move_word!("u16", from.add(rest), to.add(rest));
            rest += 2;
        }
        if N & 1 != 0 {
            to.add(rest).write(from.add(rest).read());
        }
    }
}

/// The packet an XDP program runs for.
pub struct Xdp<'a>(&'a XdpContext);

impl Xdp<'_> {
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Xdp<'_> {
        Xdp(ctx)
    }

    #[inline(always)]
    fn raw(&self) -> *mut xdp_md {
        self.0.ctx
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid for the whole run.
        unsafe { (*self.raw()).ingress_ifindex }
    }

    /// Where `N` bytes at `at` lie.
    #[inline(always)]
    fn at<const N: usize>(&self, at: u32) -> Option<*mut [u8; N]> {
        if at as usize > REACH - N {
            return None;
        }
        let start = self.0.data() + bounded(at as u64) as usize;
        if start + N > self.0.data_end() {
            return None;
        }
        Some(start as *mut [u8; N])
    }

    /// Over the packet's first bytes, from a map's memory: words may lie anywhere there.
    #[inline(always)]
    fn copy_from<const N: usize>(&mut self, bytes: &[u8; N]) -> Option<()> {
        // SAFETY: within the packet, which is none of the program's own memory.
        unsafe { copy::<N, true>(bytes, self.at(0)?) };
        Some(())
    }

    /// # Safety
    /// `to` must be writable, and of a map where `REST_FIRST`.
    #[inline(always)]
    unsafe fn copy_to<const N: usize, const REST_FIRST: bool>(
        &self,
        at: u32,
        to: *mut [u8; N],
    ) -> Option<()> {
        if N <= READ_IN_PLACE {
            // SAFETY: within the packet, which is none of the program's own memory.
            unsafe { copy::<N, REST_FIRST>(self.at(at)?, to) };
            return Some(());
        }
        // SAFETY: the helper writes N bytes, all of them or it fails.
        (unsafe { helper::bpf_xdp_load_bytes(self.raw(), at, to.cast(), N as u32) } == 0).then_some(())
    }
}

/// Not inlined: it stands in many places, and each would take its registers' worth of stack.
#[inline(never)]
fn fix(packet: &mut Xdp<'_>, at: u32, diff: u32, zero_is_none: bool) -> bool {
    let Some(old) = packet.load(at) else { return false };
    packet.store(at, &fix_checksum(old, diff, zero_is_none)).is_some()
}

impl Packet for Xdp<'_> {
    #[inline(always)]
    fn length(&self) -> u32 {
        // Not the difference of the two ends: cut to 32 bits it becomes arithmetic on pointers, which the
        // verifier refuses.
        // SAFETY: the context is valid for the whole run.
        (unsafe { helper::bpf_xdp_get_buff_len(self.raw()) }) as u32
    }

    #[inline(always)]
    fn is_merged(&self) -> bool {
        false
    }

    /// What a wire has brought was sent by none of this machine's.
    #[inline(always)]
    fn socket_port(&self) -> Option<Be16> {
        None
    }

    #[inline(always)]
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let mut aligned = Aligned(MaybeUninit::<[u8; N]>::uninit());
        // SAFETY: as large as what is copied there.
        unsafe { self.copy_to::<N, false>(at, aligned.0.as_mut_ptr()) }?;
        // SAFETY: written.
        Some(unsafe { aligned.0.assume_init() })
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: u32, into: &mut [u8; N]) -> Option<()> {
        // SAFETY: as large as what is copied there.
        unsafe { self.copy_to::<N, true>(at, into) }
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, at: u32, bytes: &[u8; N]) -> Option<()> {
        self.store_new(at, bytes)
    }

    #[inline(always)]
    fn store_new<const N: usize>(&mut self, at: u32, bytes: &[u8; N]) -> Option<()> {
        if N <= WRITTEN_IN_PLACE {
            let to = self.at::<N>(at)?;
            // SAFETY: within the packet.
            unsafe { to.write_unaligned(*bytes) };
            return Some(());
        }
        let from = bytes.as_ptr().cast_mut().cast();
        // SAFETY: the helper reads N bytes.
        (unsafe { helper::bpf_xdp_store_bytes(self.raw(), at, from, N as u32) } == 0).then_some(())
    }

    #[inline(always)]
    fn fix_header_checksum(&mut self, at: u32, diff: u32) -> Option<()> {
        self.fix_transport_checksum(at, 0, diff, false)
    }

    /// Nothing is left for a device to complete: what comes off a wire is whole.
    #[inline(always)]
    fn fix_transport_checksum(&mut self, at: u32, pseudo: u32, diff: u32, zero_is_none: bool) -> Option<()> {
        fix(self, at, add_sums(pseudo, diff), zero_is_none).then_some(())
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
        let delta = length as i32 - self.length() as i32;
        // SAFETY: the context is valid for the whole run; nothing here holds pointers into the packet.
        (unsafe { helper::bpf_xdp_adjust_tail(self.raw(), delta) } == 0).then_some(())
    }

    /// The stack judges by what the packet says when it gets there.
    #[inline(always)]
    fn take_in(&mut self) -> Option<()> {
        Some(())
    }

    #[inline(always)]
    fn way_out(&self, tuple: &Tuple, hop: &mut NextHop) {
        self.next_hop(tuple, 0, hop);
    }

    /// All of them, changed or not: that is less work than to ask.
    #[inline(always)]
    fn write_head(&mut self, v4: bool, head: &Head) -> Option<()> {
        if v4 {
            self.copy_from(head.first::<{ Head::V4 }>())
        } else {
            self.copy_from(head.first::<{ Head::V6 }>())
        }
    }
}

impl PacketSteps for Xdp<'_> {
    #[inline(always)]
    fn parse(&self, s: &mut Scratch) -> Shape {
        steps::xdp_parse(self.raw(), s)
    }

    #[inline(always)]
    fn rewrite(&mut self, s: &mut Scratch) -> bool {
        steps::xdp_rewrite(self.raw(), s)
    }

    #[inline(always)]
    fn reject(&mut self, s: &mut Scratch) -> Verdict {
        steps::xdp_reject(self.raw(), s);
        s.verdict
    }

    #[inline(always)]
    fn too_big(&mut self, s: &mut Scratch, mtu: u32) -> Verdict {
        steps::xdp_too_big(self.raw(), s, mtu);
        s.verdict
    }
}

impl Frame for Xdp<'_> {
    #[inline(always)]
    fn prepend(&mut self, count: u32) -> Option<()> {
        // SAFETY: as for `resize`.
        (unsafe { helper::bpf_xdp_adjust_head(self.raw(), -(count as i32)) } == 0).then_some(())
    }

    #[inline(always)]
    fn strip(&mut self, count: u32) -> Option<()> {
        // SAFETY: as for `resize`.
        (unsafe { helper::bpf_xdp_adjust_head(self.raw(), count as i32) } == 0).then_some(())
    }

    #[inline(never)]
    fn is_for_connected_socket(&self, tuple: &Tuple) -> bool {
        // SAFETY: integers and arrays of them: all zeroes is a value.
        let mut asked: bpf_sock_tuple = unsafe { mem::zeroed() };
        let (sport, dport) = (tuple.sport.raw(), tuple.dport.raw());
        let size = if tuple.dst.is_v4() {
            let (saddr, daddr) = (tuple.src.v4_raw(), tuple.dst.v4_raw());
            asked.__bindgen_anon_1.ipv4 = Ipv4 { saddr, daddr, sport, dport };
            size_of::<Ipv4>()
        } else {
            asked.__bindgen_anon_1.ipv6 = Ipv6 { saddr: tuple.src.0, daddr: tuple.dst.0, sport, dport };
            size_of::<Ipv6>()
        };
        let (ctx, asked, netns) = (self.0.as_ptr(), &raw mut asked, BPF_F_CURRENT_NETNS as i64 as u64);
        // SAFETY: the helpers read no more than the size they are told.
        let socket = unsafe {
            match tuple.proto {
                proto::UDP => helper::bpf_sk_lookup_udp(ctx, asked, size as u32, netns, 0),
                proto::TCP => helper::bpf_sk_lookup_tcp(ctx, asked, size as u32, netns, 0),
                _ => return false,
            }
        };
        if socket.is_null() {
            return false;
        }
        // SAFETY: it is held until it is given back, which is the last that is done with it.
        unsafe {
            // A server's has no peer.
            let is_connected = (*socket).dst_port == sport;
            helper::bpf_sk_release(socket.cast());
            is_connected
        }
    }

    /// Not inlined: the question takes 64 bytes of stack.
    #[inline(never)]
    fn next_hop(&self, tuple: &Tuple, length: u32, hop: &mut NextHop) {
        let mut query = fib::query(tuple, self.ifindex());
        query.__bindgen_anon_1.tot_len = length as u16;
        fib::ask(self.0.as_ptr(), &mut query, hop);
    }
}
