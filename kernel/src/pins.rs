use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use crate::{Error, sys};

/// What is pinned, held open: maps, programs and links live on when their pins go (somebody removed them, or
/// unmounted the file system), and can be pinned again.
#[derive(Debug, Default)]
pub struct Holder {
    held: BTreeMap<PathBuf, OwnedFd>,
}

impl Holder {
    /// Holds what is pinned at `path` now, in the place of what was before.
    pub fn hold(&mut self, path: &Path) -> Result<(), Error> {
        let fd = sys::get(path).map_err(|e| Error::system("open the pin", path.display(), e))?;
        self.held.insert(path.to_owned(), fd);
        Ok(())
    }

    /// What was pinned at `path` may go.
    pub fn let_go(&mut self, path: &Path) {
        self.held.remove(path);
    }

    /// Holds of what lies below `folder` only these.
    pub fn retain(&mut self, folder: &Path, keeps: impl Fn(&Path) -> bool) {
        self.held.retain(|path, _| !path.starts_with(folder) || keeps(path));
    }

    /// Pins again what has no pin; the folders must be there. Returns how many there were.
    pub fn restore(&self) -> Result<u32, Error> {
        let mut restored = 0;
        for (path, fd) in self.held.iter().filter(|(path, _)| !path.exists()) {
            sys::pin(fd.as_fd(), path).map_err(|e| Error::system("pin again", path.display(), e))?;
            restored += 1;
        }
        Ok(restored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Map, MapSpec, Update, map_type};

    #[test]
    fn what_is_held_is_pinned_again_with_what_it_held() {
        let folder = PathBuf::from(format!("/sys/fs/bpf/skerry-holder-{}", std::process::id()));
        crate::mount_bpffs("/sys/fs/bpf".as_ref()).unwrap();
        std::fs::create_dir_all(&folder).unwrap();
        let (kept, other) = (folder.join("kept"), folder.join("other"));
        let spec = MapSpec { name: "kept", map_type: map_type::HASH, max_entries: 4, flags: 0 };
        let mut holder = Holder::default();
        for path in [&kept, &other] {
            let map = Map::<u32, u32>::create(&spec).unwrap();
            map.update(&1, &7, Update::Any).unwrap();
            map.pin(path).unwrap();
            holder.hold(path).unwrap();
        }
        assert_eq!(holder.restore().unwrap(), 0);
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::create_dir(&folder).unwrap();
        holder.let_go(&other);
        assert_eq!((holder.restore().unwrap(), other.exists()), (1, false));
        assert_eq!(Map::<u32, u32>::open(&kept).unwrap().lookup(&1).unwrap(), Some(7));
        holder.retain(&folder, |_| false);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(holder.restore().unwrap(), 0);
    }
}
