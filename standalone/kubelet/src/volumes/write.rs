//! Files that change all at once: a new folder is filled, then one symbolic link is swapped (`..data`).

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    os::unix::fs::{chown, symlink},
    path::{Path, PathBuf},
};

use super::{
    VolumeError, own,
    payload::{Files, PayloadFile},
};

const DATA: &str = "..data";

/// Makes the volume hold exactly `files`. Readers that open through the links see the old set or the new one,
/// whole.
pub fn replace(volume: &Path, files: &Files, group: Option<i64>) -> Result<(), VolumeError> {
    let current = fs::read_link(volume.join(DATA)).ok().map(|target| volume.join(target));
    if current.as_deref().is_some_and(|dir| holds(dir, files)) {
        return Ok(());
    }
    own(volume, 0o777, group)?;
    let fresh = fresh_folder(volume)?;
    for (path, file) in files {
        write(&fresh.join(path), file, group)?;
    }
    let name = fresh.file_name().map(PathBuf::from).unwrap_or_default();
    let link = volume.join("..data_tmp");
    remove(&link)?;
    symlink(&name, &link).map_err(failed("link", &link))?;
    fs::rename(&link, volume.join(DATA)).map_err(failed("swap", &volume.join(DATA)))?;
    link_names(volume, files)?;
    match current.filter(|old| *old != fresh) {
        Some(old) => remove(&old),
        None => Ok(()),
    }
}

fn holds(dir: &Path, files: &Files) -> bool {
    let mut found = BTreeSet::new();
    collect(dir, dir, &mut found);
    found.len() == files.len()
        && files.iter().all(|(path, file)| {
            found.contains(path) && fs::read(dir.join(path)).is_ok_and(|data| data == file.data)
        })
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if let Ok(relative) = path.strip_prefix(root) {
            found.insert(relative.display().to_string());
        }
    }
}

/// The first `..N` that is not there; a volume holds two at most, so the search is short.
fn fresh_folder(volume: &Path) -> Result<PathBuf, VolumeError> {
    let mut n = 0_u64;
    loop {
        let path = volume.join(format!("..{n}"));
        match fs::create_dir(&path) {
            Ok(()) => {
                own(&path, 0o755, None)?;
                return Ok(path);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists && n < 1000 => n += 1,
            Err(error) => return Err(failed("create folder", &path)(error)),
        }
    }
}

fn write(path: &Path, file: &PayloadFile, group: Option<i64>) -> Result<(), VolumeError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed("create folder", parent))?;
    }
    fs::write(path, &file.data).map_err(failed("write", path))?;
    let mut mode = file.mode;
    if let Some(group) = group.and_then(|group| u32::try_from(group).ok()) {
        chown(path, None, Some(group)).map_err(failed("give a group to", path))?;
        mode |= 0o040;
    }
    own(path, mode, None)
}

/// One link a first path element, and none that leads nowhere.
fn link_names(volume: &Path, files: &Files) -> Result<(), VolumeError> {
    let names: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &names {
        let link = volume.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link).map_err(failed("link", &link))?;
        }
    }
    for entry in fs::read_dir(volume).map_err(failed("list", volume))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !names.contains(name.as_str()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), VolumeError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> VolumeError + use<> {
    let path = path.to_owned();
    move |source| VolumeError::Io { operation, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |data: &str| PayloadFile { data: data.as_bytes().to_vec(), mode: 0o640 };
        list.iter().map(|(path, data)| ((*path).to_owned(), file(data))).collect()
    }

    #[test]
    fn files_are_replaced_as_a_set_and_old_names_go() {
        let dir = tempfile::tempdir().unwrap();
        let read = |path: &str| fs::read_to_string(dir.path().join(path)).ok();
        replace(dir.path(), &files(&[("a", "1"), ("d/b", "2")]), None).unwrap();
        assert_eq!((read("a"), read("d/b")), (Some("1".into()), Some("2".into())));
        let mode = fs::metadata(dir.path().join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let before = fs::read_link(dir.path().join(DATA)).unwrap();
        replace(dir.path(), &files(&[("a", "1"), ("d/b", "2")]), None).unwrap();
        assert_eq!(
            fs::read_link(dir.path().join(DATA)).unwrap(),
            before,
            "nothing is written when nothing changed"
        );
        replace(dir.path(), &files(&[("a", "3")]), None).unwrap();
        assert_eq!((read("a"), read("d/b")), (Some("3".into()), None));
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left.len(), 3, "the old folder is gone: {left:?}");
    }
}
