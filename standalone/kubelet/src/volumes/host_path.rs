use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

#[derive(Debug, thiserror::Error)]
pub enum HostPathError {
    #[error("hostPath type check failed: {} is not a {wanted}", path.display())]
    Type { path: PathBuf, wanted: &'static str },
    #[error("hostPath {0:?} is not absolute or contains \"..\": write the whole path")]
    Path(String),
    #[error("hostPath type {0:?} is not known")]
    Kind(String),
    #[error("create hostPath {}", path.display())]
    Create { path: PathBuf, source: std::io::Error },
}

/// Checks, or makes, what the volume's `type` asks for.
pub fn prepare(volume: &HostPathVolumeSource) -> Result<(), HostPathError> {
    let path = Path::new(&volume.path);
    if !path.is_absolute() || path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(HostPathError::Path(volume.path.clone()));
    }
    let found = fs::metadata(path).ok();
    let failed = |source| HostPathError::Create { path: path.to_owned(), source };
    let expect = |holds: bool, wanted: &'static str| {
        if holds { Ok(()) } else { Err(HostPathError::Type { path: path.to_owned(), wanted }) }
    };
    let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(|meta| test(&meta.file_type()));
    match volume.type_.as_deref().unwrap_or("") {
        // Without a type the runtime makes a folder where nothing is.
        "" => Ok(()),
        "DirectoryOrCreate" if found.is_none() => {
            fs::create_dir_all(path).map_err(failed)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(failed)
        }
        "FileOrCreate" if found.is_none() => {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o644).open(path).map(drop).map_err(failed)
        }
        "Directory" | "DirectoryOrCreate" => expect(is(fs::FileType::is_dir), "directory"),
        "File" | "FileOrCreate" => expect(is(fs::FileType::is_file), "file"),
        "Socket" => expect(is(|kind| kind.is_socket()), "socket file"),
        "CharDevice" => expect(is(|kind| kind.is_char_device()), "character device"),
        "BlockDevice" => expect(is(|kind| kind.is_block_device()), "block device"),
        other => Err(HostPathError::Kind(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &Path, kind: &str) -> Result<(), HostPathError> {
        prepare(&HostPathVolumeSource { path: path.display().to_string(), type_: Some(kind.to_owned()) })
    }

    #[test]
    fn each_type_is_checked_and_or_create_makes_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(check(&at("none"), "").is_ok());
        let error = check(&at("none"), "Directory").unwrap_err().to_string();
        assert!(error.ends_with("none is not a directory"), "{error}");
        check(&at("d/e"), "DirectoryOrCreate").unwrap();
        check(&at("d/e"), "Directory").unwrap();
        check(&at("f"), "FileOrCreate").unwrap();
        check(&at("f"), "FileOrCreate").unwrap();
        assert!(check(&at("f"), "DirectoryOrCreate").is_err());
        check(Path::new("/dev/null"), "CharDevice").unwrap();
        assert!(check(Path::new("/dev/null"), "BlockDevice").is_err());
        assert!(check(&at("f"), "Folder").is_err());
    }

    #[test]
    fn a_path_that_climbs_is_refused() {
        assert!(matches!(check(Path::new("/a/../b"), ""), Err(HostPathError::Path(_))));
        assert!(matches!(check(Path::new("a"), ""), Err(HostPathError::Path(_))));
    }
}
