//! The connection table, which the program fills and we keep clean.

use std::{collections::HashMap, path::Path};

use proxy_abi::{Facts, Flow, FrontendKey, Seat, Tuple, flow_flag, flow_state, frontend_kind, map, proto};
use skerry_kernel::{Error, Map};

use crate::plan::Tables;

pub struct Flows {
    flows: Map<Tuple, Flow>,
}

impl Flows {
    pub fn open(root: &Path) -> Result<Flows, Error> {
        Ok(Flows { flows: Map::open(&root.join("maps").join(map::FLOWS))? })
    }

    /// How many seats the program is to use for flows that may be evicted.
    pub fn seats(&self) -> u32 {
        Seat::in_use(self.flows.info().max_entries)
    }

    /// Ends the flows that are to be balanced anew; see [`must_move`]. Returns how many.
    pub fn end_stale(&self, tables: &Tables) -> Result<usize, Error> {
        let mut stale = Vec::new();
        for (key, flow) in self.flows.entries()? {
            if must_move(tables, &key, &flow) {
                stale.push(key);
                stale.push(flow.to.flip());
            }
        }
        self.flows.delete_batch(&stale)
    }

    /// Removes flows that were silent in both directions for longer than their state allows. `now_s`: seconds
    /// of `CLOCK_MONOTONIC`, as the program counts them.
    pub fn collect(&self, facts: &Facts, now_s: u32) -> Result<usize, Error> {
        let entries: HashMap<Tuple, Flow> = self.flows.entries()?.into_iter().collect();
        let is_idle = |key: &Tuple, flow: &Flow| {
            now_s.saturating_sub(flow.seen_s) > timeout_s(facts, key.proto, flow.state)
        };
        let twin_is_idle = |flow: &Flow| {
            let twin = flow.to.flip();
            entries.get(&twin).is_none_or(|other| is_idle(&twin, other))
        };
        let silent: Vec<Tuple> = entries
            .iter()
            .filter(|(key, flow)| is_idle(key, flow) && twin_is_idle(flow))
            .map(|(key, _)| *key)
            .collect();
        self.flows.delete_batch(&silent)
    }
}

/// UDP moves as soon as its backend gets nothing new; a TCP connection stays with it, unless it was never answered (its
/// next SYN is a try elsewhere) or its virtual address is gone.
fn must_move(tables: &Tables, key: &Tuple, flow: &Flow) -> bool {
    if flow.flags & flow_flag::REVERSE != 0 {
        return false;
    }
    let frontend =
        FrontendKey { addr: key.dst, port: key.dport, proto: key.proto, kind: frontend_kind::ADDRESS };
    if tables.holds(&frontend, flow.to.dst, flow.to.dport) {
        return false;
    }
    key.proto == proto::UDP || flow.state == flow_state::EMBRYONIC || !tables.has(&frontend)
}

fn timeout_s(facts: &Facts, protocol: u8, state: u8) -> u32 {
    match (protocol, state) {
        (proto::TCP, flow_state::CLOSING) => facts.tcp_closing_s,
        (proto::TCP, flow_state::ESTABLISHED) => facts.tcp_established_s,
        (proto::TCP, _) => facts.tcp_syn_s,
        (proto::UDP, flow_state::EMBRYONIC) => facts.udp_s,
        (proto::UDP, _) => facts.udp_stream_s,
        _ => facts.icmp_s,
    }
}

/// The clock that the program stamps flows with.
pub fn monotonic_s() -> u32 {
    nix::time::ClockId::CLOCK_MONOTONIC.now().map_or(0, |now| now.tv_sec() as u32)
}
