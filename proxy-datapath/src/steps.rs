//! The steps that hooks are made of: look up a flow, find a service, locate, record, rewrite, forward,
//! refuse.
//!
//! Here belongs what decides by the tables and takes down what it found in [`Scratch`]; a hook says in which
//! order.
//!
//! In the kernel each is a function of its own that the verifier walks once, by itself ("global function",
//! kernel commit 51c39bb1d5d1): what follows one is not walked again for each way through it. For that a step
//! takes pointers to a packet's context and to [`Scratch`] only, and answers with a number; all else it says
//! lies in the scratch memory. Hooks call them through [`TableSteps`] and [`PacketSteps`]; elsewhere than in
//! the kernel these call the functions here.

mod answer;
pub(crate) mod call;
mod create;
pub(crate) mod direct;
mod flow;
pub(crate) mod forward;
mod fragment;
pub(crate) mod own;
pub(crate) mod path;
pub(crate) mod peers;
mod seat;
pub(crate) mod service;

use proxy_abi::{Facts, OwnPort, Reason, flow_flag, path_known};

pub use self::call::{PacketSteps, TableSteps};
use self::{fragment::follow, service::Service};
use crate::{
    packets::{
        self,
        packet::{Packet, Way},
        view::Shape,
    },
    state::{
        choice::{Found, Sender, Side},
        hop::Place,
        scratch::Scratch,
        tables::Tables,
        verdict::{Action, Verdict},
    },
};

/// Reads a packet's headers into `s.view`. [`Shape::Broken`]: `s.verdict` says why.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, s: &mut Scratch) -> Shape {
    s.forget_path();
    let shape = packets::parse::parse(packet, &mut s.view, &mut s.head).unwrap_or_else(|reason| {
        s.verdict = Verdict::drop(reason);
        Shape::Broken
    });
    if !matches!(shape, Shape::Ip) {
        // The record of a drop names what could be read, and nothing of the packet before.
        s.view.name_addresses();
    }
    shape
}

/// Whose packet it is that leaves by an uplink.
#[inline(always)]
pub fn sender<P: Packet, T: Tables>(packet: &P, tables: &T, s: &mut Scratch) -> Sender {
    tables.facts().map_or(Sender::Other, |facts| own::sender(packet, tables, &s.view, facts))
}

/// Whether a socket of the node opens something from an address and port that a service has here.
#[inline(always)]
pub fn speaks_from_service<P: Packet, T: Tables>(packet: &P, tables: &T, s: &mut Scratch) -> bool {
    tables.facts().is_some_and(|facts| own::speaks_from_service(packet, tables, &s.view, facts))
}

/// Looks up the packet's flow, notes the packet in it and copies its translation to `s.to`; `s.lively` tells
/// whether another packet of it came in this second, `s.direct` whether it goes on untouched.
#[inline(always)]
pub fn find_flow<T: Tables>(tables: &T, s: &mut Scratch) -> bool {
    let Some(facts) = tables.facts() else { return false };
    follow(tables, &mut s.view);
    let now_s = tables.now_s();
    s.forget_path();
    if !flow::find(tables, s, facts, now_s) {
        s.known = 0;
        return false;
    }
    s.lively = s.flow.seen_s == now_s;
    s.kept = s.known;
    true
}

/// Whether answers to the packet, as it is, would be taken for another flow's.
#[inline(always)]
pub fn answers_are_taken<T: Tables>(tables: &T, s: &mut Scratch) -> bool {
    flow::answers_are_taken(tables, s)
}

/// Finds the service that a packet is for and draws its backend into `s.choice`. [`Found::Drop`]: `s.verdict`
/// says why.
#[inline(always)]
pub fn find_service<T: Tables>(tables: &T, s: &mut Scratch, side: Side) -> Found {
    let Some(facts) = tables.facts() else { return Found::No };
    match service::find(tables, s, facts, side) {
        Service::No => Found::No,
        Service::Backend => Found::Backend,
        Service::Reject => Found::Reject,
        Service::SourceUnknown => Found::SourceUnknown,
        Service::Drop(reason) => {
            s.verdict = Verdict::drop(reason);
            Found::Drop
        }
    }
}

/// Finds where `s.to.dst` lives: `s.hop`.
#[inline(always)]
pub fn locate<T: Tables>(tables: &T, s: &mut Scratch) {
    if let Some(facts) = tables.facts() {
        forward::locate(tables, facts, &s.to.dst, &mut s.hop);
    }
}

/// How the recording of a flow ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Recorded {
    /// Not at all: `s.verdict` says why.
    Refused = 0,
    /// The flow has its entries, and the packet may go.
    Done = 1,
    /// By another CPU, a moment before.
    Before = 2,
}

/// Records `s.view.tuple` → `s.to` as `s.fresh` says, and chooses a source port where one is needed.
#[inline(always)]
pub fn record<T: Tables>(tables: &T, s: &mut Scratch) -> Recorded {
    let recorded = match tables.facts() {
        Some(facts) => {
            // Before its first answer can come.
            note_own_ports(tables, s, facts);
            match s.fresh.flags & flow_flag::DIRECT {
                0 => create::create(tables, s, facts, tables.now_s()),
                _ => Ok(direct::record(tables, s, facts, tables.now_s())),
            }
        }
        None => Err(Reason::FlowTableFull),
    };
    match recorded {
        Ok(true) => Recorded::Done,
        Ok(false) => Recorded::Before,
        Err(reason) => {
            s.verdict = Verdict::drop(reason);
            Recorded::Refused
        }
    }
}

/// Where a flow from outside meets the node's own addresses, and whom a pod's flow meets: see
/// [`OwnPorts`](proxy_abi::OwnPorts).
#[inline(always)]
fn note_own_ports<T: Tables>(tables: &T, s: &Scratch, facts: &Facts) {
    if s.fresh.flags & flow_flag::FROM_UPLINK == 0 {
        if s.fresh.flags & flow_flag::DNAT != 0 {
            tables.note_own_port(OwnPort::Answers, s.to.dport);
        }
        return;
    }
    if s.view.dst.same(facts.node(s.view.v4)) {
        tables.note_own_port(OwnPort::Asked, s.view.tuple.dport);
    }
    if matches!(s.hop.place, Place::Node) {
        tables.note_own_port(OwnPort::Answers, s.to.dport);
    }
}

/// Turns the packet's tuple `s.view.tuple` into `s.to`; its IP header in `s.head` only. False: `s.verdict`
/// says why not.
#[inline(always)]
pub fn rewrite<P: Packet>(packet: &mut P, s: &mut Scratch) -> bool {
    let done = packets::rewrite::rewrite(packet, &mut s.view, &mut s.head, &s.to);
    settle(done, s)
}

/// Tells the packet's flow where its packets go, for those that come in the same second.
#[inline(always)]
pub fn keep<P: Packet, T: Tables>(packet: &P, tables: &T, s: &mut Scratch) {
    if matches!(s.hop.place, Place::Outside | Place::Routed) && !s.knows(path_known::NEXT_HOP) {
        packet.way_out(&s.to, &mut s.next);
        if matches!(s.next.way, Way::Found) {
            s.known |= path_known::NEXT_HOP;
        }
    }
    path::keep(tables, s);
}

/// Writes what has changed in `s.head`. False: `s.verdict` says that it could not be.
#[inline(always)]
pub fn write<P: Packet>(packet: &mut P, s: &mut Scratch) -> bool {
    let written = packet.write_head(s.view.v4, &s.head).is_some();
    if !written {
        s.verdict = Verdict::drop(Reason::RewriteFailed);
    }
    written
}

/// Prepares a packet, already translated, for its way to `s.hop`, and writes its headers: `s.verdict`.
#[inline(always)]
pub fn forward<P: Packet>(packet: &mut P, s: &mut Scratch, facts: &Facts) {
    s.verdict = forward::prepare(packet, s, facts);
    if !matches!(s.verdict.action, Action::Drop) {
        write(packet, s);
    }
}

/// Turns the packet into its own refusal: `s.verdict`.
#[inline(always)]
pub fn reject<P: Packet>(packet: &mut P, s: &mut Scratch) {
    s.verdict = answer::reject(packet, &s.view);
}

/// Turns the packet into the answer that `mtu` bytes would fit: `s.verdict`.
#[inline(always)]
pub fn too_big<P: Packet>(packet: &mut P, s: &mut Scratch, mtu: u32) {
    s.verdict = answer::too_big(packet, &s.view, mtu);
}

/// Turns the packet into the answer that it was on its last hop here, at `s.to.src`: `s.verdict`.
#[inline(always)]
pub fn expired<P: Packet>(packet: &mut P, s: &mut Scratch) {
    s.verdict = answer::expired(packet, &s.view, &s.to.src);
}

#[inline(always)]
fn settle(done: Result<(), Reason>, s: &mut Scratch) -> bool {
    if let Err(reason) = done {
        s.verdict = Verdict::drop(reason);
    }
    done.is_ok()
}
