//! The object, its pinned maps, and the program on the devices.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::{
    EbpfLoader,
    maps::{MapData, RingBuf},
    programs::Xdp,
};
use proxy_abi::{ABI_VERSION, Counter, Facts, MAPS, Reason, map, prog};
use skerry_kernel::{Holder, Link, Map, PerCpuMap, Program, Update, XdpChoice};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/skerry-bpf"));

/// Entries of the tables that only nodes fill; the object makes them all.
const UNUSED: u32 = 1;

/// What went wrong with the kernel's side.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("make folder {path} on a BPF file system")]
    Folder { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Kernel(#[from] skerry_kernel::Error),
    #[error(
        "load the balancer's program and maps: maps of another version are removed by `skerry lb --remove`"
    )]
    Load(#[source] Box<aya::EbpfError>),
    #[error("load program {}", prog::LB_XDP)]
    Program(#[source] Box<aya::programs::ProgramError>),
    #[error("keep program {}", prog::LB_XDP)]
    Keep(#[source] io::Error),
    #[error("the object has no {0}")]
    Missing(&'static str),
    #[error("open the ring of drop records")]
    Ring(#[source] aya::maps::MapError),
    #[error("attach to {device}: another XDP program is there; take it off (`ip link set {device} xdp off`)")]
    Taken { device: String },
    #[error("attach to {device} natively: its driver has no XDP, say --xdp-mode generic")]
    NoNative { device: String, source: skerry_kernel::Error },
    #[error("remove {path}")]
    Remove { path: PathBuf, source: io::Error },
}

/// The pinned maps beside those that plans write to, open.
pub struct Maps {
    pub config: Map<u32, Facts>,
    pub counters: PerCpuMap<u32, Counter>,
}

/// The folder of the pinned maps.
pub fn maps(root: &Path) -> PathBuf {
    root.join("maps")
}

/// Loads the program against the maps below `root`, which are made where they are not there yet.
pub fn load(root: &Path, flows: u32) -> Result<(Program, Maps, RingBuf<MapData>), KernelError> {
    let maps = maps(root);
    prepare(root)?;
    let mut loader = EbpfLoader::new();
    for spec in MAPS {
        loader.map_pin_path(spec.name, maps.join(spec.name));
        match spec.name {
            map::FLOWS => loader.map_max_entries(spec.name, flows),
            map::SOCKETS | map::AFFINITY | map::ENDPOINTS | map::LINKS | map::MEMBERS => {
                loader.map_max_entries(spec.name, UNUSED)
            }
            _ => &mut loader,
        };
    }
    let mut object = loader.load(OBJECT).map_err(|e| KernelError::Load(Box::new(e)))?;
    let failed = |source| KernelError::Program(Box::new(source));
    let program: &mut Xdp = object
        .program_mut(prog::LB_XDP)
        .ok_or(KernelError::Missing(prog::LB_XDP))?
        .try_into()
        .map_err(failed)?;
    program.load().map_err(failed)?;
    let fd = program.fd().map_err(failed)?.as_fd().try_clone_to_owned().map_err(KernelError::Keep)?;
    let ring = object.take_map(map::EVENTS).ok_or(KernelError::Missing(map::EVENTS))?;
    let open = Maps {
        config: Map::open(&maps.join(map::CONFIG))?,
        counters: PerCpuMap::open(&maps.join(map::COUNTERS))?,
    };
    let ring = RingBuf::try_from(ring).map_err(KernelError::Ring)?;
    Ok((Program::from_fd(fd, prog::LB_XDP), open, ring))
}

/// Puts the program on a device, in the place of an earlier process's: no packet meets a moment without one.
/// The link is pinned and outlives this process.
pub fn attach(root: &Path, program: &Program, device: &str, mode: XdpChoice) -> Result<(), KernelError> {
    let ifindex = skerry_kernel::ifindex(device)?;
    let path = root.join("links").join(format!("xdp-{device}"));
    if path.exists() {
        // A link whose device went, or was made anew under its name, takes no program.
        let link = Link::open(&path)?;
        let is_kept = link.replace(program.fd()).is_ok() && link.xdp_device()? == Some(ifindex);
        if is_kept && skerry_kernel::xdp_mode(ifindex)?.is_none_or(|now| mode.allows(now)) {
            return Ok(());
        }
        drop(link);
        unpin(&path)?;
    }
    let link = match mode.attach(program.fd(), ifindex) {
        Err(error) if error.is_busy() => return Err(KernelError::Taken { device: device.to_owned() }),
        Err(source) if mode == XdpChoice::Native => {
            return Err(KernelError::NoNative { device: device.to_owned(), source });
        }
        attached => {
            let (link, got) = attached?;
            tracing::info!(device, mode = ?got, "attached");
            link
        }
    };
    link.pin(&path)?;
    Ok(())
}

/// The folders below `root`, on a BPF file system.
fn prepare(root: &Path) -> Result<(), KernelError> {
    let mount = Path::new("/sys/fs/bpf");
    if root.starts_with(mount) {
        skerry_kernel::mount_bpffs(mount)?;
    }
    ["maps", "links"]
        .map(|name| root.join(name))
        .into_iter()
        .try_for_each(|path| fs::create_dir_all(&path).map_err(|source| KernelError::Folder { path, source }))
}

/// Holds what is pinned: it lives on when the pins go.
pub fn hold(root: &Path) -> Result<Holder, KernelError> {
    let mut holder = Holder::default();
    for folder in ["maps", "links"] {
        entries(&root.join(folder)).iter().try_for_each(|path| holder.hold(path))?;
    }
    Ok(holder)
}

/// Pins again what has no pin. Returns how many there were.
pub fn restore(root: &Path, held: &Holder) -> Result<u32, KernelError> {
    prepare(root)?;
    Ok(held.restore()?)
}

/// Takes the program off its devices and removes the maps below `root`; flows end.
pub fn remove(root: &Path) -> Result<(), KernelError> {
    for path in entries(&root.join("links")) {
        if let Err(error) = Link::open(&path).and_then(|link| link.detach()) {
            tracing::warn!(%error, path = %path.display(), "not detached; its device may be gone");
        }
        unpin(&path)?;
    }
    entries(&root.join("maps")).iter().try_for_each(|path| unpin(path))?;
    for folder in ["links", "maps", ""] {
        let path = root.join(folder);
        match fs::remove_dir(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(KernelError::Remove { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn unpin(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::Remove { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

impl Maps {
    /// Writes what the program needs to know; `abi_version` comes last in meaning: without it nothing is
    /// balanced.
    pub fn set_facts(&self, facts: &Facts) -> Result<(), skerry_kernel::Error> {
        self.config.update(&0, &Facts { abi_version: ABI_VERSION, ..*facts }, Update::Any)
    }

    /// Packets and bytes under a reason, all CPUs together.
    pub fn counted(&self, reason: Reason) -> Result<(u64, u64), skerry_kernel::Error> {
        let counters = self.counters.lookup(&(reason as u32))?.unwrap_or_default();
        Ok(counters.iter().fold((0, 0), |(packets, bytes), c| (packets + c.packets, bytes + c.bytes)))
    }
}
