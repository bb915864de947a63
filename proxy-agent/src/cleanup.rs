use std::path::{Path, PathBuf};

use proxy_abi::map;
use skerry_kernel::{Direction, Link, Map, detach_filter};

use crate::{
    api::access::LOCK,
    config::Config,
    node::{
        conflist::{self, ConflistError},
        network::{Network, NetworkError},
        settings::{Settings, SettingsError},
    },
    outside::announced,
    programs::{attach::detach_from_nodes_devices, pins::Pins},
    tell::admin::SOCKET,
};

/// A part of the proxy's set-up that could not be taken away.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    #[error(transparent)]
    Conflist(#[from] ConflistError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("detach {link}")]
    Detach { link: String, source: skerry_kernel::Error },
    #[error("remove {path}")]
    Remove { path: PathBuf, source: std::io::Error },
}

/// Takes everything away that the proxy set up on this node, in the reverse order: network configuration,
/// attachments, pins, device with its addresses and routes, settings. May be called again, after a crash too;
/// goes on after errors and returns them all. The proxy must not run. Pods' devices belong to the CNI plugin
/// and stay.
pub async fn cleanup(config: &Config) -> Vec<CleanupError> {
    let mut errors: Vec<CleanupError> = Vec::new();
    errors.extend(conflist::remove(&config.cni_conf_dir).err().map(Into::into));
    if let Some(binary) = &config.cni_bin {
        errors.extend(conflist::uninstall(&binary.dir).err().map(Into::into));
    }
    let pins = Pins::new(&config.pin_root);
    for name in pins.link_names().unwrap_or_default() {
        errors.extend(detach(&pins.links().join(&name), name).err());
    }
    errors.extend(detach_pods(&pins));
    errors.extend(detach_from_nodes_devices().into_iter().map(|(device, source)| {
        let link = format!("the filter of device {device}");
        CleanupError::Detach { link, source }
    }));
    for folder in pins.folders() {
        errors.extend(remove_tree(&folder).err());
    }
    // Before the settings: a BPF file system of ours is unmounted only when it is empty. (Fails where the
    // root is the mount itself; that folder goes at the end.)
    std::fs::remove_dir(&config.pin_root).ok();
    match Network::open() {
        Ok(network) => errors.extend(network.remove_overlay().await.err().map(Into::into)),
        Err(error) => errors.push(error.into()),
    }
    match Settings::open(&config.run_dir) {
        Ok(settings) => errors.extend(settings.restore().into_iter().map(Into::into)),
        Err(error) => errors.push(error.into()),
    }
    errors.extend(remove_file(&announced::path(&config.run_dir)).err());
    errors
        .extend([LOCK, SOCKET].into_iter().filter_map(|name| remove_file(&config.run_dir.join(name)).err()));
    // Gone only if nobody else keeps something there; others' files stay.
    for folder in [&config.pin_root, &config.run_dir] {
        std::fs::remove_dir(folder).ok();
    }
    errors
}

/// Detaches at once: a link that is only unpinned runs on for as long as somebody holds it.
fn detach(path: &Path, name: String) -> Result<(), CleanupError> {
    let detached = Link::open(path).and_then(|link| link.detach());
    match detached {
        Err(source) if !source.is_not_found() => Err(CleanupError::Detach { link: name, source }),
        _ => remove_file(path),
    }
}

/// Pods that go on living keep their devices, without our programs.
fn detach_pods(pins: &Pins) -> Vec<CleanupError> {
    let pods =
        match Map::<u32, proxy_abi::Link>::open(&pins.map(map::LINKS)).and_then(|links| links.entries()) {
            Ok(pods) => pods,
            Err(error) if error.is_not_found() => return Vec::new(),
            Err(source) => return vec![CleanupError::Detach { link: map::LINKS.to_owned(), source }],
        };
    let hooks =
        pods.iter().flat_map(|(index, _)| [Direction::Ingress, Direction::Egress].map(|d| (*index, d)));
    hooks
        .filter_map(|(index, direction)| match detach_filter(index, direction) {
            Err(source) if !source.is_not_found() => {
                Some(CleanupError::Detach { link: format!("the filter of device {index}"), source })
            }
            _ => None,
        })
        .collect()
}

fn remove_file(path: &Path) -> Result<(), CleanupError> {
    gone(std::fs::remove_file(path), path)
}

/// Pins are files of a file system whose folders can't be walked by inode: plain unlink and rmdir.
fn remove_tree(path: &Path) -> Result<(), CleanupError> {
    gone(std::fs::remove_dir_all(path), path)
}

fn gone(result: std::io::Result<()>, path: &Path) -> Result<(), CleanupError> {
    match result {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(CleanupError::Remove { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
