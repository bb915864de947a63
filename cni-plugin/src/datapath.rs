//! The agent's pinned maps and programs, and what the plugin puts into them.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use proxy_abi::{ABI_VERSION, Addr, Endpoint, Facts, Link as LinkEntry, endpoint_flag, map, prog};
use skerry_kernel::{
    Direction, Error as KernelError, Filter, Link, Map, Order, Program, Update, attach_filters,
    filter_program, kernel_release, tcx_attachments,
};

#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error("{} is not there: the Skerry agent has not started on this node yet; start it (`skerry node`, `skerry proxy`)", path.display())]
    Absent { path: PathBuf },
    #[error("the agent's tables in {} are of ABI {found} and this plugin knows {ABI_VERSION}: {}", root.display(), advice(*found))]
    Abi { root: PathBuf, found: u32 },
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("kernel {release} has no TCX attachments (Linux 6.6 and later have them): use a newer kernel")]
    NoTcx { release: String, source: KernelError },
    #[error("{operation} {path}", path = path.display())]
    Pin { operation: &'static str, path: PathBuf, source: io::Error },
}

fn advice(found: u32) -> &'static str {
    match found {
        0 => "the agent is still starting",
        _ if found < ABI_VERSION => "update and restart the agent",
        _ => "install the skerry-cni that belongs to the agent",
    }
}

impl DatapathError {
    /// The agent will cure it by itself, or its owner by starting the right one.
    pub fn passes(&self) -> bool {
        matches!(
            self,
            DatapathError::Absent { .. }
                | DatapathError::Abi { .. }
                | DatapathError::Kernel(KernelError::Layout { .. })
        )
    }
}

/// The programs of a pod's link: name, side of the host's end.
const PROGRAMS: [(&str, Direction); 2] =
    [(prog::FROM_POD, Direction::Ingress), (prog::TO_POD, Direction::Egress)];

/// How programs are attached to the host's end. The agent's network configuration asks for filters, which are
/// quicker; links are for who writes another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hooks {
    /// Pinned TCX links. Each waits for an RCU grace period, about 8 ms, under the lock of all network
    /// configuration.
    Tcx,
    /// Filters, which go with the device.
    Clsact,
}

/// Maps and programs of an agent that speaks our ABI.
pub struct Datapath {
    pub facts: Facts,
    endpoints: Map<Addr, Endpoint>,
    links: Map<u32, LinkEntry>,
    programs: Vec<(&'static str, Direction, Program)>,
    root: PathBuf,
}

/// A pod's entry in the tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Of the host's end.
    pub ifindex: u32,
    /// Of the pod's end.
    pub mac: [u8; 6],
    pub addresses: Vec<IpAddr>,
    /// The pod's network namespace, if the socket hooks leave it alone; else 0.
    pub left_out: u64,
}

impl Entry {
    fn endpoint(&self) -> Endpoint {
        Endpoint { ifindex: self.ifindex, mac: self.mac, flags: endpoint_flag::POD, reserved: 0 }
    }

    fn link(&self) -> LinkEntry {
        let of = |v6: bool| {
            let address = self.addresses.iter().find(|a| a.is_ipv6() == v6);
            address.map_or(Addr::UNSPECIFIED, |a| Addr::from(*a))
        };
        LinkEntry { v4: of(false), v6: of(true), mac: self.mac, flags: 0 }
    }
}

impl Datapath {
    pub fn open(root: &Path) -> Result<Datapath, DatapathError> {
        // What tells whether we understand each other comes first.
        let facts = Map::<u32, Facts>::open(&map_pin(root, map::CONFIG))
            .map_err(|e| absent(map_pin(root, map::CONFIG), e))?
            .lookup(&0)?
            .unwrap_or_default();
        if facts.abi_version != ABI_VERSION {
            return Err(DatapathError::Abi { root: root.to_owned(), found: facts.abi_version });
        }
        let (endpoints, links) = (map_pin(root, map::ENDPOINTS), map_pin(root, map::LINKS));
        let mut programs = Vec::with_capacity(PROGRAMS.len());
        for (name, direction) in PROGRAMS {
            let path = root.join("progs").join(name);
            programs.push((name, direction, Program::open(&path).map_err(|e| absent(path, e))?));
        }
        Ok(Datapath {
            facts,
            endpoints: Map::open(&endpoints).map_err(|e| absent(endpoints, e))?,
            links: Map::open(&links).map_err(|e| absent(links, e))?,
            programs,
            root: root.to_owned(),
        })
    }

    /// Writes the pod into the tables, who may speak first: a packet that comes early is dropped as spoofed,
    /// not passed.
    pub fn publish(&self, entry: &Entry) -> Result<(), DatapathError> {
        if entry.left_out != 0 {
            self.left_out()?.update(&entry.left_out, &0, Update::Any)?;
        }
        self.links.update(&entry.ifindex, &entry.link(), Update::Any)?;
        for address in &entry.addresses {
            self.endpoints.update(&Addr::from(*address), &entry.endpoint(), Update::Any)?;
        }
        Ok(())
    }

    /// Whether packets to the address are led to a pod's device that is there.
    pub fn leads_to_pod(&self, address: IpAddr) -> bool {
        let endpoint = self.endpoints.lookup(&Addr::from(address)).ok().flatten();
        endpoint.is_some_and(|endpoint| {
            endpoint.flags & endpoint_flag::POD != 0 && skerry_kernel::ifname(endpoint.ifindex).is_ok()
        })
    }

    fn left_out(&self) -> Result<Map<u64, u32>, DatapathError> {
        let path = map_pin(&self.root, map::LEFT_OUT);
        Map::open(&path).map_err(|e| absent(path, e))
    }

    /// Attaches both programs to the host's end.
    pub fn attach(&self, hooks: Hooks, ifindex: u32, device: &str) -> Result<(), DatapathError> {
        match hooks {
            Hooks::Tcx => self.attach_links(ifindex, device),
            Hooks::Clsact => {
                let filters: Vec<Filter<'_>> = self
                    .programs
                    .iter()
                    .map(|(name, direction, program)| Filter {
                        direction: *direction,
                        program: program.fd(),
                        name,
                    })
                    .collect();
                Ok(attach_filters(ifindex, &filters)?)
            }
        }
    }

    /// Pins the links in the place of what a dead predecessor of the same name pinned.
    fn attach_links(&self, ifindex: u32, device: &str) -> Result<(), DatapathError> {
        let folder = self.root.join("links");
        if !folder.is_dir() {
            fs::create_dir_all(&folder).map_err(|source| {
                let path = folder.clone();
                DatapathError::Pin { operation: "make folder", path, source }
            })?;
        }
        for (name, direction, program) in &self.programs {
            let link = Link::attach_tcx(program.fd(), ifindex, *direction, Order::Last).map_err(no_tcx)?;
            let pin = link_pin(&self.root, name, device);
            match link.pin(&pin) {
                Err(e) if e.is_exists() => {
                    unpin(&pin)?;
                    link.pin(&pin)?;
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// What is not as [`Datapath::publish`] and [`Datapath::attach`] left it, in words; empty if all is well.
    pub fn differences(
        &self,
        hooks: Hooks,
        entry: &Entry,
        device: &str,
    ) -> Result<Vec<String>, DatapathError> {
        let mut found = self.missing(entry, device)?;
        for (name, direction, _) in &self.programs {
            let attached = match hooks {
                Hooks::Tcx => self.link_is_attached(name, entry.ifindex, *direction, device)?,
                Hooks::Clsact => filter_program(entry.ifindex, *direction)?.is_some(),
            };
            if !attached {
                found.push(format!("program {name} is not attached to {device}"));
            }
        }
        Ok(found)
    }

    /// What the tables lack of an entry, in words.
    pub fn missing(&self, entry: &Entry, device: &str) -> Result<Vec<String>, DatapathError> {
        let mut found = Vec::new();
        if self.links.lookup(&entry.ifindex)? != Some(entry.link()) {
            found.push(format!("{} does not say who may speak on {device}", map::LINKS));
        }
        for address in &entry.addresses {
            if self.endpoints.lookup(&Addr::from(*address))? != Some(entry.endpoint()) {
                found.push(format!("{} does not lead {address} to {device}", map::ENDPOINTS));
            }
        }
        if entry.left_out != 0 && self.left_out()?.lookup(&entry.left_out)?.is_none() {
            found.push(format!("{} does not name the pod's network namespace", map::LEFT_OUT));
        }
        Ok(found)
    }

    /// The agent may have replaced the program since: the link counts.
    fn link_is_attached(
        &self,
        name: &str,
        ifindex: u32,
        direction: Direction,
        device: &str,
    ) -> Result<bool, DatapathError> {
        let pinned = match Link::open(&link_pin(&self.root, name, device)) {
            Ok(link) => link.info()?.id,
            Err(e) if e.is_not_found() => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        Ok(tcx_attachments(ifindex, direction)?.iter().any(|a| a.link_id == pinned))
    }
}

/// The addresses that a device's pod may speak from, where no record says it any more.
pub fn spoken_for(root: &Path, ifindex: u32) -> Vec<IpAddr> {
    let links = open_if_there::<u32, LinkEntry>(&map_pin(root, map::LINKS)).ok().flatten();
    let link = links.and_then(|links| links.lookup(&ifindex).ok().flatten());
    let addresses = link.into_iter().flat_map(|link| [link.v4, link.v6]);
    addresses.filter(|addr| !addr.is_unspecified()).map(Addr::to_ip).collect()
}

/// What goes out of the tables with a pod. Everything may be absent, the tables themselves as well.
pub struct Retraction<'a> {
    pub device: &'a str,
    /// 0: not known.
    pub ifindex: u32,
    pub mac: Option<[u8; 6]>,
    /// Those that still are the pod's.
    pub addresses: &'a [IpAddr],
    /// See [`Entry::left_out`].
    pub left_out: u64,
}

/// Removes entries and pins, and goes on after a failure. Entries that another pod has written since stay.
pub fn retract(root: &Path, what: &Retraction<'_>) -> Vec<DatapathError> {
    let mut errors = Vec::new();
    let mut note = |result: Result<(), DatapathError>| errors.extend(result.err());
    note(retract_link(root, what));
    note(retract_endpoints(root, what));
    note(retract_left_out(root, what.left_out));
    for (name, _) in PROGRAMS {
        note(unpin(&link_pin(root, name, what.device)));
    }
    errors
}

fn retract_link(root: &Path, what: &Retraction<'_>) -> Result<(), DatapathError> {
    let Some(links) = open_if_there::<u32, LinkEntry>(&map_pin(root, map::LINKS))? else { return Ok(()) };
    if what.ifindex != 0
        && let Some(link) = links.lookup(&what.ifindex)?
        && what.mac.is_none_or(|mac| mac == link.mac)
    {
        links.delete(&what.ifindex)?;
    }
    Ok(())
}

fn retract_left_out(root: &Path, netns_cookie: u64) -> Result<(), DatapathError> {
    if netns_cookie != 0
        && let Some(left_out) = open_if_there::<u64, u32>(&map_pin(root, map::LEFT_OUT))?
    {
        left_out.delete(&netns_cookie)?;
    }
    Ok(())
}

fn retract_endpoints(root: &Path, what: &Retraction<'_>) -> Result<(), DatapathError> {
    let path = map_pin(root, map::ENDPOINTS);
    let Some(endpoints) = open_if_there::<Addr, Endpoint>(&path)? else { return Ok(()) };
    for address in what.addresses {
        let key = Addr::from(*address);
        if let Some(endpoint) = endpoints.lookup(&key)?
            && what.mac.is_none_or(|mac| mac == endpoint.mac)
            && (what.ifindex == 0 || what.ifindex == endpoint.ifindex)
            && endpoint.flags & endpoint_flag::POD != 0
        {
            endpoints.delete(&key)?;
        }
    }
    Ok(())
}

/// A table of another layout is as good as none: its owner makes it anew.
fn open_if_there<K: bytemuck::Pod, V: bytemuck::Pod>(
    path: &Path,
) -> Result<Option<Map<K, V>>, DatapathError> {
    match Map::open(path) {
        Ok(map) => Ok(Some(map)),
        Err(KernelError::Layout { .. }) => Ok(None),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn map_pin(root: &Path, name: &str) -> PathBuf {
    root.join("maps").join(name)
}

fn link_pin(root: &Path, program: &str, device: &str) -> PathBuf {
    root.join("links").join(format!("{program}-{device}"))
}

fn unpin(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.kind() == io::ErrorKind::NotADirectory => Ok(()),
        Err(source) => Err(DatapathError::Pin { operation: "unpin", path: path.to_owned(), source }),
        Ok(()) => Ok(()),
    }
}

fn absent(path: PathBuf, error: KernelError) -> DatapathError {
    // EINVAL and EACCES are what bpf(2) says of a path that is on no BPF file system.
    if error.is_not_found() || matches!(error.errno(), Some(libc::ENOTDIR | libc::EINVAL | libc::EACCES)) {
        DatapathError::Absent { path }
    } else {
        error.into()
    }
}

fn no_tcx(source: KernelError) -> DatapathError {
    match kernel_release() {
        Ok(release) if source.is_unsupported() && below_6_6(&release) => {
            DatapathError::NoTcx { release, source }
        }
        _ => source.into(),
    }
}

fn below_6_6(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version < (6, 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        for (release, below) in [
            ("6.1.0-31-amd64", true),
            ("6.6.0", false),
            ("6.12.9", false),
            ("5.15", true),
            ("10.0-rc1", false),
        ] {
            assert_eq!(below_6_6(release), below, "{release}");
        }
    }

    #[test]
    fn a_pod_is_one_link_and_an_endpoint_for_each_address() {
        let addresses = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let entry = Entry { ifindex: 7, mac: [2, 0, 0, 0, 0, 1], addresses, left_out: 0 };
        let link = entry.link();
        assert_eq!((link.v4, link.v6), (Addr::from_v4([10, 0, 0, 2]), Addr::from(entry.addresses[1])));
        let only_v4 = Entry { addresses: vec![entry.addresses[0]], ..entry.clone() };
        assert!(only_v4.link().v6.is_unspecified());
        assert_eq!(entry.endpoint().flags, endpoint_flag::POD);
    }
}
