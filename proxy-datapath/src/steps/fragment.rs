//! The pieces of a datagram.

use proxy_abi::{FragmentKey, FragmentPorts};

use crate::{
    packets::view::{Kind, View},
    state::tables::Tables,
};

/// Fragments: the first one has the ports, the others go where it went. One that overtakes the first of its
/// datagram keeps ports of 0: it passes where addresses suffice and is dropped where something had to be
/// translated.
#[inline(always)]
pub(crate) fn follow<T: Tables>(tables: &T, view: &mut View) {
    if !view.fragment {
        return;
    }
    let key = FragmentKey {
        src: view.src,
        dst: view.dst,
        id: view.fragment_id,
        proto: view.proto,
        reserved: [0; 3],
    };
    match view.kind {
        Kind::Ports | Kind::Echo => {
            let ports = FragmentPorts { sport: view.tuple.sport, dport: view.tuple.dport };
            tables.set_fragment(&key, &ports);
        }
        Kind::Fragment => {
            if let Some(ports) = tables.fragment(&key) {
                view.tuple.sport = ports.sport;
                view.tuple.dport = ports.dport;
            }
        }
        Kind::Other | Kind::Error => {}
    }
}
