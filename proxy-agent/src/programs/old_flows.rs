//! Flows that programs of older versions keep, in other places or another layout: they come along, or an
//! upgrade would cut connections.
//!
//! Up to ABI 5 a flow had no [`Path`](proxy_abi::Path), up to ABI 3 it was in `FLOWS_NEW` until it was
//! answered. What is attached when an agent starts goes on with the old tables until it is replaced, so they
//! are copied when the new table is made, and once more when all programs use it.

use std::path::PathBuf;

use bytemuck::{Pod, Zeroable};
use proxy_abi::{Flow, Tuple, map};
use skerry_kernel::{Error, Map, Update};

use crate::programs::pins::Pins;

/// [`Flow`] of ABI 5 and older.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct OldFlow {
    to: Tuple,
    service_id: u32,
    seen_s: u32,
    flags: u16,
    state: u8,
    reserved: u8,
    packets: u16,
    seat: u16,
}

impl From<OldFlow> for Flow {
    fn from(old: OldFlow) -> Flow {
        let OldFlow { to, service_id, seen_s, flags, state, reserved: _, packets, seat } = old;
        Flow { to, service_id, seen_s, flags, state, packets, seat, ..Flow::default() }
    }
}

/// Whether a table of flows is one that [`adopt`] can read.
pub(crate) fn is_known(key_size: u32, value_size: u32) -> bool {
    (key_size as usize, value_size as usize) == (size_of::<Tuple>(), size_of::<OldFlow>())
}

/// The tables of older versions that are still there.
fn tables(pins: &Pins) -> impl Iterator<Item = PathBuf> {
    [map::FLOWS_OLD, map::FLOWS_NEW].map(|name| pins.map(name)).into_iter().filter(|path| path.exists())
}

/// What is in them.
pub(crate) fn entries(pins: &Pins) -> Result<Vec<(Tuple, Flow)>, Error> {
    let mut all = Vec::new();
    for path in tables(pins) {
        let old = Map::<Tuple, OldFlow>::open(&path)?.entries()?;
        all.extend(old.into_iter().map(|(key, flow)| (key, flow.into())));
    }
    Ok(all)
}

/// Copies them to where programs of today look for them; of a flow that is there already the one holds that
/// had a packet last. Returns how many entries were copied. Those for which there is no room stay behind.
pub(crate) fn adopt(pins: &Pins) -> Result<usize, Error> {
    let old = entries(pins)?;
    if old.is_empty() {
        return Ok(0);
    }
    let flows: Map<Tuple, Flow> = Map::open(&pins.map(map::FLOWS))?;
    let mut copied = 0;
    for (index, (key, flow)) in old.iter().enumerate() {
        match flows.update(key, flow, Update::Insert) {
            Ok(()) => copied += 1,
            Err(error) if error.is_exists() => {
                if flows.lookup(key)?.is_some_and(|known| known.seen_s < flow.seen_s) {
                    flows.update(key, flow, Update::Any)?;
                    copied += 1;
                }
            }
            Err(error) if error.is_full() => {
                let left = old.len() - index;
                tracing::error!(left, "the flow table is full: connections of the version before are lost");
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(copied)
}

/// No program uses them any more.
pub(crate) fn remove(pins: &Pins) -> Result<(), crate::programs::pins::PinsError> {
    tables(pins).try_for_each(|path| pins.remove(&path))
}

#[cfg(test)]
mod tests {
    use proxy_abi::{Addr, Be16, flow_state, proto};
    use skerry_kernel::{MapSpec, map_type};

    use super::*;

    struct Scene {
        pins: Pins,
        flows: Map<Tuple, Flow>,
    }

    impl Scene {
        fn new(name: &str, room: u32) -> Scene {
            let root = format!("/sys/fs/bpf/skerry-old-flows-{name}-{}", std::process::id());
            let pins = Pins::new(root.as_ref());
            pins.prepare().unwrap();
            let flows = make(&pins, map::FLOWS, room);
            Scene { pins, flows }
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(self.pins.root());
        }
    }

    fn make<V: Pod>(pins: &Pins, name: &'static str, max_entries: u32) -> Map<Tuple, V> {
        let spec = MapSpec { name, map_type: map_type::HASH, max_entries, flags: 0 };
        let made = Map::<Tuple, V>::create(&spec).unwrap();
        made.pin(&pins.map(name)).unwrap();
        made
    }

    fn key(port: u16) -> Tuple {
        let client = Addr::from_v4([192, 0, 2, 1]);
        Tuple::new(client, Be16::new(port), client, Be16::new(80), proto::TCP)
    }

    fn old(state: u8) -> OldFlow {
        OldFlow { to: key(9), service_id: 7, seen_s: 50, state, packets: 3, seat: 4, ..OldFlow::zeroed() }
    }

    #[test]
    fn flows_come_along_and_of_two_the_one_that_was_used_last() {
        let scene = Scene::new("stay", 8);
        assert_eq!(adopt(&scene.pins).unwrap(), 0, "no older version was here");
        let used = |seen_s| Flow { state: flow_state::ESTABLISHED, seen_s, ..Flow::default() };
        for (port, seen_s) in [(1, 50), (4, 49)] {
            scene.flows.update(&key(port), &used(seen_s), Update::Any).unwrap();
        }
        let table = make(&scene.pins, map::FLOWS_OLD, 8);
        for port in [1, 2, 4] {
            table.update(&key(port), &old(flow_state::CLOSING), Update::Any).unwrap();
        }
        let unanswered = make(&scene.pins, map::FLOWS_NEW, 8);
        unanswered.update(&key(3), &old(flow_state::EMBRYONIC), Update::Any).unwrap();
        assert_eq!([adopt(&scene.pins).unwrap(), adopt(&scene.pins).unwrap()], [3, 0]);
        let now = [1, 2, 3, 4].map(|port| scene.flows.lookup(&key(port)).unwrap().unwrap());
        let flow = |state| Flow {
            to: key(9),
            service_id: 7,
            seen_s: 50,
            state,
            packets: 3,
            seat: 4,
            ..Flow::default()
        };
        let closing = flow(flow_state::CLOSING);
        assert_eq!(now, [used(50), closing, flow(flow_state::EMBRYONIC), closing]);
        remove(&scene.pins).unwrap();
        assert_eq!(entries(&scene.pins).unwrap(), []);
    }

    #[test]
    fn a_full_table_takes_what_fits() {
        let scene = Scene::new("full", 2);
        let table = make(&scene.pins, map::FLOWS_OLD, 8);
        for port in 1..=5 {
            table.update(&key(port), &old(flow_state::ESTABLISHED), Update::Any).unwrap();
        }
        assert_eq!(adopt(&scene.pins).unwrap(), 2);
    }
}
