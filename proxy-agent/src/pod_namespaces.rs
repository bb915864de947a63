//! The network namespaces of this node's pods, as the CNI plugin has noted them.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// The kernel's name for this boot: the plugin's notes do not outlive it.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, thiserror::Error)]
#[error("read the CNI plugin's notes at {path}", path = path.display())]
pub(crate) struct NotesError {
    path: PathBuf,
    source: io::Error,
}

/// Of a record: `attachments/ID@IFNAME`, a line of JSON and further lines.
#[derive(Deserialize)]
struct Record {
    netns: PathBuf,
}

/// Paths of the namespaces of all pods that are attached, each once; none where the plugin was never called.
pub(crate) fn paths(cni_state_dir: &Path) -> Result<BTreeSet<PathBuf>, NotesError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| NotesError { path, source }
    };
    let boot_id = fs::read_to_string(BOOT_ID).map_err(failed(BOOT_ID.as_ref()))?;
    let folder = cni_state_dir.join(boot_id.trim()).join("attachments");
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(failed(&folder))?,
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(failed(&folder))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        match fs::read_to_string(entry.path()) {
            Ok(text) => found.extend(netns_of(&text)),
            // Its pod went meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(NotesError { path: entry.path(), source }),
        }
    }
    Ok(found)
}

/// `None`: no record. The plugin tells of such a file itself when its pod goes.
fn netns_of(text: &str) -> Option<PathBuf> {
    let record: Record = serde_json::from_str(text.lines().next()?).ok()?;
    Some(record.netns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_namespace_is_named_once_and_what_is_no_record_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(paths(dir.path()).unwrap(), BTreeSet::new());
        let folder = dir.path().join(fs::read_to_string(BOOT_ID).unwrap().trim()).join("attachments");
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in [
            ("a@eth0", "{\"netns\":\"/run/netns/a\",\"mac\":\"\"}\n17\n"),
            ("a@net1", "{\"netns\":\"/run/netns/a\"}\n"),
            ("b@eth0", "{\"netns\":\"/run/netns/b\"}\n"),
            ("c@eth0", "torn"),
            (".new", "{\"netns\":\"/run/netns/not-yet\"}\n"),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        assert_eq!(paths(dir.path()).unwrap(), ["/run/netns/a", "/run/netns/b"].map(PathBuf::from).into());
    }
}
