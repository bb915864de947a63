//! Flows that programs of ABI 3 and older have in a table of their own, `FLOWS_NEW`, until they are answered.

use proxy_abi::{Flow, Tuple, map};
use skerry_kernel::{Error, Map, Update};

use crate::pins::Pins;

/// Copies them to where programs of today look for them; a flow that is there already stays as it is. Returns how many entries
/// were copied.
pub(crate) fn adopt(pins: &Pins) -> Result<usize, Error> {
    let path = pins.map(map::FLOWS_NEW);
    if !path.exists() {
        return Ok(0);
    }
    let flows: Map<Tuple, Flow> = Map::open(&pins.map(map::FLOWS))?;
    let mut copied = 0;
    for (key, flow) in Map::<Tuple, Flow>::open(&path)?.entries()? {
        match flows.update(&key, &flow, Update::Insert) {
            Ok(()) => copied += 1,
            Err(error) if error.is_exists() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use proxy_abi::{Addr, Be16, flow_state, proto};
    use skerry_kernel::{MapSpec, map_type};

    use super::*;

    #[test]
    fn flows_come_along_and_those_that_are_there_stay_as_they_are() {
        let root = format!("/sys/fs/bpf/skerry-old-flows-{}", std::process::id());
        let pins = Pins::new(root.as_ref());
        pins.prepare().unwrap();
        let make = |name| {
            let spec = MapSpec { name, map_type: map_type::HASH, max_entries: 8, flags: 0 };
            let made = Map::<Tuple, Flow>::create(&spec).unwrap();
            made.pin(&pins.map(name)).unwrap();
            made
        };
        let flows = make(map::FLOWS);
        assert_eq!(adopt(&pins).unwrap(), 0, "no older version was here");
        let old = make(map::FLOWS_NEW);
        let client = Addr::from_v4([192, 0, 2, 1]);
        let key = |port| Tuple::new(client, Be16::new(port), client, Be16::new(80), proto::TCP);
        let established = Flow { state: flow_state::ESTABLISHED, ..Flow::default() };
        flows.update(&key(1), &established, Update::Any).unwrap();
        for port in [1, 2] {
            old.update(&key(port), &Flow { to: key(9), ..Flow::default() }, Update::Any).unwrap();
        }
        let copied = [adopt(&pins).unwrap(), adopt(&pins).unwrap()];
        let now = [1, 2].map(|port| flows.lookup(&key(port)).unwrap());
        std::fs::remove_dir_all(root).unwrap();
        assert_eq!(copied, [1, 0]);
        assert_eq!(now, [Some(established), Some(Flow { to: key(9), ..Flow::default() })]);
    }
}
