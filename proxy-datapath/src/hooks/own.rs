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

/// Whose answers come to the port that a packet is from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The packet's, which one of our programs has translated already, or a client's that it answers.
    Itself,
    Another,
}

/// Prepares to record what a socket here opens from a port that a flow of ours may have been given, or may be
/// given later: where one has it, the packet gets another. False: it goes out as it is.
#[inline(always)]
pub(crate) fn share<P: PacketSteps, T: TableSteps>(packet: &P, tables: &T, s: &mut Scratch) -> bool {
    s.view.tuple.flip_to(&mut s.reverse_key);
    let socket = packet.socket_port();
    let owner = tables.flow(&s.reverse_key, |flow| {
        let translated = flow.flags & flow_flag::REVERSE != 0;
        let is_its_own = socket.is_some_and(|port| port.raw() == flow.to.dport.raw());
        if translated && !is_its_own { Owner::Another } else { Owner::Itself }
    });
    match owner {
        Some(Owner::Itself) => return false,
        // Of a datagram's port nothing is kept: each would have to be looked up.
        None if s.view.proto != proto::TCP => return false,
        Some(Owner::Another) | None => {}
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
