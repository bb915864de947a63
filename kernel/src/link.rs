use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use bytemuck::{Pod, Zeroable};

use crate::{
    Error,
    sys::{self, Command},
};

/// An attachment of a program to a hook. It ends when the last descriptor and pin are gone, or by
/// [`Link::detach`].
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
    name: String,
}

/// Side of a device, seen from the host's stack.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// What the device hands to the stack (`BPF_TCX_INGRESS`).
    Ingress = 46,
    /// What the stack sends out through it (`BPF_TCX_EGRESS`).
    Egress = 47,
}

/// Where in the receive path an XDP program runs (`XDP_FLAGS_…` of `linux/if_link.h`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpMode {
    /// After the packet got its skb: every device has it.
    Generic = 2,
    /// In the driver.
    Native = 4,
}

/// Socket address hooks of a cgroup (`enum bpf_attach_type`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CgroupHook {
    Connect4 = 10,
    Connect6 = 11,
    Sendmsg4 = 14,
    Sendmsg6 = 15,
    Recvmsg4 = 19,
    Recvmsg6 = 20,
    Getpeername4 = 29,
    Getpeername6 = 30,
}

/// Where among a hook's programs a new one goes (TCX).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    First,
    Last,
    /// Before the link with this id.
    Before(u32),
    /// After the link with this id.
    After(u32),
}

impl Order {
    fn flags_and_id(self) -> (u32, u32) {
        const BEFORE: u32 = 1 << 3;
        const AFTER: u32 = 1 << 4;
        const ID: u32 = 1 << 5;
        const LINK: u32 = 1 << 13;
        match self {
            Order::First => (BEFORE, 0),
            Order::Last => (AFTER, 0),
            Order::Before(link) => (BEFORE | ID | LINK, link),
            Order::After(link) => (AFTER | ID | LINK, link),
        }
    }
}

/// What the kernel says about a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkInfo {
    pub id: u32,
    pub program_id: u32,
    pub target: LinkTarget,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkTarget {
    /// `ifindex` 0: the device is gone, the link hangs in the air. `attach_type` as in [`Direction`].
    Tcx { ifindex: u32, attach_type: u32 },
    /// `cgroup_id` is the inode of the cgroup's folder. `attach_type` as in [`CgroupHook`].
    Cgroup { cgroup_id: u64, attach_type: u32 },
    /// `ifindex` 0 as above.
    Xdp { ifindex: u32 },
    /// `enum bpf_link_type`.
    Other { link_type: u32 },
}

/// The beginning of `struct bpf_link_info`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RawInfo {
    link_type: u32,
    id: u32,
    program_id: u32,
    reserved: u32,
    words: [u32; 4],
}

/// `enum bpf_link_type`.
const LINK_CGROUP: u32 = 3;
const LINK_XDP: u32 = 6;
const LINK_TCX: u32 = 11;

impl Link {
    /// Attaches a tc program to a device of the caller's network namespace (TCX: Linux 6.6;
    /// [`Error::is_unsupported`] below).
    pub fn attach_tcx(
        program: BorrowedFd<'_>,
        ifindex: u32,
        direction: Direction,
        order: Order,
    ) -> Result<Link, Error> {
        let (flags, relative) = order.flags_and_id();
        let name = format!("device {ifindex} ({direction:?})");
        let attribute = sys::LinkCreate {
            program_fd: sys::raw(program),
            target: ifindex,
            attach_type: direction as u32,
            flags,
            relative,
            ..Zeroable::zeroed()
        };
        Link::create(attribute, name)
    }

    /// Attaches an XDP program to a device of the caller's network namespace (Linux 5.9). One program a
    /// device: [`Error::is_busy`] where another's is.
    pub fn attach_xdp(program: BorrowedFd<'_>, ifindex: u32, mode: XdpMode) -> Result<Link, Error> {
        /// `BPF_XDP` of `enum bpf_attach_type`.
        const XDP: u32 = 37;
        let attribute = sys::LinkCreate {
            program_fd: sys::raw(program),
            target: ifindex,
            attach_type: XDP,
            flags: mode as u32,
            ..Zeroable::zeroed()
        };
        Link::create(attribute, format!("device {ifindex} (XDP, {mode:?})"))
    }

    /// Attaches a socket address program to a cgroup2 folder, beside those of others.
    pub fn attach_cgroup(
        program: BorrowedFd<'_>,
        cgroup: BorrowedFd<'_>,
        hook: CgroupHook,
    ) -> Result<Link, Error> {
        let attribute = sys::LinkCreate {
            program_fd: sys::raw(program),
            target: sys::raw(cgroup),
            attach_type: hook as u32,
            ..Zeroable::zeroed()
        };
        Link::create(attribute, format!("cgroup ({hook:?})"))
    }

    fn create(mut attribute: sys::LinkCreate, name: String) -> Result<Link, Error> {
        match sys::plain_fd(Command::LinkCreate, &mut attribute) {
            Ok(fd) => Ok(Link { fd, name }),
            Err(e) => Err(Error::system("attach program to", name, e)),
        }
    }

    /// The link pinned at `path`.
    pub fn open(path: &Path) -> Result<Link, Error> {
        let name = path.display().to_string();
        let fd = sys::get(path).map_err(|e| Error::system("open pinned link", &name, e))?;
        Ok(Link { fd, name })
    }

    /// The link with this kernel-wide number.
    pub fn by_id(id: u32) -> Result<Link, Error> {
        let fd = sys::plain_fd(Command::LinkFdById, &mut sys::ById { id, next_id: 0, open_flags: 0 })
            .map_err(|e| Error::system("open link with id", id, e))?;
        Ok(Link { fd, name: format!("#{id}") })
    }

    /// A link that somebody else made; `name` is for error texts.
    pub fn from_fd(fd: OwnedFd, name: &str) -> Link {
        Link { fd, name: name.to_owned() }
    }

    /// Once the pin is unlinked and no descriptor is left, the program still runs for a grace period (RCU):
    /// who needs the end at once calls [`Link::detach`] first.
    pub fn pin(&self, path: &Path) -> Result<(), Error> {
        sys::pin(self.fd(), path).map_err(|e| Error::system("pin link at", path.display(), e))
    }

    pub fn info(&self) -> Result<LinkInfo, Error> {
        let raw: RawInfo =
            sys::info(self.fd()).map_err(|e| Error::system("ask about link", &self.name, e))?;
        let [a, b, c, _] = raw.words;
        let target = match raw.link_type {
            LINK_TCX => LinkTarget::Tcx { ifindex: a, attach_type: b },
            LINK_CGROUP => {
                LinkTarget::Cgroup { cgroup_id: bytemuck::cast::<[u32; 2], u64>([a, b]), attach_type: c }
            }
            LINK_XDP => LinkTarget::Xdp { ifindex: a },
            link_type => LinkTarget::Other { link_type },
        };
        Ok(LinkInfo { id: raw.id, program_id: raw.program_id, target })
    }

    /// The device that an XDP link is on; none: it is gone, or this is another kind of link.
    pub fn xdp_device(&self) -> Result<Option<u32>, Error> {
        Ok(match self.info()?.target {
            LinkTarget::Xdp { ifindex } if ifindex != 0 => Some(ifindex),
            _ => None,
        })
    }

    /// Swaps the program in place: no packet and no connect meets a moment without one.
    pub fn replace(&self, program: BorrowedFd<'_>) -> Result<(), Error> {
        let mut attribute = sys::LinkUpdate {
            link_fd: sys::raw(self.fd()),
            new_program_fd: sys::raw(program),
            ..Zeroable::zeroed()
        };
        sys::plain(Command::LinkUpdate, &mut attribute)
            .map_err(|e| Error::system("replace the program of link", &self.name, e))
    }

    /// Detaches at once, whoever else holds it; a pin stays behind as an empty shell.
    pub fn detach(&self) -> Result<(), Error> {
        sys::plain(Command::LinkDetach, &mut sys::LinkDetach { link_fd: sys::raw(self.fd()) })
            .map_err(|e| Error::system("detach link", &self.name, e))
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A program at a hook. `link_id` is 0 for one that was attached without a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attachment {
    pub program_id: u32,
    pub link_id: u32,
}

/// The kernel takes at most 64 programs at one hook (`BPF_MPROG_MAX`, `BPF_CGROUP_MAX_PROGS`).
const HOOK_MAX: usize = 64;

/// The programs at a device of the caller's network namespace, in the order in which they run.
pub fn tcx_attachments(ifindex: u32, direction: Direction) -> Result<Vec<Attachment>, Error> {
    let (mut programs, mut links) = ([0; HOOK_MAX], [0; HOOK_MAX]);
    let count = match sys::query(ifindex, direction as u32, &mut programs, Some(&mut links)) {
        Ok(count) => count,
        // Nothing was ever attached.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => 0,
        Err(e) => {
            return Err(Error::system("ask what runs on", format!("device {ifindex} ({direction:?})"), e));
        }
    };
    let pairs = programs.into_iter().zip(links).take(count);
    Ok(pairs.map(|(program_id, link_id)| Attachment { program_id, link_id }).collect())
}

/// Whether this kernel has TCX hooks (Linux 6.6, and built with them); where not, filters do
/// ([`attach_filters`](crate::attach_filters)).
pub fn has_tcx() -> Result<bool, Error> {
    // A kernel that knows the hook looks for the device first, and there is none with this number.
    const NO_DEVICE: u32 = 0;
    match sys::query(NO_DEVICE, Direction::Ingress as u32, &mut [0; 1], None) {
        Ok(_) => Ok(true),
        Err(e) => match e.raw_os_error() {
            Some(libc::ENODEV | libc::ENOENT) => Ok(true),
            Some(libc::EINVAL) => Ok(false),
            _ => Err(Error::system("ask whether there are", "TCX hooks", e)),
        },
    }
}

/// Ids of the programs attached to this very cgroup (not to those above it).
pub fn cgroup_attachments(cgroup: BorrowedFd<'_>, hook: CgroupHook) -> Result<Vec<u32>, Error> {
    let mut programs = [0; HOOK_MAX];
    let count = sys::query(sys::raw(cgroup), hook as u32, &mut programs, None)
        .map_err(|e| Error::system("ask what runs on", format!("cgroup ({hook:?})"), e))?;
    Ok(programs.into_iter().take(count).collect())
}

/// Ids of all links of the machine, ascending. Links made meanwhile may be missing.
pub fn link_ids() -> impl Iterator<Item = Result<u32, Error>> {
    let mut last = Some(0);
    std::iter::from_fn(move || {
        let mut attribute = sys::ById { id: last?, next_id: 0, open_flags: 0 };
        match sys::plain(Command::LinkNextId, &mut attribute) {
            Ok(()) => {
                // Ids only grow, so the walk ends.
                last = Some(attribute.next_id);
                Some(Ok(attribute.next_id))
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => None,
            Err(e) => {
                last = None;
                Some(Err(Error::system("list links after id", attribute.id, e)))
            }
        }
    })
}
