//! `OWN_PORTS` when an agent of a version without it ran here before: what its flows would have marked.

use std::collections::HashMap;

use bytemuck::Zeroable;
use proxy_abi::{Flow, OwnPort, OwnPorts, Tuple, flow_flag, map};
use skerry_kernel::{Error, Map, Update};

use crate::programs::pins::Pins;

/// Whether flows are there and no marks: asked before the maps are created.
pub(crate) fn is_missing(pins: &Pins) -> bool {
    let has_flows = [map::FLOWS, map::FLOWS_OLD].iter().any(|name| pins.map(name).exists());
    has_flows && !pins.map(map::OWN_PORTS).exists()
}

/// Marks the ports of all flows that came in from outside, adopted ones among them. One mark too many costs a
/// look-up, so a flow's both ports get both.
pub(crate) fn mark(pins: &Pins) -> Result<(), Error> {
    let marks: Map<u32, OwnPorts> = Map::open(&pins.map(map::OWN_PORTS))?;
    let flows: Map<Tuple, Flow> = Map::open(&pins.map(map::FLOWS))?;
    for (element, ports) in of_flows(&flows.entries()?) {
        marks.update(&element, &ports, Update::Any)?;
    }
    Ok(())
}

fn of_flows(flows: &[(Tuple, Flow)]) -> HashMap<u32, OwnPorts> {
    let mut marks = HashMap::new();
    for (key, flow) in flows {
        if flow.flags & flow_flag::FROM_UPLINK == 0 || flow.flags & flow_flag::REVERSE != 0 {
            continue;
        }
        for (kind, port) in [(OwnPort::Asked, key.dport), (OwnPort::Answers, flow.to.dport)] {
            let (element, place) = OwnPorts::place(kind, port);
            let ports: &mut OwnPorts = marks.entry(element).or_insert_with(OwnPorts::zeroed);
            ports.marks[place] = 1;
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use proxy_abi::{Addr, Be16, proto};

    use super::*;

    #[test]
    fn both_ports_of_a_flow_from_outside_are_marked() {
        let client = Addr::from_v4([192, 0, 2, 1]);
        let node = Addr::from_v4([10, 0, 0, 1]);
        let key = Tuple::new(client, Be16::new(40_000), node, Be16::new(30_080), proto::TCP);
        let to = Tuple::new(client, Be16::new(40_000), node, Be16::new(8_080), proto::TCP);
        let flow = Flow { to, flags: flow_flag::FROM_UPLINK | flow_flag::DNAT, ..Flow::default() };
        let reverse = Flow { to: key.flip(), flags: flow.flags | flow_flag::REVERSE, ..Flow::default() };
        let inside = Flow { flags: flow_flag::DNAT, ..flow };
        let marks = of_flows(&[(key, flow), (to.flip(), reverse), (key, inside)]);
        let mut marked = Vec::new();
        for kind in [OwnPort::Asked, OwnPort::Answers] {
            for port in 0..=u16::MAX {
                let (element, place) = OwnPorts::place(kind, Be16::new(port));
                if marks.get(&element).is_some_and(|ports| ports.marks[place] != 0) {
                    marked.push((kind, port));
                }
            }
        }
        assert_eq!(marked, [(OwnPort::Asked, 30_080), (OwnPort::Answers, 8_080)]);
    }
}
