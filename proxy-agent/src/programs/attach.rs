mod filters;

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    os::fd::AsFd,
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

use proxy_abi::{MAPS, prog};
use skerry_kernel::{
    CgroupHook, Direction, Holder, Link, LinkTarget, Order, Program, XdpChoice, filter_program, has_tcx,
    ifindex, tcx_attachments, xdp_mode,
};

pub(crate) use filters::detach_from_nodes_devices;

use crate::programs::pins::{Pins, PinsError};

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
    #[error("find out whether this kernel has TCX links")]
    Probe(#[source] skerry_kernel::Error),
    #[error("read back {program} at {to}")]
    ReadBack { program: String, to: String, source: skerry_kernel::Error },
    #[error("{program} was attached to {to} but the kernel does not show it there")]
    Absent { program: String, to: String },
    #[error("open cgroup folder {path}")]
    Cgroup { path: PathBuf, source: std::io::Error },
    #[error("program {0} is not loaded")]
    NotLoaded(String),
    #[error("hold what is pinned")]
    Hold(#[source] skerry_kernel::Error),
}

/// Where everything is to be attached.
pub(crate) struct Hooks {
    /// The one towards the other nodes first.
    pub uplinks: Vec<String>,
    pub overlay: String,
    pub cgroup: PathBuf,
    /// Whether, and where, there is an XDP program on the first uplink, too.
    pub xdp: Option<XdpChoice>,
}

impl Hooks {
    fn first_uplink(&self) -> &str {
        self.uplinks.first().map_or("", String::as_str)
    }

    /// All of the node's own devices.
    fn devices(&self) -> Vec<&str> {
        self.uplinks.iter().chain([&self.overlay]).map(String::as_str).collect()
    }
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
    /// Pins that were gone, of what was still there.
    pub repinned: u32,
}

/// Keeps every program at its hook: through pinned links, which stay when we go, or, on devices, through
/// filters, which do too.
pub(crate) struct Attachments {
    /// Whether the node's own devices have links (Linux 6.6); else filters, as pods' devices have.
    has_tcx: bool,
    pins: Pins,
    programs: HashMap<&'static str, (Program, u32)>,
    cgroup: File,
    cgroup_path: PathBuf,
    cgroup_id: u64,
    hooks: Hooks,
    /// Everything of ours that is pinned, but pods' links: those go with their devices.
    held: Holder,
}

impl Attachments {
    pub fn new(
        pins: Pins,
        programs: HashMap<&'static str, Program>,
        hooks: Hooks,
    ) -> Result<Attachments, AttachError> {
        let has_tcx = has_tcx().map_err(AttachError::Probe)?;
        if !has_tcx {
            tracing::info!("this kernel has no TCX links (Linux 6.6 has): filters on clsact do their work");
            filters::detach_strays(&hooks.devices());
        }
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
        let mut held = Holder::default();
        let maps = MAPS.iter().map(|spec| pins.map(spec.name));
        for path in maps.chain(with_ids.keys().map(|name| pins.program(name))) {
            held.hold(&path).map_err(AttachError::Hold)?;
        }
        let cgroup_path = path;
        Ok(Attachments { has_tcx, pins, programs: with_ids, cgroup, cgroup_path, cgroup_id, hooks, held })
    }

    /// Brings every attachment to the loaded programs: kept links get them by an atomic update, missing ones
    /// are made. Called at start, on a timer and when devices change; does nothing where nothing is to do.
    pub fn ensure(&mut self) -> Result<Changes, AttachError> {
        let mut changes = Changes { repinned: self.restore_pins()?, ..Changes::default() };
        for (hook, direction) in OVERLAY_HOOKS {
            self.device(hook, &self.hooks.overlay, direction, &mut changes)?;
        }
        for (index, uplink) in self.hooks.uplinks.iter().enumerate() {
            for (hook, direction) in UPLINK_HOOKS {
                match self.device(hook, uplink, direction, &mut changes) {
                    // A second way out may go at any time.
                    Err(AttachError::Attach { source, .. }) if index > 0 && source.is_not_found() => {}
                    other => other?,
                }
            }
        }
        if let Some(mode) = self.hooks.xdp {
            self.xdp(mode, &mut changes)?;
        }
        for (hook, kind) in SOCKET_HOOKS {
            self.socket(hook, kind, &mut changes)?;
        }
        self.pods_and_leftovers(&mut changes)?;
        self.pod_filters(&mut changes)?;
        self.hold_links()?;
        Ok(changes)
    }

    /// Pins again what has lost its pin, with the folders and the file system below them. What it was pinned
    /// to goes on all the while, since we hold it. Nothing to do is the rule.
    pub fn restore_pins(&self) -> Result<u32, AttachError> {
        self.held.restore().map_err(AttachError::Hold)
    }

    fn hold_links(&mut self) -> Result<(), AttachError> {
        let links = self.pins.links();
        let is_pods = |name: &str| {
            Pins::hook_and_device(name).is_some_and(|(hook, _)| POD_HOOKS.iter().any(|(pod, _)| *pod == hook))
        };
        let mut ours = self.pins.link_names()?;
        ours.retain(|name| !is_pods(name));
        let ours: HashSet<PathBuf> = ours.iter().map(|name| links.join(name)).collect();
        self.held.retain(&links, |path| ours.contains(path));
        ours.iter().try_for_each(|path| self.held.hold(path)).map_err(AttachError::Hold)
    }

    /// The node's ways out may change; the next [`Attachments::ensure`] follows.
    pub fn set_uplinks(&mut self, names: Vec<String>) {
        if self.hooks.uplinks != names {
            self.hooks.uplinks = names;
            if !self.has_tcx {
                filters::detach_strays(&self.hooks.devices());
            }
        }
    }

    /// Asks the kernel, not our own books, what stands at each of the node's device hooks.
    pub fn self_test(&self) -> Result<(), AttachError> {
        let uplinks = self.hooks.uplinks.iter().map(|device| (device, UPLINK_HOOKS));
        for (device, hooks) in uplinks.chain([(&self.hooks.overlay, OVERLAY_HOOKS)]) {
            for (hook, direction) in hooks {
                let failed =
                    |source| AttachError::ReadBack { program: hook.to_owned(), to: device.clone(), source };
                let index = ifindex(device).map_err(failed)?;
                let (_, id) = self.program(hook)?;
                let runs = match self.has_tcx {
                    true => tcx_attachments(index, direction)
                        .map(|attached| attached.iter().any(|attachment| attachment.program_id == id)),
                    false => filter_program(index, direction).map(|at| at == Some(id)),
                };
                if !runs.map_err(failed)? {
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
        if !self.has_tcx {
            return self.filter(hook, index, device, direction, changes);
        }
        let is_target = |target| target == LinkTarget::Tcx { ifindex: index, attach_type: direction as u32 };
        let attach = |program: &Program| Link::attach_tcx(program.fd(), index, direction, Order::First);
        self.link(hook, device, is_target, attach, changes)
    }

    fn xdp(&self, choice: XdpChoice, changes: &mut Changes) -> Result<(), AttachError> {
        let (hook, device) = (prog::UPLINK_XDP, self.hooks.first_uplink());
        let failed = |source| AttachError::Attach { program: hook.to_owned(), to: device.to_owned(), source };
        let index = ifindex(device).map_err(failed)?;
        let target = LinkTarget::Xdp { ifindex: index };
        let path = self.pins.link(hook, device);
        // Ours runs where it may not any more. No link moves; until the new one is there the tc program does
        // everything.
        let now = xdp_mode(index).map_err(failed)?;
        if now.is_some_and(|now| !choice.allows(now))
            && let Ok(link) = Link::open(&path)
            && link.info().map_err(failed)?.target == target
        {
            link.detach().map_err(failed)?;
        }
        let attach = |program: &Program| {
            let (link, mode) = choice.attach(program.fd(), index)?;
            tracing::info!(device, ?mode, "XDP");
            Ok(link)
        };
        self.link(hook, device, |found| found == target, attach, changes)
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
        let link = attach(program).map_err(failed)?;
        self.pins.remove(&path)?;
        link.pin(&path).map_err(failed)?;
        changes.attached += 1;
        Ok(())
    }

    fn is_expected(&self, hook: &str, device: &str) -> bool {
        let xdp = self.hooks.xdp.is_some() && hook == prog::UPLINK_XDP && device == self.hooks.first_uplink();
        let is_uplink = self.hooks.uplinks.iter().any(|uplink| uplink == device);
        xdp || (is_uplink && UPLINK_HOOKS.iter().any(|(name, _)| *name == hook))
            || (device == self.hooks.overlay && OVERLAY_HOOKS.iter().any(|(name, _)| *name == hook))
    }

    /// Pods' links get the new programs; pins whose device is gone (of pods, or of an uplink that was
    /// renamed) go too.
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
}
