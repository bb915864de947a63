use std::{collections::HashMap, os::fd::AsFd, path::PathBuf, time::Instant};

use aya::{
    EbpfLoader,
    maps::{MapData, RingBuf},
    programs::Program as Loaded,
};
use proxy_abi::{ABI_VERSION, Config as Facts, MAPS, PROGRAMS, map};
use skerry_kernel::{Map, Program};

use crate::{
    config::MapSizes,
    pins::{Pins, PinsError},
};

/// The kernel programs, as `build.rs` made them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/skerry-bpf"));

/// Programs that are loaded and pinned, by name, and the open drop ring.
pub(crate) struct Programs {
    pub by_name: HashMap<&'static str, Program>,
    pub events: RingBuf<MapData>,
}

/// The kernel programs could not be brought in.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Pins(#[from] PinsError),
    #[error("open pinned map {path}")]
    OpenMap { path: PathBuf, source: skerry_kernel::Error },
    #[error(
        "the maps pinned below {root} are of ABI version {found}, this program speaks {ABI_VERSION}: \
         drain the node, run `skerry uninstall` and start again"
    )]
    OtherAbi { root: PathBuf, found: u32 },
    #[error("load the kernel programs and their maps")]
    Object(#[source] Box<aya::EbpfError>),
    #[error("the object has no {kind} {name}")]
    Missing { kind: &'static str, name: &'static str },
    #[error("load program {name}")]
    Program { name: &'static str, source: Box<aya::programs::ProgramError> },
    #[error("keep program {name}")]
    Keep { name: &'static str, source: std::io::Error },
    #[error("pin program {name}")]
    PinProgram { name: &'static str, source: skerry_kernel::Error },
    #[error("open the ring of drop records")]
    Ring(#[source] aya::maps::MapError),
}

/// Creates or takes up the pinned maps (below folders that [`Pins::prepare`] made) and loads the programs against them. Nothing is attached yet, and what is
/// attached is not touched; the program pins show the new programs when this returns.
pub(crate) fn load(pins: &Pins, sizes: &MapSizes) -> Result<Programs, LoadError> {
    check_abi(pins)?;
    let mut loader = EbpfLoader::new();
    for spec in MAPS {
        loader.map_pin_path(spec.name, pins.map(spec.name));
        if let Some(size) = size_of(spec.name, sizes) {
            loader.map_max_entries(spec.name, size);
        }
    }
    let mut object = loader.load(OBJECT).map_err(|source| LoadError::Object(Box::new(source)))?;
    let mut by_name = HashMap::new();
    for name in PROGRAMS {
        let program = object.program_mut(name).ok_or(LoadError::Missing { kind: "program", name })?;
        by_name.insert(*name, load_program(pins, name, program)?);
    }
    let events = object.take_map(map::EVENTS).ok_or(LoadError::Missing { kind: "map", name: map::EVENTS })?;
    Ok(Programs { by_name, events: RingBuf::try_from(events).map_err(LoadError::Ring)? })
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
        _ => return Err(LoadError::Missing { kind: "tc or socket address program", name }),
    };
    tracing::debug!(name, took = ?started.elapsed(), "program verified");
    let program = Program::from_fd(fd.map_err(|source| LoadError::Keep { name, source })?, name);
    let (path, fresh) = (pins.program(name), pins.program(&format!("{name}-new")));
    pins.remove(&fresh)?;
    program.pin(&fresh).map_err(|source| LoadError::PinProgram { name, source })?;
    pins.replace(&fresh, &path)?;
    Ok(program)
}

/// What an earlier agent left must speak our ABI. A version of 0 was never written to.
fn check_abi(pins: &Pins) -> Result<(), LoadError> {
    let path = pins.map(map::CONFIG);
    if !path.exists() {
        return Ok(());
    }
    let failed = |source| LoadError::OpenMap { path: path.clone(), source };
    let config = Map::<u32, Facts>::open(&path).map_err(failed)?;
    match config.lookup(&0).map_err(failed)?.map_or(0, |facts| facts.abi_version) {
        0 | ABI_VERSION => Ok(()),
        found => Err(LoadError::OtherAbi { root: pins.root().to_owned(), found }),
    }
}

fn size_of(name: &str, sizes: &MapSizes) -> Option<u32> {
    match name {
        map::FRONTENDS => Some(sizes.frontends),
        map::SLOTS => Some(sizes.slots),
        map::FLOWS => Some(sizes.flows),
        map::FLOWS_NEW => Some(sizes.flows_new),
        map::SOCKETS => Some(sizes.sockets),
        _ => None,
    }
}
