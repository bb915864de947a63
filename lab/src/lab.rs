//! A lab: some nodes on one bridge, under one name, that can be found and ended again by that name alone.

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::{Cgroup, Netns, Node, command, network, node::remove_dir, paths, subnet::Subnet};

/// As many nodes as fit between the first node's address and the end of the /24.
pub const MAX_NODES: usize = 240;
/// A name also names an interface (15 bytes).
const MAX_NAME: usize = 12;
/// Set to anything: a lab of a test stays for a look at it.
pub const KEEP: &str = "SKERRY_LAB_KEEP";

/// Nodes on one bridge. Dropped, it ends, unless it is one that persists.
#[derive(Debug)]
pub struct Lab {
    name: String,
    subnet: Subnet,
    persists: bool,
    /// Held as long as the owner lives; a lab whose lock is free and that doesn't persist was left by a
    /// crash.
    _lock: Option<Flock<fs::File>>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Lab {
    /// A lab of this test alone, with a name that no other has. Ends what crashed tests left behind, too.
    ///
    /// # Errors
    /// When not root, or without `ip`, or when a namespace can't be made.
    pub fn for_test() -> Result<Lab> {
        sweep();
        let name = format!("t{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = state_dir(&name);
        fs::create_dir_all(&dir).with_context(|| format!("make {}: are you root?", dir.display()))?;
        let lock = fs::File::create(dir.join("lock")).context("make the lab's lock")?;
        let lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, errno)) => bail!("lock the lab {name}: {errno}"),
        };
        Lab::set_up(&name, false, Some(lock))
    }

    /// The lab of this name, made where it isn't there, that stays until [`Lab::end`].
    ///
    /// # Errors
    /// As [`Lab::for_test`]; and for a name that is too long.
    pub fn named(name: &str) -> Result<Lab> {
        let fits =
            name.len() <= MAX_NAME && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !fits || name.is_empty() {
            bail!("a lab's name has 1 to {MAX_NAME} lower-case letters and digits, not {name:?}");
        }
        let dir = state_dir(name);
        fs::create_dir_all(&dir).with_context(|| format!("make {}: are you root?", dir.display()))?;
        Lab::set_up(name, true, None)
    }

    /// The lab of this name, if it is there.
    ///
    /// # Errors
    /// When its address range is not known any more.
    pub fn find(name: &str) -> Result<Option<Lab>> {
        if !state_dir(name).is_dir() || Subnet::of(name).is_none() {
            return Ok(None);
        }
        let subnet = Subnet::of(name).context("the lab's subnet")?;
        Ok(Some(Lab { name: name.to_owned(), subnet, persists: true, _lock: None }))
    }

    fn set_up(name: &str, persists: bool, lock: Option<Flock<fs::File>>) -> Result<Lab> {
        let subnet = Subnet::claim(name)?;
        let lab = Lab { name: name.to_owned(), subnet, persists, _lock: lock };
        network::underlay(name, subnet)?;
        Ok(lab)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// A namespace on the bridge that is no node: a client from outside of the cluster.
    pub fn client(&self) -> Netns {
        Netns::existing(&network::client_netns(&self.name))
    }

    /// The nodes that were made, in the order of their addresses.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn nodes(&self) -> Result<Vec<Node>> {
        let names = self.node_names();
        names.iter().enumerate().map(|(number, name)| self.node_at(number, name)).collect()
    }

    /// The node of this name, made and booted where it isn't.
    ///
    /// # Errors
    /// When a namespace, a mount or a cgroup can't be made.
    pub fn node(&self, name: &str) -> Result<Node> {
        let fits =
            name.len() <= MAX_NAME && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !fits || name.is_empty() || ["net", "out"].contains(&name) {
            bail!("a node's name has 1 to {MAX_NAME} lower-case letters and digits, not {name:?}");
        }
        let number = self.number_of(name)?;
        let node = self.node_at(number, name)?;
        if network::ensure_netns(&node.netns_name())? {
            network::plug(&self.name, &node.netns_name(), name, self.subnet, host_number(number)?)?;
        }
        node.boot()?;
        Ok(node)
    }

    /// Takes a node's cable out, or puts it in again.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn cable(&self, node: &Node, plugged: bool) -> Result<()> {
        network::link(&self.name, node.name(), plugged)
    }

    /// Ends all that runs in the lab and removes its namespaces and cgroups, with `data` its files too.
    ///
    /// # Errors
    /// All that went wrong; what could be removed is removed.
    pub fn end(mut self, data: bool) -> Result<()> {
        self.persists = true;
        end(&self.name, data)
    }

    /// The node's place in the list, where it is put at the end if it is new.
    fn number_of(&self, name: &str) -> Result<usize> {
        let path = state_dir(&self.name).join("nodes");
        let file = fs::OpenOptions::new().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("open {}", path.display()))?;
        // Nodes are made side by side.
        let mut file = match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(file) => file,
            Err((_, errno)) => bail!("lock {}: {errno}", path.display()),
        };
        let names = self.node_names();
        if let Some(number) = names.iter().position(|known| known == name) {
            return Ok(number);
        }
        if names.len() >= MAX_NODES {
            bail!("a lab has at most {MAX_NODES} nodes");
        }
        writeln!(file, "{name}").with_context(|| format!("write {}", path.display()))?;
        Ok(names.len())
    }

    fn node_at(&self, number: usize, name: &str) -> Result<Node> {
        let host = host_number(number)?;
        Node::new(&self.name, name, self.subnet.host(host), self.subnet.host6(host))
    }

    fn node_names(&self) -> Vec<String> {
        node_names(&self.name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.persists {
            return;
        }
        if std::env::var_os(KEEP).is_some() {
            eprintln!("lab {} is kept: end it with `cargo xtask down --name {}`", self.name, self.name);
            return;
        }
        if let Err(error) = end(&self.name, true) {
            eprintln!("end the lab {}: {error:#}", self.name);
        }
    }
}

/// Ends the lab of this name, whoever started it and however far that came. Nothing there is fine.
///
/// # Errors
/// All that went wrong; what could be removed is removed.
pub fn end(name: &str, data: bool) -> Result<()> {
    let mut errors = Vec::new();
    let mut note = |result: Result<()>| errors.extend(result.err().map(|error| format!("{error:#}")));
    let nodes: Vec<Node> = node_names(name)
        .iter()
        .flat_map(|node| Node::new(name, node, Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED))
        .collect();
    // All at once: a kill waits for the kernel to take a node's processes apart.
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> = nodes.iter().map(|node| scope.spawn(|| node.remove(data))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    });
    results.into_iter().for_each(&mut note);
    let cgroup = Cgroup::at(name);
    note(cgroup.and_then(|cgroup| cgroup.kill().and_then(|()| cgroup.remove())));
    note(network::remove(name));
    note(remove_dir(&Path::new(paths::RUN).join(name)));
    Subnet::release(name);
    if data && errors.is_empty() {
        return remove_dir(&state_dir(name));
    }
    if errors.is_empty() { Ok(()) } else { bail!("{}", errors.join("; ")) }
}

/// The names of the labs on this machine.
pub fn names() -> Vec<String> {
    let entries = fs::read_dir(paths::STATE).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Ends the labs of tests that were killed before they could do so.
fn sweep() {
    for name in names() {
        let Ok(file) = fs::File::open(state_dir(&name).join("lock")) else { continue };
        if std::env::var_os(KEEP).is_some() {
            continue;
        }
        if let Ok(_lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            && let Err(error) = end(&name, true)
        {
            eprintln!("end the lab {name}, left by a test that was killed: {error:#}");
        }
    }
}

/// The last byte of the address of the `number`-th node.
fn host_number(number: usize) -> Result<u8> {
    let offset = u8::try_from(number).ok().and_then(|number| network::FIRST_NODE.checked_add(number));
    offset.context("fewer than 240 nodes")
}

fn node_names(lab: &str) -> Vec<String> {
    let text = fs::read_to_string(state_dir(lab).join("nodes")).unwrap_or_default();
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn state_dir(name: &str) -> PathBuf {
    Path::new(paths::STATE).join(name)
}

/// Whether a program is on the PATH.
pub fn has_program(name: &str) -> bool {
    command::run("sh", &["-c", &format!("command -v {name}")]).is_ok()
}
