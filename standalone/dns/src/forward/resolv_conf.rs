use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// The resolvers that a resolv.conf(5) names, in its order.
pub fn servers(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split(['#', ';']).next().unwrap_or_default().split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // An address of a link carries the name of its device; what can't be read is what libc passes over,
        // too.
        let address = words.next().and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok());
        let server = address.map(|ip| SocketAddr::new(ip, 53));
        servers.extend(server.filter(|server| !servers.contains(server)));
    }
    servers
}

/// Calls `changed` now and whenever the file may be another: written, replaced, made. Ends when that says so.
///
/// # Errors
/// When its folder can't be watched.
pub fn follow(path: &Path, mut changed: impl FnMut(&str) -> bool) -> Result<(), FollowError> {
    let failed = |source| FollowError { path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("/"));
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).map_err(failed)?;
    // The folder, since the file is usually replaced; and where it is a link, what that leads to.
    let in_folder = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_ONLYDIR;
    inotify.add_watch(folder, in_folder).map_err(failed)?;
    let target = std::fs::canonicalize(path).ok();
    if let Some(behind) = target.as_deref().and_then(Path::parent).filter(|behind| *behind != folder) {
        inotify.add_watch(behind, in_folder).map_err(failed)?;
    }
    let mut before = None;
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if before.as_ref() != Some(&text) {
            if !changed(&text) {
                return Ok(());
            }
            before = Some(text);
        }
        match inotify.read_events() {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("follow {path}")]
pub struct FollowError {
    path: PathBuf,
    source: nix::errno::Errno,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolvers_are_read_in_their_order_and_once() {
        let text = "# nameserver 1.1.1.1\nnameserver 192.0.2.1 # first\nsearch example.org\n\
                    nameserver fe80::1%eth0\nnameserver 192.0.2.1\nnameserver nonsense\nnameserver\n";
        let expected = ["192.0.2.1:53", "[fe80::1]:53"].map(|text| text.parse().unwrap());
        assert_eq!(servers(text), expected);
    }

    #[test]
    fn a_file_that_is_written_replaced_or_removed_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        std::fs::write(&path, "one").unwrap();
        let mut heard = Vec::new();
        follow(&path, |text| {
            heard.push(text.to_owned());
            match text {
                "one" => std::fs::write(&path, "two").unwrap(),
                "two" => {
                    std::fs::write(dir.path().join("new"), "three").unwrap();
                    std::fs::rename(dir.path().join("new"), &path).unwrap();
                }
                "three" => std::fs::remove_file(&path).unwrap(),
                _ => return false,
            }
            true
        })
        .unwrap();
        // A write can be seen half done.
        heard.dedup();
        assert_eq!(heard, ["one", "two", "three", ""]);
    }
}
