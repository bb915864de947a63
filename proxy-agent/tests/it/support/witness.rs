//! What moved while something was lost: the programs' counters by reason, the kernel's own, and flows that
//! were never established.

use std::collections::BTreeMap;

use proxy_abi::{Counter, Flow, Reason, Tuple, flow_state, map};
use skerry_kernel::{Map, PerCpuMap};
use skerry_lab::Netns;

use super::TestNode;

/// Counters as they stood at one moment.
pub struct Witness(BTreeMap<String, u64>);

impl Witness {
    pub fn of(node: &TestNode, others: &[(&str, &Netns)]) -> Witness {
        let mut all = BTreeMap::new();
        let counters = PerCpuMap::<u32, Counter>::open(&node.pin("maps", map::COUNTERS)).unwrap();
        for reason in Reason::ALL {
            let cpus = counters.lookup(&u32::from(*reason as u8)).unwrap().unwrap_or_default();
            all.insert(
                format!("packets {}", reason.label()),
                cpus.iter().map(|counter| counter.packets).sum(),
            );
        }
        for (name, netns) in others.iter().copied().chain([("node", &node.netns)]) {
            let text = netns.sh("cat /proc/net/snmp /proc/net/netstat").unwrap();
            all.extend(kernel_counters(&text).map(|(counter, value)| (format!("{name} {counter}"), value)));
        }
        Witness(all)
    }

    /// Prints what differs from `before`, and the flows that wait for an answer.
    pub fn report(&self, before: &Witness, node: &TestNode) {
        for (name, now) in &self.0 {
            let then = before.0.get(name).copied().unwrap_or(0);
            if *now != then {
                println!("  {name}: +{}", now.wrapping_sub(then));
            }
        }
        let flows = Map::<Tuple, Flow>::open(&node.pin("maps", map::FLOWS)).unwrap().entries().unwrap();
        println!("  {} entries of flows", flows.len());
        for (tuple, flow) in flows.iter().filter(|(_, flow)| flow.state == flow_state::EMBRYONIC) {
            println!("  half known: {tuple:?} -> {flow:?}");
        }
    }
}

/// `Tcp: A B` above `Tcp: 1 2`, as `/proc/net/snmp` has it.
fn kernel_counters(text: &str) -> impl Iterator<Item = (String, u64)> {
    let lines: Vec<&str> = text.lines().collect();
    let pairs: Vec<(String, u64)> = lines
        .chunks_exact(2)
        .flat_map(|pair| {
            let group = pair[0].split(':').next().unwrap_or_default();
            let names = pair[0].split_whitespace().skip(1);
            let values = pair[1].split_whitespace().skip(1);
            names
                .zip(values)
                .filter_map(|(name, value)| Some((format!("{group}.{name}"), value.parse().ok()?)))
                .collect::<Vec<_>>()
        })
        .collect();
    pairs.into_iter()
}
