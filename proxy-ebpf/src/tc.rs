//! The tc hooks: a verdict of the datapath becomes calls of helpers, a counter and, for a drop, an event.

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated as helper,
    macros::classifier,
    programs::TcContext,
};
use proxy_abi::{DropEvent, LOST_EVENTS, Reason};
use proxy_datapath::{Action, Packet, Scratch, Tables, Tunnel, Verdict, View};

use crate::{
    maps::{COUNTERS, EVENTS},
    skb::Skb,
    steps::scratch,
    tables::Kernel,
};

#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let Some(mut run) = Run::start(&ctx) else { return TC_ACT_UNSPEC };
    let ifindex = run.skb.ifindex();
    let verdict = proxy_datapath::from_pod(&mut run.skb, &Kernel, run.scratch, ifindex);
    run.finish(&verdict)
}

#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    let Some(mut run) = Run::start(&ctx) else { return TC_ACT_UNSPEC };
    let verdict = proxy_datapath::to_pod(&mut run.skb, &Kernel, run.scratch);
    run.finish(&verdict)
}

#[classifier]
pub fn from_overlay(ctx: TcContext) -> i32 {
    let Some(mut run) = Run::start(&ctx) else { return TC_ACT_UNSPEC };
    let mut outer = Tunnel::default();
    // A pointer, and no value that is undefined where there is none: the verifier refuses to keep such a one.
    let outer = if run.skb.tunnel(&mut outer) { Some(&outer) } else { None };
    let verdict = proxy_datapath::from_overlay(&mut run.skb, &Kernel, run.scratch, outer);
    run.finish(&verdict)
}

#[classifier]
pub fn to_overlay(ctx: TcContext) -> i32 {
    let Some(mut run) = Run::start(&ctx) else { return TC_ACT_UNSPEC };
    // The stack routes by replacing the skb's destination: only a packet of ours still has tunnel metadata
    // here.
    let keyed = run.skb.tunnel(&mut Tunnel::default());
    let verdict = proxy_datapath::to_overlay(&mut run.skb, &Kernel, run.scratch, keyed);
    run.finish(&verdict)
}

#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    let Some(mut run) = Run::start(&ctx) else { return TC_ACT_UNSPEC };
    let verdict = proxy_datapath::from_uplink(&mut run.skb, &Kernel, run.scratch);
    run.finish(&verdict)
}

#[classifier]
pub fn to_uplink(ctx: TcContext) -> i32 {
    let Some(mut run) = Run::start(&ctx) else { return TC_ACT_UNSPEC };
    let ifindex = run.skb.ifindex();
    let verdict = proxy_datapath::to_uplink(&mut run.skb, &Kernel, run.scratch, ifindex);
    run.finish(&verdict)
}

/// One packet's way through a program.
struct Run<'a> {
    skb: Skb<'a>,
    scratch: &'a mut Scratch,
    length: u32,
}

impl<'a> Run<'a> {
    #[inline(always)]
    fn start(ctx: &'a TcContext) -> Option<Run<'a>> {
        let scratch = scratch()?;
        let skb = Skb::new(ctx);
        let length = skb.length();
        Some(Run { skb, scratch, length })
    }

    #[inline(always)]
    fn finish(&self, verdict: &Verdict) -> i32 {
        count(verdict.reason as u32, self.length);
        match verdict.action {
            Action::Pass => TC_ACT_UNSPEC,
            Action::Drop => {
                report(self.skb.ifindex(), &self.scratch.view, verdict.reason, self.length);
                TC_ACT_SHOT
            }
            // SAFETY: plain numbers; the helper checks the device.
            Action::Deliver => unsafe { helper::bpf_redirect_peer(verdict.ifindex, 0) as i32 },
            // SAFETY: as above; no next hop is given, the kernel's routes name it.
            Action::Out => unsafe {
                helper::bpf_redirect_neigh(verdict.ifindex, core::ptr::null_mut(), 0, 0) as i32
            },
            // SAFETY: as above.
            Action::Addressed => unsafe { helper::bpf_redirect(verdict.ifindex, 0) as i32 },
            // SAFETY: as above.
            Action::Answer => unsafe { helper::bpf_redirect(self.skb.ifindex(), 0) as i32 },
            // SAFETY: as above.
            Action::TakenIn => unsafe {
                helper::bpf_redirect(self.skb.ifindex(), BPF_F_INGRESS as u64) as i32
            },
            Action::Tunnel | Action::Keyed => self.tunnel(verdict),
        }
    }

    #[inline(always)]
    fn tunnel(&self, verdict: &Verdict) -> i32 {
        let Some(facts) = Kernel.facts() else { return TC_ACT_SHOT };
        if !self.skb.set_tunnel(&verdict.node, facts) {
            return TC_ACT_SHOT;
        }
        if matches!(verdict.action, Action::Keyed) {
            return TC_ACT_UNSPEC;
        }
        // SAFETY: plain numbers; the helper checks the device.
        unsafe { helper::bpf_redirect(facts.overlay_ifindex, 0) as i32 }
    }
}

#[inline(always)]
pub(crate) fn count(index: u32, length: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: this CPU's own element, in bounds because the lookup gave it.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += length as u64;
        }
    }
}

#[inline(always)]
pub(crate) fn report(ifindex: u32, view: &View, reason: Reason, length: u32) {
    let Some(mut event) = EVENTS.reserve(0) else {
        count(LOST_EVENTS, length);
        return;
    };
    event.write(DropEvent {
        // SAFETY: takes no argument.
        time_ns: unsafe { helper::bpf_ktime_get_ns() },
        tuple: view.tuple,
        ifindex,
        length,
        reason: reason as u8,
        reserved: [0; 7],
    });
    event.submit(0);
}
