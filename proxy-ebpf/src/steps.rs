//! The datapath's steps as global functions: the verifier walks each once, by itself (kernel commit 51c39bb1d5d1).
//!
//! It knows a context by its type and takes every other pointer for one that may be null, to as many bytes as its type has.
//! Exported, which makes them global; callers inside this object only.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    programs::{TcContext, XdpContext},
};
use proxy_datapath::{Found, Scratch, Shape, Side, Tables, step};

use crate::{skb::Skb, tables::Kernel, xdp::Xdp};

/// `$step` answers `$null` where the verifier thinks that there is no scratch memory.
macro_rules! global {
    ($($name:ident($s:ident $(, $argument:ident: $kind:ty)*) -> $answer:ty, $null:expr, $step:expr;)*) => {$(
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $name(s: *mut Scratch $(, $argument: $kind)*) -> $answer {
            // SAFETY: callers pass the scratch memory of their CPU, which nobody else uses meanwhile.
            let Some($s) = (unsafe { s.as_mut() }) else { return $null };
            $step
        }
    )*};
}

global! {
    find_flow(s) -> bool, false, step::find_flow(&Kernel, s);
    find_service(s, side: Side) -> Found, Found::No, step::find_service(&Kernel, s, side);
    locate(s) -> u32, 0, { step::locate(&Kernel, s); 0 };
    record_flow(s) -> bool, false, step::record_flow(&Kernel, s);
}

macro_rules! global_packet {
    ($context:ty, $packet:expr => $($name:ident($p:ident, $s:ident $(, $argument:ident: $kind:ty)*) -> $answer:ty, $null:expr, $step:expr;)*) => {$(
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $name(context: *mut $context, s: *mut Scratch $(, $argument: $kind)*) -> $answer {
            // SAFETY: as above.
            let Some($s) = (unsafe { s.as_mut() }) else { return $null };
            let context = $packet(context);
            let $p = &mut context.packet();
            $step
        }
    )*};
}

global_packet! { __sk_buff, TcContext::new =>
    skb_parse(packet, s) -> Shape, Shape::Broken, step::parse(packet, s);
    skb_rewrite(packet, s) -> bool, false, step::rewrite(packet, s);
    skb_forward(packet, s) -> u32, 0, { forward(packet, s); 0 };
    skb_reject(packet, s) -> u32, 0, { step::reject(packet, s); 0 };
    skb_too_big(packet, s, mtu: u32) -> u32, 0, { step::too_big(packet, s, mtu); 0 };
}

global_packet! { xdp_md, XdpContext::new =>
    xdp_parse(packet, s) -> Shape, Shape::Broken, step::parse(packet, s);
    xdp_rewrite(packet, s) -> bool, false, step::rewrite(packet, s);
    xdp_reject(packet, s) -> u32, 0, { step::reject(packet, s); 0 };
    xdp_too_big(packet, s, mtu: u32) -> u32, 0, { step::too_big(packet, s, mtu); 0 };
}

#[inline(always)]
fn forward(packet: &mut Skb<'_>, s: &mut Scratch) {
    if let Some(config) = Kernel.config() {
        step::forward(packet, s, config);
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
