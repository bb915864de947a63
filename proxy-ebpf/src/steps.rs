//! The datapath's steps as global functions: the verifier walks each once, by itself (kernel commit
//! 51c39bb1d5d1).
//!
//! Exported, which makes them global; callers inside this object only. The verifier knows a context by its
//! type and takes every other pointer for one to so many bytes that may be null. Up to Linux 6.1 such memory
//! can be no key and no value of a map, as an element of a map can: hence each step asks for the scratch
//! memory itself.

use core::arch::asm;

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    btf_maps::PerCpuArray,
    macros::btf_map,
    programs::{TcContext, XdpContext},
};
use proxy_datapath::{
    Found, Scratch, Sender, Shape, Side, Tables,
    steps::{self, Recorded},
};

use crate::{skb::Skb, tables::Kernel, xdp::Xdp};

/// Working memory of the packet in hand, one a CPU: tc and XDP programs run with bottom halves off, so none
/// meets another's.
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// This CPU's scratch memory, once a run: [`again`] is for what is called with it.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: the element is this CPU's alone for the length of the run.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

/// The scratch memory that the caller has passed.
#[inline(always)]
fn again<'a>(passed: *mut Scratch) -> Option<&'a mut Scratch> {
    let mut own = SCRATCH.get_ptr_mut(0)?;
    // The same element. The compiler may not know that, or it would think that the caller's is left alone.
    // SAFETY: one register into itself: without an instruction two lines would have one place in BTF.
    unsafe { asm!("{own} = {own} // {passed}", own = inout(reg) own, passed = in(reg) passed) };
    // SAFETY: the caller has lent it for the length of this call.
    Some(unsafe { &mut *own })
}

/// `$null` is the answer if there were no scratch memory, as the verifier thinks there could be.
macro_rules! global {
    ($($name:ident($s:ident $(, $argument:ident: $kind:ty)*) -> $answer:ty, $null:expr, $step:expr;)*) => {$(
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $name(s: *mut Scratch $(, $argument: $kind)*) -> $answer {
            let Some($s) = again(s) else { return $null };
            $step
        }
    )*};
}

global! {
    find_flow(s) -> bool, false, steps::find_flow(&Kernel, s);
    answers_are_taken(s) -> bool, false, steps::answers_are_taken(&Kernel, s);
    find_service(s, side: Side) -> Found, Found::No, steps::find_service(&Kernel, s, side);
    locate(s) -> u32, 0, { steps::locate(&Kernel, s); 0 };
    record(s) -> Recorded, Recorded::Refused, steps::record(&Kernel, s);
}

macro_rules! global_packet {
    ($context:ty, $packet:expr => $($name:ident($p:ident, $s:ident $(, $argument:ident: $kind:ty)*) -> $answer:ty, $null:expr, $step:expr;)*) => {$(
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $name(context: *mut $context, s: *mut Scratch $(, $argument: $kind)*) -> $answer {
            let Some($s) = again(s) else { return $null };
            let context = $packet(context);
            let $p = &mut context.packet();
            $step
        }
    )*};
}

global_packet! { __sk_buff, TcContext::new =>
    skb_parse(packet, s) -> Shape, Shape::Broken, steps::parse(packet, s);
    skb_sender(packet, s) -> Sender, Sender::Other, steps::sender(packet, &Kernel, s);
    skb_speaks_from_service(packet, s) -> bool, false, steps::speaks_from_service(packet, &Kernel, s);
    skb_keep(packet, s) -> u32, 0, { steps::keep(packet, &Kernel, s); 0 };
    skb_rewrite(packet, s) -> bool, false, steps::rewrite(packet, s);
    skb_forward(packet, s) -> u32, 0, { forward(packet, s); 0 };
    skb_reject(packet, s) -> u32, 0, { steps::reject(packet, s); 0 };
    skb_expired(packet, s) -> u32, 0, { steps::expired(packet, s); 0 };
    skb_too_big(packet, s, mtu: u32) -> u32, 0, { steps::too_big(packet, s, mtu); 0 };
}

global_packet! { xdp_md, XdpContext::new =>
    xdp_parse(packet, s) -> Shape, Shape::Broken, steps::parse(packet, s);
    xdp_rewrite(packet, s) -> bool, false, steps::rewrite(packet, s);
    xdp_reject(packet, s) -> u32, 0, { steps::reject(packet, s); 0 };
    xdp_too_big(packet, s, mtu: u32) -> u32, 0, { steps::too_big(packet, s, mtu); 0 };
}

#[inline(always)]
fn forward(packet: &mut Skb<'_>, s: &mut Scratch) {
    if let Some(facts) = Kernel.facts() {
        steps::forward(packet, s, facts);
    }
}

/// A context's packet.
trait Context {
    type Packet<'a>
    where
        Self: 'a;

    fn packet(&self) -> Self::Packet<'_>;
}

impl Context for TcContext {
    type Packet<'a> = Skb<'a>;

    #[inline(always)]
    fn packet(&self) -> Skb<'_> {
        Skb::new(self)
    }
}

impl Context for XdpContext {
    type Packet<'a> = Xdp<'a>;

    #[inline(always)]
    fn packet(&self) -> Xdp<'_> {
        Xdp::new(self)
    }
}
