use std::{
    collections::HashMap,
    os::fd::AsFd,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapData, MapError, RingBuf},
    programs::Program as Loaded,
};
use proxy_abi::{ABI_VERSION, Facts, Frontend, FrontendKey, MAPS, PROGRAMS, map, prog};
use skerry_kernel::{Map, Program, pinned_map_info};

use crate::{
    config::MapSizes,
    programs::{
        capacity::{OF_SERVICES, element_bytes, enlarge},
        old_flows, own_ports,
        pins::{Pins, PinsError},
    },
};
use skerry_vocabulary::chain;

/// The kernel programs, as `build.rs` made them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/skerry-bpf"));

/// Programs that the verifier takes longest for, the longest first.
const LARGEST: [&str; 4] = [prog::FROM_UPLINK, prog::FROM_POD, prog::UPLINK_XDP, prog::TO_OVERLAY];
/// More would wait for the last program.
const MOST_THREADS: usize = 4;

/// Programs that are loaded and pinned, by name, and the open drop ring.
pub(crate) struct Programs {
    pub by_name: HashMap<&'static str, Program>,
    pub events: RingBuf<MapData>,
    /// The maps were another version's or too small: some are new and empty. What is attached still reads the
    /// old ones, and must stay until the new ones are filled.
    pub must_fill: bool,
    /// No agent was here before: the maps are empty.
    pub are_fresh: bool,
}

/// The kernel programs could not be brought in.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Pins(#[from] PinsError),
    #[error("open pinned map {path}")]
    OpenMap { path: PathBuf, source: skerry_kernel::Error },
    #[error(
        "map {map} below {root} has another layout (ABI version {found}, this program speaks {ABI_VERSION}) and can't be \
         made anew under running pods: drain the node, run `skerry uninstall` and start again"
    )]
    OtherLayout { root: PathBuf, map: &'static str, found: u32 },
    #[error(
        "make map {map} of {entries} elements ({kib} KiB): where memory is what lacks, raise the container's memory limit (the \
         kernel counts maps to it), elsewhere give the process CAP_BPF"
    )]
    CreateMap { map: String, entries: u32, kib: u64, source: std::io::Error },
    #[error("copy the flows of the version before")]
    Flows(#[source] skerry_kernel::Error),
    #[error("load the kernel programs and their maps")]
    Object(#[source] Box<EbpfError>),
    #[error("the object has no {kind} {name}")]
    Missing { kind: &'static str, name: &'static str },
    #[error("load program {name}")]
    Program { name: &'static str, source: Box<aya::programs::ProgramError> },
    #[error("keep program {name}")]
    Keep { name: &'static str, source: std::io::Error },
    #[error("pin program {name}")]
    PinProgram { name: &'static str, source: skerry_kernel::Error },
    #[error("open the ring of drop records")]
    Ring(#[source] MapError),
}

/// `besides`: a program that not every node has.
///
/// Creates or takes up the pinned maps (below folders that [`Pins::prepare`] made) and loads the programs
/// against them. Nothing is attached yet, and what is attached is not touched; the program pins show the new
/// programs when this returns.
pub(crate) fn load(
    pins: &Pins,
    sizes: &MapSizes,
    besides: Option<&'static str>,
) -> Result<Programs, LoadError> {
    let are_fresh = !MAPS.iter().any(|spec| pins.map(spec.name).exists());
    let mut must_fill = make_room(pins)?;
    if let Err(error) = enlarge(pins, sizes) {
        tracing::error!(error = chain(&error), "the maps of Services stay as small as they are");
    }
    must_fill |= is_to_be_filled(pins)?;
    let unmarked = own_ports::is_missing(pins);
    let mut loader = EbpfLoader::new();
    for spec in MAPS {
        loader.map_pin_path(spec.name, pins.map(spec.name));
        if let Some(size) = size_of(spec.name, sizes) {
            loader.map_max_entries(spec.name, size);
        }
    }
    let mut object = loader.load(OBJECT).map_err(|source| refused(source, sizes))?;
    let adopted = old_flows::adopt(pins).map_err(LoadError::Flows)?;
    if adopted > 0 {
        tracing::info!(adopted, "flows of the version before came along");
    }
    if unmarked {
        own_ports::mark(pins)
            .map_err(|source| LoadError::OpenMap { path: pins.map(map::OWN_PORTS), source })?;
    }
    let by_name = load_programs(pins, &mut object, besides)?;
    let events = object.take_map(map::EVENTS).ok_or(LoadError::Missing { kind: "map", name: map::EVENTS })?;
    let events = RingBuf::try_from(events).map_err(LoadError::Ring)?;
    Ok(Programs { by_name, events, must_fill, are_fresh })
}

/// The verifier takes a CPU for each program: all of the machine's are used.
fn load_programs(
    pins: &Pins,
    object: &mut Ebpf,
    besides: Option<&'static str>,
) -> Result<HashMap<&'static str, Program>, LoadError> {
    let mut waiting = Vec::new();
    for (name, program) in object.programs_mut() {
        if let Some(name) = PROGRAMS.iter().copied().chain(besides).find(|wanted| *wanted == name) {
            waiting.push((name, program));
        }
    }
    let there = |wanted: &&str| waiting.iter().any(|(name, _)| name == wanted);
    if let Some(name) = PROGRAMS.iter().copied().chain(besides).find(|wanted| !there(wanted)) {
        return Err(LoadError::Missing { kind: "program", name });
    }
    // The largest are taken first, or the last thread would have one for itself.
    waiting.sort_by_key(|(name, _)| LARGEST.iter().rev().position(|large| large == name));
    let waiting = Mutex::new(waiting);
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || {
        let mut loaded = Vec::new();
        while let Some((name, program)) = next() {
            loaded.push((name, load_program(pins, name, program)?));
        }
        Ok::<_, LoadError>(loaded)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut by_name: HashMap<_, _> = work()?.into_iter().collect();
        for helper in helpers {
            by_name.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(by_name)
    })
}

fn load_program(pins: &Pins, name: &'static str, program: &mut Loaded) -> Result<Program, LoadError> {
    let failed = |source| LoadError::Program { name, source: Box::new(source) };
    let started = Instant::now();
    let fd = match program {
        Loaded::SchedClassifier(program) => {
            program.load().map_err(failed)?;
            program.fd().map_err(failed)?.as_fd().try_clone_to_owned()
        }
        Loaded::CgroupSockAddr(program) => {
            program.load().map_err(failed)?;
            program.fd().map_err(failed)?.as_fd().try_clone_to_owned()
        }
        Loaded::Xdp(program) => {
            program.load().map_err(failed)?;
            program.fd().map_err(failed)?.as_fd().try_clone_to_owned()
        }
        _ => return Err(LoadError::Missing { kind: "tc, XDP or socket address program", name }),
    };
    tracing::debug!(name, took = ?started.elapsed(), "program verified");
    let program = Program::from_fd(fd.map_err(|source| LoadError::Keep { name, source })?, name);
    let (path, fresh) = (pins.program(name), pins.program(&format!("{name}-new")));
    pins.remove(&fresh)?;
    program.pin(&fresh).map_err(|source| LoadError::PinProgram { name, source })?;
    pins.replace(&fresh, &path)?;
    Ok(program)
}

/// Unpins maps that another version made in another layout: what it attached keeps them, for as long as it
/// runs. Of the maps of Services all go with one, the frontends first: without them the next agent goes on
/// here if this one is killed. Flows are moved aside where they can be [adopted](old_flows). Pods and sockets
/// must be kept, or nothing is changed. Returns whether an agent of another version wrote last.
fn make_room(pins: &Pins) -> Result<bool, LoadError> {
    let found = abi_version(pins)?;
    let mut others = Vec::new();
    for spec in MAPS {
        let path = pins.map(spec.name);
        if !path.exists() {
            continue;
        }
        let info =
            pinned_map_info(&path).map_err(|source| LoadError::OpenMap { path: path.clone(), source })?;
        if (info.key_size, info.value_size) == (spec.key_size, spec.value_size) {
            continue;
        }
        if spec.name == map::FLOWS && old_flows::is_known(info.key_size, info.value_size) {
            tracing::info!(found, "flows of another layout come along");
            pins.replace(&path, &pins.map(map::FLOWS_OLD))?;
            continue;
        }
        if !spec.is_derived {
            return Err(LoadError::OtherLayout { root: pins.root().to_owned(), map: spec.name, found });
        }
        others.push(path);
    }
    let of_services = OF_SERVICES.iter().rev().map(|name| pins.map(name));
    let of_services: Vec<PathBuf> = of_services.filter(|path| path.exists()).collect();
    let has_frontends = of_services.contains(&pins.map(map::FRONTENDS));
    if !has_frontends || of_services.iter().any(|path| others.contains(path)) {
        others.retain(|path| !of_services.contains(path));
        others.splice(..0, of_services);
    }
    for path in &others {
        tracing::info!(path = %path.display(), found, "a map of another layout makes room");
        pins.remove(path)?;
    }
    Ok(found != 0 && found != ABI_VERSION || !others.is_empty())
}

/// As the last agent wrote it. 0: none did, or the map's own layout is another one.
fn abi_version(pins: &Pins) -> Result<u32, LoadError> {
    let path = pins.map(map::CONFIG);
    if !path.exists() {
        return Ok(0);
    }
    let failed = |source| LoadError::OpenMap { path: path.clone(), source };
    match Map::<u32, Facts>::open(&path) {
        Ok(config) => Ok(config.lookup(&0).map_err(failed)?.map_or(0, |facts| facts.abi_version)),
        Err(skerry_kernel::Error::Layout { .. }) => Ok(0),
        Err(error) => Err(failed(error)),
    }
}

/// Programs are attached, and the frontends that the next ones would use are not written yet: an agent was
/// killed between making and filling them, or is just about to do both.
fn is_to_be_filled(pins: &Pins) -> Result<bool, LoadError> {
    let path = pins.map(map::FRONTENDS);
    if !path.exists() || pins.link_names()?.is_empty() {
        return Ok(false);
    }
    let first = Map::<FrontendKey, Frontend>::open(&path).and_then(|frontends| frontends.next_key(None));
    Ok(first.map_err(|source| LoadError::OpenMap { path, source })?.is_none())
}

/// A map that could not be made names itself and its size.
fn refused(error: EbpfError, sizes: &MapSizes) -> LoadError {
    let EbpfError::MapError(MapError::CreateError { name, io_error }) = error else {
        return LoadError::Object(Box::new(error));
    };
    let spec = MAPS.iter().find(|spec| spec.name == name);
    let entries = size_of(&name, sizes).or(spec.map(|spec| spec.max_entries)).unwrap_or(0);
    let kib = u64::from(entries) * element_bytes(&name) / 1024;
    LoadError::CreateMap { map: name, entries, kib, source: io_error }
}

fn size_of(name: &str, sizes: &MapSizes) -> Option<u32> {
    match name {
        map::FRONTENDS => Some(sizes.frontends),
        map::SLOTS => Some(sizes.slots),
        map::MEMBERS => Some(sizes.members),
        map::SOURCE_RANGES => Some(sizes.source_ranges),
        map::FLOWS => Some(sizes.flows),
        map::SOCKETS => Some(sizes.sockets),
        _ => None,
    }
}
