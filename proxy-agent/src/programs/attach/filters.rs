//! Programs on devices by filters: on pods' devices everywhere, on the node's own where the kernel has no TCX
//! links.
//!
//! A filter goes with its device and has no pin: what an agent that is gone left on a device that is no
//! uplink any more is known by its name.

use proxy_abi::{map, prog};
use skerry_kernel::{
    Direction, Error, Filter, Map, attach_filters, detach_filter, filter_name, filter_program, ifname,
};

use super::{AttachError, Attachments, Changes, POD_HOOKS};

/// Names of the filters on the node's own devices.
const NODE_PROGRAMS: [&str; 4] = [prog::FROM_UPLINK, prog::TO_UPLINK, prog::FROM_OVERLAY, prog::TO_OVERLAY];

impl Attachments {
    /// One filter: left alone where it has our program, else put there or replaced.
    pub(super) fn filter(
        &self,
        hook: &str,
        index: u32,
        device: &str,
        direction: Direction,
        changes: &mut Changes,
    ) -> Result<(), AttachError> {
        let failed = |source| AttachError::Attach { program: hook.to_owned(), to: device.to_owned(), source };
        let (program, id) = self.program(hook)?;
        let at = filter_program(index, direction).map_err(failed)?;
        if at == Some(id) {
            return Ok(());
        }
        let filter = Filter { direction, program: program.fd(), name: hook };
        attach_filters(index, &[filter]).map_err(failed)?;
        match at {
            Some(_) => changes.replaced += 1,
            None => changes.attached += 1,
        }
        Ok(())
    }

    /// Pods' filters get the new programs, and are put back where somebody took them off. Pods of an older
    /// plugin have pinned links instead, which [`Attachments::pods_and_leftovers`] minds.
    pub(super) fn pod_filters(&self, changes: &mut Changes) -> Result<(), AttachError> {
        let path = self.pins.map(map::LINKS);
        let pods = Map::<u32, proxy_abi::Link>::open(&path).and_then(|links| links.entries());
        let pods = pods.map_err(|source| AttachError::Attach {
            program: "filters".to_owned(),
            to: path.display().to_string(),
            source,
        })?;
        for (index, _) in pods {
            // A device that is gone has an entry for as long as the CNI plugin takes to delete it.
            let Ok(device) = ifname(index) else { continue };
            for (hook, direction) in POD_HOOKS {
                if self.pins.link(hook, &device).exists() {
                    continue;
                }
                match self.filter(hook, index, &device, direction, changes) {
                    Err(AttachError::Attach { source, .. }) if source.is_not_found() => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }
}

/// Takes our programs off devices that are not among these; what can't be taken off is named in the log and
/// tried again at the next start.
pub(super) fn detach_strays(expected: &[&str]) {
    for (device, error) in detach_except(expected) {
        tracing::warn!(device, error = &error as &dyn std::error::Error, "an old program stays on a device");
    }
}

/// Takes our programs off the node's own devices. Returns what went wrong, by device.
pub(crate) fn detach_from_nodes_devices() -> Vec<(String, Error)> {
    detach_except(&[])
}

fn detach_except(expected: &[&str]) -> Vec<(String, Error)> {
    let mut errors = Vec::new();
    let Ok(devices) = nix::net::if_::if_nameindex() else { return errors };
    for device in &devices {
        let name = device.name().to_string_lossy();
        if expected.contains(&name.as_ref()) {
            continue;
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            let detached = match filter_name(device.index(), direction) {
                Ok(Some(program)) if NODE_PROGRAMS.contains(&program.as_str()) => {
                    detach_filter(device.index(), direction)
                }
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            match detached {
                Err(error) if !error.is_not_found() => errors.push((name.clone().into_owned(), error)),
                _ => {}
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use skerry_kernel::{Program, ifindex, instruction, program_type};
    use skerry_lab::Netns;

    use super::*;

    #[test]
    fn our_programs_go_from_every_device_but_the_expected_and_others_stay() {
        let netns = Netns::unique("strays").unwrap();
        netns.ip("link add kept type veth peer name left").unwrap();
        netns.ip("link add other type bridge").unwrap();
        let end = [instruction(0xb7, 0, 0, 0, -1), instruction(0x95, 0, 0, 0, 0)];
        let program = Program::load("skt_stray", program_type::SCHED_CLS, 0, &end).unwrap();
        let (on, errors) = netns
            .run(|| {
                let put = |device: &str, name| {
                    let filter = Filter { direction: Direction::Ingress, program: program.fd(), name };
                    attach_filters(ifindex(device).unwrap(), &[filter]).unwrap();
                };
                put("kept", prog::FROM_UPLINK);
                put("left", prog::FROM_UPLINK);
                put("other", "somebody");
                let errors = detach_except(&["kept"]);
                let on = ["kept", "left", "other"]
                    .map(|device| filter_name(ifindex(device).unwrap(), Direction::Ingress).unwrap());
                (on, errors)
            })
            .unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(on, [Some(prog::FROM_UPLINK.to_owned()), None, Some("somebody".to_owned())]);
    }
}
