use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use serde_json::json;

use crate::{config::CniBinary, files::write_atomically};

/// Name of our network configuration; runtimes take the first of the folder.
pub(crate) const FILE: &str = "10-skerry.conflist";

#[derive(Debug, thiserror::Error)]
pub enum ConflistError {
    #[error("write network configuration {path}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("remove network configuration {path}")]
    Remove { path: PathBuf, source: std::io::Error },
    #[error("install CNI plugin {to}")]
    Install { to: PathBuf, source: std::io::Error },
}

/// Name of the plugin's binary: `type` in the configuration.
pub(crate) const PLUGIN: &str = "skerry-cni";

/// Tells the container runtime that pods can be connected now. The last thing that is done at start; writes only what
/// has changed. Version 1.0.0 because containerd 1.6 refuses ADD under 1.1.0.
pub(crate) fn write(
    dir: &Path,
    mtu: u32,
    ranges: &[IpNetwork],
    pin_root: &Path,
    state_dir: &Path,
) -> Result<bool, ConflistError> {
    let ranges: Vec<String> = ranges.iter().map(IpNetwork::to_string).collect();
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "skerry",
        "plugins": [{
            "type": PLUGIN, "mtu": mtu, "ranges": ranges, "pinRoot": pin_root, "stateDir": state_dir,
            // Filters are in place after 0.1 ms; each TCX link would wait 8 ms and more for a grace period.
            "attach": "clsact",
        }],
    });
    let (path, contents) = (dir.join(FILE), format!("{list:#}\n"));
    if std::fs::read_to_string(&path).is_ok_and(|there| there == contents) {
        return Ok(false);
    }
    let failed = |source| ConflistError::Write { path: path.clone(), source };
    write_atomically(&path, contents.as_bytes()).map_err(failed)?;
    Ok(true)
}

pub(crate) fn remove(dir: &Path) -> Result<(), ConflistError> {
    let path = dir.join(FILE);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(ConflistError::Remove { path, source })
        }
        _ => Ok(()),
    }
}

/// Configurations of others that the runtime would take before ours.
pub(crate) fn foreign_before_ours(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "conf" || e == "conflist" || e == "json"))
        .filter(|path| path.file_name().is_some_and(|name| name < FILE))
        .collect();
    names.sort();
    names
}

/// Copies the plugin where the runtime looks for it, in one step, unless the very same is there.
pub(crate) fn install(binary: &CniBinary) -> Result<(), ConflistError> {
    let to = binary.dir.join(PLUGIN);
    let failed = |source| ConflistError::Install { to: to.clone(), source };
    let contents = std::fs::read(&binary.source).map_err(failed)?;
    if std::fs::read(&to).is_ok_and(|there| there == contents) {
        return Ok(());
    }
    std::fs::create_dir_all(&binary.dir).map_err(failed)?;
    let fresh = binary.dir.join(".skerry-cni.new");
    std::fs::write(&fresh, contents).map_err(failed)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
    std::fs::rename(&fresh, &to).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_written_once_and_foreign_ones_before_it_are_named() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["05-cilium.conflist", "10-flannel.conflist", "99-late.conf", "01-notes.txt"] {
            std::fs::write(dir.path().join(name), "{}").unwrap();
        }
        let ranges = ["10.244.1.0/24".parse().unwrap()];
        let write_again =
            || write(dir.path(), 1450, &ranges, Path::new("/pins"), Path::new("/state")).unwrap();
        assert!(write_again());
        assert!(!write_again());
        let written: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.path().join(FILE)).unwrap()).unwrap();
        assert_eq!(written["plugins"][0]["ranges"], json!(["10.244.1.0/24"]));
        assert_eq!(written["plugins"][0]["type"], "skerry-cni");
        let foreign: Vec<_> =
            foreign_before_ours(dir.path()).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(foreign, ["05-cilium.conflist", "10-flannel.conflist"]);
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
        assert!(!dir.path().join(FILE).exists());
    }
}
