use std::{
    collections::BTreeMap,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// What we changed on the machine and what stood there before, so that [`crate::cleanup`] can put it back.
/// Kept in a file of the run folder, which goes with a reboot as the settings do.
#[derive(Debug)]
pub(crate) struct Settings {
    file: PathBuf,
    record: Record,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// Path below `/proc/sys` → value before our first change.
    #[serde(default)]
    sysctls: BTreeMap<String, String>,
    /// A BPF file system that we mounted.
    #[serde(default)]
    mount: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("read setting {name}")]
    Read { name: String, source: std::io::Error },
    #[error("set {name} to {value}")]
    Write { name: String, value: String, source: std::io::Error },
    #[error("keep the record of changed settings in {path}")]
    Keep { path: PathBuf, source: std::io::Error },
    #[error("unmount the BPF file system at {path}")]
    Unmount { path: PathBuf, source: skerry_kernel::Error },
    #[error("read the record of changed settings {path}: remove it to go on without")]
    Parse { path: PathBuf, source: serde_json::Error },
}

const FILE: &str = "proxy-settings.json";
const PROC_SYS: &str = "/proc/sys";
/// Where a container without privileges, whose own `/proc/sys` is read-only, has the settings of its network
/// namespace.
const PROC_SYS_OF_HOST: &str = "/host/proc/sys";

impl Settings {
    pub fn open(run_dir: &Path) -> Result<Settings, SettingsError> {
        let file = run_dir.join(FILE);
        let record = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| SettingsError::Parse { path: file.clone(), source })?,
            Err(error) if error.kind() == ErrorKind::NotFound => Record::default(),
            Err(source) => return Err(SettingsError::Keep { path: file, source }),
        };
        Ok(Settings { file, record })
    }

    /// Packets pass through us, and may come in by another way than their answers go out.
    pub fn prepare_forwarding(
        &mut self,
        uplinks: &[String],
        overlay: &str,
        has_v6_pods: bool,
    ) -> Result<(), SettingsError> {
        self.raise("net/ipv4/ip_forward", |_| Some("1"))?;
        // Strict reverse path filtering (1) would drop what is balanced on arrival; the kernel takes the
        // larger of `all` and the device's.
        self.raise("net/ipv4/conf/all/rp_filter", |value| (value == "1").then_some("2"))?;
        for uplink in uplinks {
            self.raise(&format!("net/ipv4/conf/{uplink}/rp_filter"), |value| (value == "1").then_some("2"))?;
        }
        write(&format!("net/ipv4/conf/{overlay}/rp_filter"), "0")?;
        if has_v6_pods {
            // A router listens to no advertisements unless told so (2): without this the node would lose the
            // default route and the addresses that it has from them.
            for uplink in uplinks {
                self.raise(&format!("net/ipv6/conf/{uplink}/accept_ra"), |value| {
                    (value == "1").then_some("2")
                })?;
            }
            self.raise("net/ipv6/conf/all/forwarding", |_| Some("1"))?;
        }
        Ok(())
    }

    pub fn record_mount(&mut self, path: &Path) -> Result<(), SettingsError> {
        self.record.mount = Some(path.to_owned());
        self.keep()
    }

    /// Puts every setting back and forgets it. A BPF file system of ours that others have pins on by now
    /// stays.
    pub fn restore(mut self) -> Vec<SettingsError> {
        let mut errors = Vec::new();
        if let Some(path) = self.record.mount.take()
            && !has_pins(&path)
        {
            errors.extend(
                skerry_kernel::unmount(&path).map_err(|source| SettingsError::Unmount { path, source }).err(),
            );
        }
        for (name, value) in std::mem::take(&mut self.record.sysctls) {
            match write(&name, &value) {
                // The device is gone and its settings with it.
                Err(SettingsError::Write { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                other => errors.extend(other.err()),
            }
        }
        match std::fs::remove_file(&self.file) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                errors.push(SettingsError::Keep { path: self.file, source });
            }
            _ => {}
        }
        errors
    }

    /// Sets what `wanted` gives for the present value, after recording that.
    fn raise(
        &mut self,
        name: &str,
        wanted: impl Fn(&str) -> Option<&'static str>,
    ) -> Result<(), SettingsError> {
        let before = read(name)?;
        let Some(value) = wanted(&before).filter(|value| *value != before) else { return Ok(()) };
        if !self.record.sysctls.contains_key(name) {
            self.record.sysctls.insert(name.to_owned(), before);
            self.keep()?;
        }
        write(name, value)
    }

    fn keep(&self) -> Result<(), SettingsError> {
        let failed = |source| SettingsError::Keep { path: self.file.clone(), source };
        let bytes = serde_json::to_vec(&self.record)
            .map_err(|source| SettingsError::Parse { path: self.file.clone(), source })?;
        crate::files::write_atomically(&self.file, &bytes).map_err(failed)
    }
}

/// The kernel's own files there (`maps.debug`) are told by their dot, which pins can't have.
fn has_pins(path: &Path) -> bool {
    let names = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.into_iter().any(|name| !name.to_string_lossy().contains('.'))
}

pub(crate) fn read(name: &str) -> Result<String, SettingsError> {
    let text = std::fs::read_to_string(Path::new(PROC_SYS).join(name));
    Ok(text.map_err(|source| SettingsError::Read { name: name.to_owned(), source })?.trim().to_owned())
}

fn write(name: &str, value: &str) -> Result<(), SettingsError> {
    let of_host = Path::new(PROC_SYS_OF_HOST).join(name);
    let path = if of_host.exists() { of_host } else { Path::new(PROC_SYS).join(name) };
    std::fs::write(path, value).map_err(|source| SettingsError::Write {
        name: name.to_owned(),
        value: value.to_owned(),
        source,
    })
}
