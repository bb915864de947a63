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
    #[error("remove {path}")]
    Remove { path: PathBuf, source: std::io::Error },
    #[error("install CNI plugin {to}")]
    Install { to: PathBuf, source: std::io::Error },
}

/// Name of the plugin's binary: `type` in the configuration.
pub(crate) const PLUGIN: &str = "skerry-cni";

/// Tells the container runtime that pods can be connected now. The last thing that is done at start; writes
/// only what has changed. Version 1.0.0 because containerd 1.6 refuses ADD under 1.1.0.
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
            // Whether a mesh's sidecar is in the pod.
            "capabilities": {"io.kubernetes.cri.pod-annotations": true},
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

/// Copies the plugin to where the runtime looks for it. containerd before 2.0 wants a `loopback` plugin there
/// as well: where there is none the same program answers for it, as a copy of its own, so that whoever copies
/// another one over it later does not write into ours.
pub(crate) fn install(binary: &CniBinary) -> Result<(), ConflistError> {
    let failed = |to: &Path| {
        let to = to.to_owned();
        move |source| ConflistError::Install { to, source }
    };
    let contents = std::fs::read(&binary.source).map_err(failed(&binary.source))?;
    std::fs::create_dir_all(&binary.dir).map_err(failed(&binary.dir))?;
    let [plugin, loopback] = plugins(&binary.dir);
    let before = std::fs::read(&plugin).ok();
    let loopback_there = std::fs::read(&loopback).ok();
    // First the one that may have to be known as a copy of the other.
    if loopback_there.is_none() || loopback_there == before {
        install_as(&loopback, &contents, loopback_there.as_deref()).map_err(failed(&loopback))?;
    }
    install_as(&plugin, &contents, before.as_deref()).map_err(failed(&plugin))
}

/// In one step, unless the very same is there.
fn install_as(to: &Path, contents: &[u8], there: Option<&[u8]>) -> std::io::Result<()> {
    if there == Some(contents) {
        return Ok(());
    }
    let fresh = to.with_extension("new");
    std::fs::write(&fresh, contents)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(&fresh, to)
}

/// Takes the CNI plugin out of the runtime's folder, and its copy that stands in for `loopback`; one of
/// others stays.
///
/// # Errors
/// What could not be removed.
pub fn uninstall(dir: &Path) -> Result<(), ConflistError> {
    let [plugin, loopback] = plugins(dir);
    let is_ours = std::fs::read(&plugin).ok().is_some_and(|ours| std::fs::read(&loopback).ok() == Some(ours));
    for path in is_ours.then_some(loopback).into_iter().chain([plugin]) {
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(ConflistError::Remove { path, source });
            }
            _ => {}
        }
    }
    // `/opt/cni/bin` and `/opt/cni`, where nobody else has anything there.
    for folder in dir.ancestors().take(2) {
        std::fs::remove_dir(folder).ok();
    }
    Ok(())
}

fn plugins(dir: &Path) -> [PathBuf; 2] {
    [PLUGIN, "loopback"].map(|name| dir.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_stands_in_for_loopback_only_where_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let (source, bin) = (dir.path().join("built"), dir.path().join("bin"));
        let binary = CniBinary { source: source.clone(), dir: bin.clone() };
        let has = |name: &str, text: &str| {
            assert_eq!(std::fs::read_to_string(bin.join(name)).unwrap(), text, "{name}");
        };
        for version in ["one", "two"] {
            std::fs::write(&source, version).unwrap();
            install(&binary).unwrap();
            install(&binary).unwrap();
            has(PLUGIN, version);
            has("loopback", version);
        }
        uninstall(&bin).unwrap();
        assert!(!bin.exists());
        std::fs::create_dir(&bin).unwrap();
        std::fs::write(bin.join("loopback"), "theirs").unwrap();
        install(&binary).unwrap();
        has("loopback", "theirs");
        uninstall(&bin).unwrap();
        uninstall(&bin).unwrap();
        has("loopback", "theirs");
    }

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
