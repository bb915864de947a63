//! What explains the cluster to a person: the proxy's maps, its services, a made-up packet's way through the
//! datapath, how a pod came to be.

mod api;
mod bpf;
mod flows;
mod names;
mod pod;
mod service;
mod sheet;
mod trace;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use bytemuck::Pod;
use clap::{Args, ValueEnum};
use proxy_abi::{ABI_VERSION, Facts, map};
use skerry_kernel::Map;

pub use api::ApiOptions;
pub use bpf::{BpfArgs, run as bpf};
pub use flows::{FlowsArgs, run as flows};
pub use pod::{PodArgs, run as pod};
pub use service::{ServiceArgs, run as service};
pub use trace::{TraceArgs, run as trace};

/// How something is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

#[derive(Clone, Debug, Args)]
pub struct Show {
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
    /// Where programs and maps are pinned
    #[arg(long, default_value = proxy_abi::PIN_ROOT)]
    pub pin_root: PathBuf,
}

/// The pinned maps of a proxy whose layout we know.
pub struct Maps {
    root: PathBuf,
    pub facts: Facts,
}

impl Maps {
    /// # Errors
    /// When there are none, or they are of another version.
    pub fn open(root: &Path) -> anyhow::Result<Maps> {
        let path = root.join("maps").join(map::CONFIG);
        ensure!(
            path.exists(),
            "nothing is pinned at {}: is the proxy set up here, and are you root? (--pin-root names another place)",
            root.display()
        );
        let facts = Map::<u32, Facts>::open(&path).context("open the proxy's configuration")?;
        let facts = facts.lookup(&0).context("read the proxy's configuration")?.unwrap_or_default();
        ensure!(
            matches!(facts.abi_version, 0 | ABI_VERSION),
            "the maps are of ABI version {}, this program speaks {ABI_VERSION}: use the `skerry` that runs the proxy",
            facts.abi_version
        );
        Ok(Maps { root: root.to_owned(), facts })
    }

    /// # Errors
    /// When there is no such map, or it can't be read.
    pub fn entries<K: Pod + PartialEq, V: Pod>(&self, name: &str) -> anyhow::Result<Vec<(K, V)>> {
        let map = Map::open(&self.path(name)).with_context(|| format!("open the map {name}"))?;
        map.entries().with_context(|| format!("read the map {name}"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }
}
