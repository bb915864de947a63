//! What the node's own sockets open under a port that is not theirs alone.

use proxy_abi::{OwnPort, flow_flag, proto};

use crate::{
    state::scratch::{Fresh, Scratch},
    steps::call::{PacketSteps, TableSteps},
};

/// Prepares to record what the node itself sends from an address and port that a service has here, as a flow
/// that is translated to itself: its answers find that, and are not taken for a client's packets. Without
/// room for it they are. False: what answers a client of the service has a flow already, seen from the other
/// end.
#[inline(always)]
pub(crate) fn remember<T: TableSteps>(tables: &T, s: &mut Scratch) -> bool {
    s.view.tuple.flip_to(&mut s.reverse_key);
    if tables.flow(&s.reverse_key, |_| ()).is_some() {
        return false;
    }
    keep_as_it_is(tables, s);
    true
}

/// Whether a packet under the node's address is one that a program of ours has translated: its answers come
/// to a flow of somebody else's, whose socket, where it is one here, has sent it. The node's own socket may
/// have the same port, and a flow for it that this packet must not meet.
#[inline(always)]
pub(crate) fn is_translated<P: PacketSteps, T: TableSteps>(packet: &P, tables: &T, s: &mut Scratch) -> bool {
    s.view.tuple.flip_to(&mut s.reverse_key);
    let socket = packet.socket_port();
    let node = &s.view.src;
    tables.flow(&s.reverse_key, |flow| {
        flow.flags & flow_flag::REVERSE != 0
            && !flow.to.dst.same(node)
            && socket.is_none_or(|port| port.raw() != 0 && port.raw() == flow.to.dport.raw())
    }) == Some(true)
}

/// Prepares to record what a socket here opens from a port that a flow of ours may have been given, or may be
/// given later: where one has it, the packet gets another. False: it goes out as it is.
#[inline(always)]
pub(crate) fn share<T: TableSteps>(tables: &T, s: &mut Scratch) -> bool {
    s.view.tuple.flip_to(&mut s.reverse_key);
    let is_taken = match tables.flow(&s.reverse_key, |flow| flow.flags & flow_flag::REVERSE != 0) {
        // It answers a client, whose flow that is.
        Some(false) => return false,
        Some(true) => true,
        None => false,
    };
    // Of a datagram's port nothing is kept: each would have to be looked up.
    if !is_taken && s.view.proto != proto::TCP {
        return false;
    }
    keep_as_it_is(tables, s);
    true
}

#[inline(always)]
fn keep_as_it_is<T: TableSteps>(tables: &T, s: &mut Scratch) {
    s.to = s.view.tuple;
    s.fresh = Fresh::default();
    tables.note_own_port(OwnPort::Answers, s.to.sport);
}
