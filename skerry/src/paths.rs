//! Where things lie below the data and run folders.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::args::FolderArgs;

pub struct Paths<'a>(pub &'a FolderArgs);

impl Paths<'_> {
    pub fn server_dir(&self) -> PathBuf {
        self.0.data_dir.join("server")
    }

    pub fn store(&self) -> PathBuf {
        self.server_dir().join("store")
    }

    pub fn kubeconfig(&self, identity: &str) -> PathBuf {
        self.server_dir().join("kubeconfig").join(format!("{identity}.yaml"))
    }

    pub fn join_token(&self) -> PathBuf {
        self.server_dir().join("join-token")
    }

    pub fn node_dir(&self) -> PathBuf {
        self.0.data_dir.join("node")
    }

    /// Of the DNS process: its last state.
    pub fn dns_data(&self) -> PathBuf {
        self.0.data_dir.join("dns")
    }

    pub fn dns_run(&self) -> PathBuf {
        self.0.run_dir.join("dns")
    }

    /// The socket at which the DNS process hears what there is.
    pub fn dns_feed(&self) -> PathBuf {
        self.dns_run().join("feed.sock")
    }

    /// The socket at which `skerry dns lookup` asks.
    pub fn dns_admin(&self) -> PathBuf {
        self.dns_run().join("admin.sock")
    }

    /// Locked by whoever runs the role here; holds its process id.
    pub fn lock(&self, role: &str) -> PathBuf {
        self.0.run_dir.join(format!("{role}.pid"))
    }

    /// The socket at which `up` hears that the role is ready.
    pub fn notify(&self, role: &str) -> PathBuf {
        self.0.run_dir.join(format!("{role}.notify"))
    }
}

/// Makes a folder and what lies above it. The last one gets `mode`.
pub fn make_dir(path: &Path, mode: u32) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("make the folder {}", path.display()))
}

/// Writes a file of mode 0600 so that a reader sees the old or the new content, never half of one.
pub fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
        io::Write::write_all(&mut file, content)?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}
