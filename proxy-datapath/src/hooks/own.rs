//! What the node's own sockets open under a service's address.

use proxy_abi::OwnPort;

use crate::{
    state::scratch::{Fresh, Scratch},
    steps::call::TableSteps,
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
    s.to = s.view.tuple;
    s.fresh = Fresh::default();
    tables.note_own_port(OwnPort::Answers, s.to.sport);
    true
}
