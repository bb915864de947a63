use std::path::{Path, PathBuf};

use skerry_kernel::{is_bpffs, mount_bpffs};

/// Paths below the pin root.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    root: PathBuf,
}

/// A folder for pins could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    #[error("prepare {path} for pins")]
    BpfFs { path: PathBuf, source: skerry_kernel::Error },
    #[error("make folder {path}")]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("list {path}")]
    List { path: PathBuf, source: std::io::Error },
    #[error("move pin to {path}")]
    Move { path: PathBuf, source: std::io::Error },
    #[error("remove pin {path}")]
    Remove { path: PathBuf, source: std::io::Error },
}

/// Where BPF file systems are mounted by convention.
const USUAL_BPFFS: &str = "/sys/fs/bpf";

impl Pins {
    pub fn new(root: &Path) -> Pins {
        Pins { root: root.to_owned() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the maps.
    pub fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.root.join("progs").join(name)
    }

    /// `hook` is the program's name; `device` is `cgroup` for the socket hooks. The BPF file system allows no
    /// dots in names (`eth0.100`), and devices' names have no colons.
    pub fn link(&self, hook: &str, device: &str) -> PathBuf {
        self.links().join(format!("{hook}-{}", device.replace('.', ":")))
    }

    /// Hook and device of a pin's name: the reverse of [`Pins::link`].
    pub fn hook_and_device(name: &str) -> Option<(&str, String)> {
        let (hook, device) = name.split_once('-')?;
        Some((hook, device.replace(':', ".")))
    }

    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Mounts a BPF file system if the root is not on one, and makes the folders. Returns where it had to
    /// mount.
    pub fn prepare(&self) -> Result<Option<PathBuf>, PinsError> {
        let existing = self.root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| PinsError::BpfFs { path, source }
        };
        let mut mounted = None;
        if !is_bpffs(existing).map_err(failed(existing))? {
            let at = match self.root.starts_with(USUAL_BPFFS) {
                true => Path::new(USUAL_BPFFS),
                false => &self.root,
            };
            mount_bpffs(at).map_err(failed(at))?;
            mounted = Some(at.to_owned());
        }
        for path in self.folders() {
            std::fs::create_dir_all(&path).map_err(|source| PinsError::Folder { path, source })?;
        }
        Ok(mounted)
    }

    pub fn folders(&self) -> [PathBuf; 3] {
        ["maps", "progs", "links"].map(|name| self.root.join(name))
    }

    /// Names of the pinned links.
    pub fn link_names(&self) -> Result<Vec<String>, PinsError> {
        let path = self.links();
        let failed = |source| PinsError::List { path: path.clone(), source };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    /// Puts a fresh pin in an old one's place: at no moment is there none. `fresh` lies in the same folder.
    pub fn replace(&self, fresh: &Path, path: &Path) -> Result<(), PinsError> {
        std::fs::rename(fresh, path).map_err(|source| PinsError::Move { path: path.to_owned(), source })
    }

    pub fn remove(&self, path: &Path) -> Result<(), PinsError> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(PinsError::Remove { path: path.to_owned(), source: error })
            }
            _ => Ok(()),
        }
    }
}
