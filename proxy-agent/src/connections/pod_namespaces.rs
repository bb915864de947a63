//! The network namespaces of this node's pods, as the CNI plugin has noted them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use cni_plugin::{StateError, records};

/// Paths of the namespaces of all pods that are attached, each once; none where the plugin was never called.
/// What is no record is passed over: the plugin tells of it itself when its pod goes.
pub(crate) fn paths(cni_state_dir: &Path) -> Result<BTreeSet<PathBuf>, StateError> {
    let (found, unreadable) = records(cni_state_dir)?;
    if !unreadable.is_empty() {
        tracing::debug!(?unreadable, "no records of the CNI plugin");
    }
    Ok(found.into_iter().map(|record| record.netns).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_namespace_is_named_once_and_what_is_no_record_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(paths(dir.path()).unwrap(), BTreeSet::new());
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let folder = dir.path().join(boot_id.trim()).join("attachments");
        fs::create_dir_all(&folder).unwrap();
        let record = |netns: &str| {
            let record = serde_json::json!({
                "containerId": "c", "ifname": "eth0", "network": "skerry", "netns": netns, "hostIfname": "sk0",
                "mac": "02:00:00:00:00:01",
            });
            format!("{record}\n17\n").into_bytes()
        };
        for (name, bytes) in [
            ("a@eth0", record("/run/netns/a")),
            ("a@net1", record("/run/netns/a")),
            ("b@eth0", record("/run/netns/b")),
            ("c@eth0", b"torn".to_vec()),
            ("d@eth0", b"\xff\xfe".to_vec()),
            ("e@eth0", Vec::new()),
            (".new", record("/run/netns/not-yet")),
        ] {
            fs::write(folder.join(name), bytes).unwrap();
        }
        fs::create_dir(folder.join("f@eth0")).unwrap();
        assert_eq!(paths(dir.path()).unwrap(), ["/run/netns/a", "/run/netns/b"].map(PathBuf::from).into());
    }
}
