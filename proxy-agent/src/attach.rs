use std::{collections::HashMap, fs::File, os::fd::AsFd, os::unix::fs::MetadataExt, path::PathBuf};

use proxy_abi::{map, prog};
use skerry_kernel::{
    CgroupHook, Direction, Filter, Link, LinkTarget, Map, Order, Program, attach_filters, filter_program,
    ifindex, ifname, tcx_attachments,
};

use crate::pins::{Pins, PinsError};

/// The socket hooks and their programs.
pub(crate) const SOCKET_HOOKS: [(&str, CgroupHook); 8] = [
    (prog::CONNECT4, CgroupHook::Connect4),
    (prog::CONNECT6, CgroupHook::Connect6),
    (prog::SENDMSG4, CgroupHook::Sendmsg4),
    (prog::SENDMSG6, CgroupHook::Sendmsg6),
    (prog::RECVMSG4, CgroupHook::Recvmsg4),
    (prog::RECVMSG6, CgroupHook::Recvmsg6),
    (prog::GETPEERNAME4, CgroupHook::Getpeername4),
    (prog::GETPEERNAME6, CgroupHook::Getpeername6),
];

/// The tc hooks of the node's own devices.
const UPLINK_HOOKS: [(&str, Direction); 2] =
    [(prog::FROM_UPLINK, Direction::Ingress), (prog::TO_UPLINK, Direction::Egress)];
const OVERLAY_HOOKS: [(&str, Direction); 2] =
    [(prog::FROM_OVERLAY, Direction::Ingress), (prog::TO_OVERLAY, Direction::Egress)];
/// The hooks of pods' devices, which the CNI plugin attaches.
const POD_HOOKS: [(&str, Direction); 2] =
    [(prog::FROM_POD, Direction::Ingress), (prog::TO_POD, Direction::Egress)];

/// Device part of the socket hooks' pin names.
const CGROUP: &str = "cgroup";

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Pins(#[from] PinsError),
    #[error("attach {program} to {to}")]
    Attach { program: String, to: String, source: skerry_kernel::Error },
    #[error("attach {program} to {device}: this kernel has no TCX links, Linux 6.6 or newer is needed")]
    NoTcx { program: String, device: String, source: skerry_kernel::Error },
    #[error("read back {program} at {to}")]
    ReadBack { program: String, to: String, source: skerry_kernel::Error },
    #[error("{program} was attached to {to} but the kernel does not show it there")]
    Absent { program: String, to: String },
    #[error("open cgroup folder {path}")]
    Cgroup { path: PathBuf, source: std::io::Error },
    #[error("program {0} is not loaded")]
    NotLoaded(String),
}

/// Where everything is to be attached.
pub(crate) struct Hooks {
    pub uplink: String,
    pub overlay: String,
    pub cgroup: PathBuf,
}

/// What [`Attachments::ensure`] had to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Changes {
    /// Attached where nothing of ours was.
    pub attached: u32,
    /// Another program of ours was replaced through its link.
    pub replaced: u32,
    /// Pins of devices that are gone.
    pub removed: u32,
}

/// Keeps every program at its hook: through pinned links, which stay when we go.
pub(crate) struct Attachments {
    pins: Pins,
    programs: HashMap<&'static str, (Program, u32)>,
    cgroup: File,
    cgroup_path: PathBuf,
    cgroup_id: u64,
    hooks: Hooks,
}

impl Attachments {
    pub fn new(
        pins: Pins,
        programs: HashMap<&'static str, Program>,
        hooks: Hooks,
    ) -> Result<Attachments, AttachError> {
        let path = hooks.cgroup.clone();
        let failed = |source| AttachError::Cgroup { path: path.clone(), source };
        let cgroup = File::open(&path).map_err(failed)?;
        let cgroup_id = cgroup.metadata().map_err(failed)?.ino();
        let mut with_ids = HashMap::new();
        for (name, program) in programs {
            let info = program.info().map_err(|source| AttachError::ReadBack {
                program: name.to_owned(),
                to: "the kernel".to_owned(),
                source,
            })?;
            with_ids.insert(name, (program, info.id));
        }
        Ok(Attachments { pins, programs: with_ids, cgroup, cgroup_path: path, cgroup_id, hooks })
    }

    /// Brings every attachment to the loaded programs: kept links get them by an atomic update, missing ones are made.
    /// Called at start, on a timer and when devices change; does nothing where nothing is to do.
    pub fn ensure(&self) -> Result<Changes, AttachError> {
        let mut changes = Changes::default();
        for (hook, direction) in OVERLAY_HOOKS {
            self.device(hook, &self.hooks.overlay, direction, &mut changes)?;
        }
        for (hook, direction) in UPLINK_HOOKS {
            self.device(hook, &self.hooks.uplink, direction, &mut changes)?;
        }
        for (hook, kind) in SOCKET_HOOKS {
            self.socket(hook, kind, &mut changes)?;
        }
        self.pods_and_leftovers(&mut changes)?;
        self.pod_filters(&mut changes)?;
        Ok(changes)
    }

    /// The node's way out may change; the next [`Attachments::ensure`] follows.
    pub fn set_uplink(&mut self, name: &str) {
        if self.hooks.uplink != name {
            name.clone_into(&mut self.hooks.uplink);
        }
    }

    /// Asks the kernel, not our own books, what stands at each of the node's device hooks.
    pub fn self_test(&self) -> Result<(), AttachError> {
        let devices = [(&self.hooks.uplink, UPLINK_HOOKS), (&self.hooks.overlay, OVERLAY_HOOKS)];
        for (device, hooks) in devices {
            for (hook, direction) in hooks {
                let failed =
                    |source| AttachError::ReadBack { program: hook.to_owned(), to: device.clone(), source };
                let index = ifindex(device).map_err(failed)?;
                let (_, id) = self.program(hook)?;
                if !tcx_attachments(index, direction).map_err(failed)?.iter().any(|a| a.program_id == id) {
                    return Err(AttachError::Absent { program: hook.to_owned(), to: device.clone() });
                }
            }
        }
        for (hook, kind) in SOCKET_HOOKS {
            let to = self.cgroup_path.display().to_string();
            let (_, id) = self.program(hook)?;
            let at = skerry_kernel::cgroup_attachments(self.cgroup.as_fd(), kind).map_err(|source| {
                AttachError::ReadBack { program: hook.to_owned(), to: to.clone(), source }
            })?;
            if !at.contains(&id) {
                return Err(AttachError::Absent { program: hook.to_owned(), to });
            }
        }
        Ok(())
    }

    fn program(&self, hook: &str) -> Result<(&Program, u32), AttachError> {
        let (program, id) = self.programs.get(hook).ok_or_else(|| AttachError::NotLoaded(hook.to_owned()))?;
        Ok((program, *id))
    }

    fn device(
        &self,
        hook: &str,
        device: &str,
        direction: Direction,
        changes: &mut Changes,
    ) -> Result<(), AttachError> {
        let failed = |source| AttachError::Attach { program: hook.to_owned(), to: device.to_owned(), source };
        let index = ifindex(device).map_err(failed)?;
        let is_target = |target| target == LinkTarget::Tcx { ifindex: index, attach_type: direction as u32 };
        let attach = |program: &Program| Link::attach_tcx(program.fd(), index, direction, Order::First);
        self.link(hook, device, is_target, attach, changes)
    }

    fn socket(&self, hook: &str, kind: CgroupHook, changes: &mut Changes) -> Result<(), AttachError> {
        let is_target =
            |target| target == LinkTarget::Cgroup { cgroup_id: self.cgroup_id, attach_type: kind as u32 };
        let attach = |program: &Program| Link::attach_cgroup(program.fd(), self.cgroup.as_fd(), kind);
        self.link(hook, CGROUP, is_target, attach, changes)
    }

    /// One pinned link: kept and updated where it still holds its target, else made anew.
    fn link(
        &self,
        hook: &str,
        device: &str,
        is_target: impl Fn(LinkTarget) -> bool,
        attach: impl Fn(&Program) -> Result<Link, skerry_kernel::Error>,
        changes: &mut Changes,
    ) -> Result<(), AttachError> {
        let failed = |source| AttachError::Attach { program: hook.to_owned(), to: device.to_owned(), source };
        let path = self.pins.link(hook, device);
        let (program, id) = self.program(hook)?;
        match Link::open(&path) {
            Ok(link) => {
                let info = link.info().map_err(failed)?;
                if is_target(info.target) {
                    if info.program_id != id {
                        link.replace(program.fd()).map_err(failed)?;
                        changes.replaced += 1;
                    }
                    return Ok(());
                }
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(failed(error)),
        }
        // The old pin, if any, hangs in the air (detached by somebody, or its device was made anew).
        let link = attach(program).map_err(|source| match device != CGROUP && source.is_unsupported() {
            true => AttachError::NoTcx { program: hook.to_owned(), device: device.to_owned(), source },
            false => failed(source),
        })?;
        self.pins.remove(&path)?;
        link.pin(&path).map_err(failed)?;
        changes.attached += 1;
        Ok(())
    }

    fn is_expected(&self, hook: &str, device: &str) -> bool {
        (device == self.hooks.uplink && UPLINK_HOOKS.iter().any(|(name, _)| *name == hook))
            || (device == self.hooks.overlay && OVERLAY_HOOKS.iter().any(|(name, _)| *name == hook))
    }

    /// Pods' links get the new programs; pins whose device is gone (of pods, or of an uplink that was renamed) go too.
    fn pods_and_leftovers(&self, changes: &mut Changes) -> Result<(), AttachError> {
        for name in self.pins.link_names()? {
            let Some((hook, device)) = Pins::hook_and_device(&name) else { continue };
            let device = device.as_str();
            if device == CGROUP {
                continue;
            }
            let exists = ifindex(device).is_ok();
            let pod_hook = POD_HOOKS.iter().find(|(pod_hook, _)| *pod_hook == hook);
            match pod_hook {
                Some((hook, direction)) if exists => match self.device(hook, device, *direction, changes) {
                    // Deleted by the CNI plugin between the two looks.
                    Err(AttachError::Attach { source, .. }) if source.is_not_found() => {}
                    other => other?,
                },
                _ if exists && self.is_expected(hook, device) => {}
                _ => {
                    self.pins.remove(&self.pins.link(hook, device))?;
                    changes.removed += 1;
                }
            }
        }
        Ok(())
    }

    /// Pods' filters get the new programs, and are put back where somebody took them off. Pods of an older plugin have
    /// pinned links instead, which [`Attachments::pods_and_leftovers`] minds.
    fn pod_filters(&self, changes: &mut Changes) -> Result<(), AttachError> {
        let failed = |hook: &str, to: String| {
            let program = hook.to_owned();
            move |source| AttachError::Attach { program, to, source }
        };
        let path = self.pins.map(map::LINKS);
        let pods = Map::<u32, proxy_abi::Link>::open(&path).and_then(|links| links.entries());
        for (index, _) in pods.map_err(failed("filters", path.display().to_string()))? {
            // A device that is gone has an entry for as long as the CNI plugin takes to delete it.
            let Ok(device) = ifname(index) else { continue };
            for (hook, direction) in POD_HOOKS {
                if self.pins.link(hook, &device).exists() {
                    continue;
                }
                let (program, id) = self.program(hook)?;
                let at = match filter_program(index, direction) {
                    Ok(at) if at == Some(id) => continue,
                    Ok(at) => at,
                    Err(error) if error.is_not_found() => continue,
                    Err(error) => return Err(failed(hook, device.clone())(error)),
                };
                match attach_filters(index, &[Filter { direction, program: program.fd(), name: hook }]) {
                    Ok(()) if at.is_some() => changes.replaced += 1,
                    Ok(()) => changes.attached += 1,
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(failed(hook, device.clone())(error)),
                }
            }
        }
        Ok(())
    }
}
