//! `Packet` over an xdp_md, and the program of a balancer that stands in front of nodes.
//!
//! Headers are read in place, in a packet's first [`REACH`] bytes (the verifier wants a bound on every offset); more than a few
//! bytes are written by helpers: BPF moves bytes whose alignment is not known one by one, and each would take a register.

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::{
    EbpfContext,
    bindings::{xdp_action, xdp_md},
    helpers::generated as helper,
    macros::xdp,
    programs::XdpContext,
};
use proxy_abi::Tuple;
use proxy_datapath::{
    Action, Change, Frame, NextHop, Packet, Round, Scratch, Shape, Tables, Verdict, fix_checksum, from_nic,
    from_wire,
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
        Action::Drop | Action::Deliver | Action::Tunnel | Action::Keyed | Action::Addressed => {
            report(packet.ifindex(), &scratch.view, verdict.reason, length);
            xdp_action::XDP_DROP
        }
    }
}

/// Changes nothing about an offset below [`REACH`], and shows the verifier that it is one: it forgets a comparison of what is
/// spilled later, but not a mask. Written down as an instruction, since the compiler would leave it out.
#[inline(always)]
fn bounded(at: u64) -> u64 {
    let mut at = at;
    // SAFETY: one instruction on one register.
    unsafe {
        asm!("{at} &= {mask}", at = inout(reg) at, mask = const REACH - 1, options(pure, nomem, nostack))
    };
    at
}

/// Reads bytes word by word, wherever they lie: the compiler would read what may lie anywhere byte by byte, and each would take
/// a register and then a word of the 512 bytes of stack.
///
/// # Safety
/// `from` must be readable.
#[inline(always)]
unsafe fn read<const N: usize>(from: *const [u8; N]) -> [u8; N] {
    let mut to = Aligned(MaybeUninit::<[u8; N]>::uninit());
    let (from, into) = (from.cast::<u8>(), to.0.as_mut_ptr().cast::<u8>());
    let mut done = 0;
    // SAFETY: all within the N bytes of either; `into` is aligned to 8, and each word lies at a multiple of its size.
    unsafe {
        while done + 8 <= N {
            let word: u64;
            asm!("{word} = *(u64 *)({from} + 0)", word = out(reg) word, from = in(reg) from.add(done), options(pure, readonly, nostack));
            into.add(done).cast::<u64>().write(word);
            done += 8;
        }
        if done + 4 <= N {
            let word: u64;
            asm!("{word} = *(u32 *)({from} + 0)", word = out(reg) word, from = in(reg) from.add(done), options(pure, readonly, nostack));
            into.add(done).cast::<u32>().write(word as u32);
            done += 4;
        }
        if done + 2 <= N {
            let word: u64;
            asm!("{word} = *(u16 *)({from} + 0)", word = out(reg) word, from = in(reg) from.add(done), options(pure, readonly, nostack));
            into.add(done).cast::<u16>().write(word as u16);
            done += 2;
        }
        if done < N {
            into.add(done).write(from.add(done).read());
        }
        to.0.assume_init()
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
}

/// Not inlined: it stands in many places, and each would take its registers' worth of stack.
#[inline(never)]
fn fix(packet: &mut Xdp<'_>, at: u32, diff: u32, zero_is_none: bool) -> bool {
    let Some(old) = packet.load(at) else { return false };
    packet.store(at, fix_checksum(old, diff, zero_is_none)).is_some()
}

impl Packet for Xdp<'_> {
    #[inline(always)]
    fn length(&self) -> u32 {
        // Not the difference of the two ends: cut to 32 bits it becomes arithmetic on pointers, which the verifier refuses.
        // SAFETY: the context is valid for the whole run.
        (unsafe { helper::bpf_xdp_get_buff_len(self.raw()) }) as u32
    }

    #[inline(always)]
    fn is_merged(&self) -> bool {
        false
    }

    #[inline(always)]
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        if N <= READ_IN_PLACE {
            let from = self.at::<N>(at)?;
            // SAFETY: within the packet.
            return Some(unsafe { read(from) });
        }
        let mut aligned = Aligned(MaybeUninit::<[u8; N]>::uninit());
        let to = aligned.0.as_mut_ptr().cast();
        // SAFETY: the helper writes N bytes, all of them or it fails.
        match unsafe { helper::bpf_xdp_load_bytes(self.raw(), at, to, N as u32) } {
            // SAFETY: written.
            0 => Some(unsafe { aligned.0.assume_init() }),
            _ => None,
        }
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, at: u32, bytes: [u8; N]) -> Option<()> {
        self.store_new(at, &bytes)
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
        self.fix_transport_checksum(at, diff, false, false)
    }

    /// Nothing is left for a device to complete: what comes off a wire is whole.
    #[inline(always)]
    fn fix_transport_checksum(
        &mut self,
        at: u32,
        diff: u32,
        _pseudo: bool,
        zero_is_none: bool,
    ) -> Option<()> {
        fix(self, at, diff, zero_is_none).then_some(())
    }

    #[inline(always)]
    fn work_out(&self, change: &mut Change) {
        Kernel.repeat(Change::ROUNDS, |round| {
            change.step(round);
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

    #[inline(always)]
    fn parse(&self, s: &mut Scratch) -> Shape {
        steps::xdp_parse(self.raw(), s)
    }

    #[inline(always)]
    fn glance(&self, s: &mut Scratch) -> bool {
        steps::xdp_glance(self.raw(), s)
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

    /// Not inlined: the question takes 64 bytes of stack.
    #[inline(never)]
    fn next_hop(&self, tuple: &Tuple, length: u32, hop: &mut NextHop) {
        let mut query = fib::query(tuple, self.ifindex());
        query.__bindgen_anon_1.tot_len = length as u16;
        fib::ask(self.0.as_ptr(), &mut query, hop);
    }
}
