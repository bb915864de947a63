//! A container image as a docker-archive tar: one layer, made from a list of files in about a tenth of a
//! second.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::command;

/// What an image holds and how it starts.
#[derive(Clone, Debug, Default)]
pub struct Recipe {
    entries: BTreeMap<String, Entry>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    stop_signal: Option<String>,
}

#[derive(Clone, Debug)]
enum Entry {
    Dir,
    File { content: Vec<u8>, mode: u32 },
    Link { target: String },
}

impl Recipe {
    pub fn dir(mut self, path: &str) -> Self {
        self.entries.insert(path.trim_matches('/').to_owned(), Entry::Dir);
        self
    }

    pub fn file(mut self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.entries.insert(path.trim_matches('/').to_owned(), Entry::File { content: content.into(), mode });
        self
    }

    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.entries.insert(path.trim_matches('/').to_owned(), Entry::Link { target: target.to_owned() });
        self
    }

    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.entrypoint = words.iter().map(|w| (*w).to_owned()).collect();
        self
    }

    pub fn cmd(mut self, words: &[&str]) -> Self {
        self.cmd = words.iter().map(|w| (*w).to_owned()).collect();
        self
    }

    pub fn stop_signal(mut self, signal: &str) -> Self {
        self.stop_signal = Some(signal.to_owned());
        self
    }

    /// A file of the machine at `path` in the image.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn copy(self, path: &str, from: &Path) -> Result<Self> {
        let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        let mode = fs::metadata(from)?.permissions().mode() & 0o7777;
        Ok(self.file(path, content, mode))
    }

    /// A program of the machine at `path`, with the libraries and the loader that `ldd` names for it.
    ///
    /// # Errors
    /// When it, or a library that it needs, isn't there.
    pub fn program(mut self, path: &str, from: &Path) -> Result<Self> {
        for library in libraries(from)? {
            let shown = library.to_string_lossy().into_owned();
            if !self.entries.contains_key(shown.trim_matches('/')) {
                self = self.copy(&shown, &library)?;
            }
        }
        self.copy(path, from)
    }

    /// Writes the archive that `ctr images import` takes, with all of `names`.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, to: &Path, names: &[&str]) -> Result<()> {
        let layer = self.layer().context("put the layer together")?;
        let diff_id = hex(&Sha256::digest(&layer));
        let config = serde_json::to_vec(&serde_json::json!({
            "architecture": architecture()?, "os": "linux", "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": self.entrypoint, "Cmd": self.cmd, "StopSignal": self.stop_signal,
                // curl's LDAP library looks the host's name up as it is loaded: 10 s where no DNS server
                // answers.
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LDAPNOINIT=1"],
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "skerry-lab"}],
        }))?;
        let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
        let layer_name = format!("{diff_id}/layer.tar");
        let manifest = serde_json::to_vec(&serde_json::json!([
            {"Config": config_name, "RepoTags": names, "Layers": [layer_name]}
        ]))?;
        let parent = to.parent().context("an archive lies in a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        // Another test process may be making the same one: the rename makes either of them whole.
        let file = tempfile::NamedTempFile::new_in(parent).context("make an archive")?;
        let mut tar = tar::Builder::new(file);
        for (name, content) in
            [(config_name, config), (layer_name, layer), ("manifest.json".into(), manifest)]
        {
            append(&mut tar, &name, &content, 0o644)?;
        }
        let mut file = tar.into_inner().context("end the archive")?;
        file.flush().context("write the archive")?;
        file.persist(to).with_context(|| format!("keep {}", to.display()))?;
        Ok(())
    }

    /// Changes whenever the image would.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (path, entry) in &self.entries {
            hash.update(path);
            match entry {
                Entry::Dir => hash.update([0]),
                Entry::File { content, mode } => {
                    hash.update(mode.to_be_bytes());
                    hash.update(content.len().to_be_bytes());
                    hash.update(content);
                }
                Entry::Link { target } => hash.update(format!("\u{1}{target}\u{1}")),
            }
        }
        hash.update("format 2");
        hash.update(format!("{:?} {:?} {:?}", self.entrypoint, self.cmd, self.stop_signal));
        hex(&hash.finalize())
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut dirs = BTreeSet::new();
        for (path, entry) in &self.entries {
            for dir in Path::new(path).ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
                append_dir(&mut tar, &mut dirs, &dir.to_string_lossy())?;
            }
            match entry {
                Entry::Dir => append_dir(&mut tar, &mut dirs, path)?,
                Entry::File { content, mode } => append(&mut tar, path, content, *mode)?,
                Entry::Link { target } => {
                    let mut header = header(tar::EntryType::Symlink, 0, 0o777);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }
}

fn append_dir(tar: &mut tar::Builder<Vec<u8>>, made: &mut BTreeSet<String>, path: &str) -> Result<()> {
    if path.is_empty() || !made.insert(path.to_owned()) {
        return Ok(());
    }
    let mode = if path == "tmp" { 0o1777 } else { 0o755 };
    tar.append_data(&mut header(tar::EntryType::Directory, 0, mode), path, std::io::empty())?;
    Ok(())
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &str, content: &[u8], mode: u32) -> Result<()> {
    let mut header = header(tar::EntryType::Regular, content.len() as u64, mode);
    tar.append_data(&mut header, path, content).with_context(|| format!("add {path}"))
}

fn header(kind: tar::EntryType, size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header
}

/// The paths at which a program's loader looks for what it links to, as they are spelled there.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let text = command::output(Command::new("ldd").arg(program))?;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.contains("not found") {
            bail!("{} needs {}: install the package that has it", program.display(), line.trim());
        }
        let path = line.split("=> ").last().unwrap_or(line).split_whitespace().next().unwrap_or_default();
        if path.starts_with('/') {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

/// The machine's architecture as images name it.
fn architecture() -> Result<&'static str> {
    Ok(match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no image name for the architecture {other}"),
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
