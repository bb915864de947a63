//! Which connections go on when what is balanced changes.

use std::collections::{HashMap, HashSet};

use proxy_abi::{Addr, Be16, Flow, FrontendKey, Tuple, flow_state, frontend_kind, proto};
use proxy_maps::FlowTable;
use proxy_state::Actual;
use skerry_kernel::Error;

/// Ends the flows that are to be balanced anew; see [`must_move`]. Returns how many.
pub fn end_stale(flows: &FlowTable, actual: &Actual) -> Result<usize, Error> {
    // A table has thousands of elements, and a virtual address thousands of flows.
    let mut balanced: HashMap<FrontendKey, Option<HashSet<(Addr, Be16)>>> = HashMap::new();
    let stale = flows.find(|key, flow| {
        let frontend =
            FrontendKey { addr: key.dst, port: key.dport, proto: key.proto, kind: frontend_kind::ADDRESS };
        let backends = balanced.entry(frontend).or_insert_with(|| actual.backends(&frontend));
        must_move(backends.as_ref(), key, flow)
    })?;
    flows.forget(&stale)
}

/// UDP moves as soon as its backend gets nothing new; a TCP connection stays with it, unless it was never
/// answered (its next SYN is a try elsewhere) or its virtual address is gone. `backends`: of the virtual
/// address, `None` if it is gone; `key` and `flow` are of the forward entry.
fn must_move(backends: Option<&HashSet<(Addr, Be16)>>, key: &Tuple, flow: &Flow) -> bool {
    match backends {
        None => true,
        Some(backends) if backends.contains(&(flow.to.dst, flow.to.dport)) => false,
        Some(_) => key.proto == proto::UDP || flow.state == flow_state::EMBRYONIC,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_moves_with_its_backend_and_tcp_stays_once_it_was_answered() {
        let backend = |n: u8| (Addr::from_v4([10, 0, 0, n]), Be16::new(80));
        let flow = |n: u8, state: u8| {
            let (dst, dport) = backend(n);
            Flow { to: Tuple { dst, dport, ..Tuple::default() }, state, ..Flow::default() }
        };
        let key = |proto: u8| Tuple { proto, ..Tuple::default() };
        let only_first = HashSet::from([backend(1)]);
        for (proto, n, state, moves) in [
            (proto::UDP, 1, flow_state::ESTABLISHED, false),
            (proto::UDP, 2, flow_state::ESTABLISHED, true),
            (proto::TCP, 2, flow_state::ESTABLISHED, false),
            (proto::TCP, 2, flow_state::CLOSING, false),
            (proto::TCP, 2, flow_state::EMBRYONIC, true),
            (proto::TCP, 1, flow_state::EMBRYONIC, false),
        ] {
            let (key, flow) = (key(proto), flow(n, state));
            assert_eq!(must_move(Some(&only_first), &key, &flow), moves, "{proto} {n} {state}");
            assert!(must_move(None, &key, &flow), "its virtual address is gone");
        }
    }
}
