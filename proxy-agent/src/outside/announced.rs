//! What was answered for last, for an agent that starts while the API server is away. It lies in the run
//! folder, so it does not outlive a boot.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::files::write_atomically;

/// One address a line.
pub(crate) fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("announced")
}

pub(crate) fn write(path: &Path, addresses: &BTreeSet<IpAddr>) -> io::Result<()> {
    let lines: String = addresses.iter().map(|address| format!("{address}\n")).collect();
    write_atomically(path, lines.as_bytes())
}

/// What can't be read is not remembered.
pub(crate) fn read(path: &Path) -> BTreeSet<IpAddr> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again_and_nothing_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        assert!(read(&path).is_empty());
        let addresses = BTreeSet::from(["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
        write(&path, &addresses).unwrap();
        assert_eq!(read(&path), addresses);
        std::fs::write(&path, "192.0.2.1\nodd\n").unwrap();
        assert_eq!(read(&path).len(), 1);
    }
}
