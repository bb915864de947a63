//! The steps of turning a log over. Each leaves the files such that the next agent goes on from there: what
//! was written is at every moment in a file that is read.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;

use super::files::{Former, Formers, PACKED, UNFINISHED, next_name, with_suffix};

/// How much of a container's log is kept: about the product of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A file of this size, bytes, is turned over.
    pub max_bytes: u64,
    /// Files of one container, with the one that is written to; 2 at least.
    pub max_files: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_bytes: 10 << 20, max_files: 5 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    #[error("list the files of log {}", log.display())]
    List { log: PathBuf, source: io::Error },
    #[error("remove old log {}", path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error("compress log {}", path.display())]
    Compress { path: PathBuf, source: io::Error },
    #[error("rename log {}", path.display())]
    Rename { path: PathBuf, source: io::Error },
    #[error("watch log {}", path.display())]
    Watch { path: PathBuf, source: io::Error },
}

/// Clears what an interrupted turn left, makes room for one more file and compresses the others. Nobody
/// writes to any of them.
pub fn tidy(log: &Path, max_files: usize) -> Result<(), RotateError> {
    let found = Formers::of(log).map_err(|source| RotateError::List { log: log.to_owned(), source })?;
    let remove = |path: PathBuf| {
        fs::remove_file(&path).map_err(|source| RotateError::Remove { path: path.clone(), source })
    };
    for path in found.leavings {
        remove(path)?;
    }
    // The one that is written to and the one that it becomes are not among them.
    let excess = found.files.len().saturating_sub(max_files.saturating_sub(2));
    for (index, Former { path, packed, .. }) in found.files.into_iter().enumerate() {
        if index < excess {
            remove(path)?;
        } else if !packed {
            compress(&path).map_err(|source| RotateError::Compress { path, source })?;
        }
    }
    Ok(())
}

/// Only what is durable as a whole gets the name under which it is read, and only then the original goes.
fn compress(path: &Path) -> io::Result<()> {
    let packed = with_suffix(path, PACKED);
    let unfinished = with_suffix(&packed, UNFINISHED);
    let written = write_packed(path, &unfinished).and_then(|()| fs::rename(&unfinished, &packed));
    if written.is_err() {
        // On a full disk it would take the room that the next try needs.
        let _ = fs::remove_file(&unfinished);
    }
    written?;
    fs::remove_file(path)
}

fn write_packed(from: &Path, to: &Path) -> io::Result<()> {
    let mut original = File::open(from)?;
    let metadata = original.metadata()?;
    let mut packer = GzEncoder::new(File::create(to)?, Compression::default());
    io::copy(&mut original, &mut packer)?;
    let file = packer.finish()?;
    file.set_permissions(metadata.permissions())?;
    // Who asks for the last hour need not open what was last written before it.
    file.set_modified(metadata.modified()?)?;
    file.sync_all()
}

/// Gives the file that is written to the name of a former one; the writer goes on with it until it opens the
/// log again. The new name's stamp and path.
pub fn put_aside(log: &Path, now: Timestamp) -> Result<(String, PathBuf), RotateError> {
    let found = Formers::of(log).map_err(|source| RotateError::List { log: log.to_owned(), source })?;
    let last = found.files.last().map(|file| file.stamp.as_str());
    let (stamp, path) = next_name(log, last, now);
    fs::rename(log, &path).map_err(|source| RotateError::Rename { path: log.to_owned(), source })?;
    Ok((stamp, path))
}

/// Undoes [`put_aside`], unless the writer has opened the log anew: `true` if it has.
pub fn put_back(log: &Path, aside: &Path) -> Result<bool, RotateError> {
    if log.exists() {
        return Ok(true);
    }
    fs::rename(aside, log).map_err(|source| RotateError::Rename { path: aside.to_owned(), source })?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::logs::files::open_all;

    fn text(log: &Path) -> String {
        let mut text = String::new();
        open_all(log, None)
            .unwrap()
            .into_iter()
            .for_each(|mut file| _ = file.read_to_string(&mut text).unwrap());
        text
    }

    fn names(folder: &Path) -> Vec<String> {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = files.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn turn(log: &Path, max_files: usize, second: i64, next: &str) {
        tidy(log, max_files).unwrap();
        put_aside(log, Timestamp::from_second(second).unwrap()).unwrap();
        fs::write(log, next).unwrap();
    }

    #[test]
    fn so_many_files_are_kept_and_all_but_two_are_compressed() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("0.log");
        fs::write(&log, "0\n").unwrap();
        (1..=6).for_each(|second| turn(&log, 4, second, &format!("{second}\n")));
        let stamps =
            ["0.log", "0.log.19700101-000004.gz", "0.log.19700101-000005.gz", "0.log.19700101-000006"];
        assert_eq!(names(folder.path()), stamps);
        assert_eq!(text(&log), "3\n4\n5\n6\n");
        turn(&log, 2, 7, "7\n");
        assert_eq!(names(folder.path()), ["0.log", "0.log.19700101-000007"]);
        assert_eq!(text(&log), "6\n7\n");
    }

    #[test]
    fn a_turn_that_was_killed_anywhere_loses_nothing() {
        // What each of its steps leaves when nothing comes after it.
        let leaves: [fn(&Path); 4] = [
            |log| fs::write(with_suffix(log, "19700101-000001.gz.tmp"), "\x1f\x08torn").unwrap(),
            |log| {
                let former = with_suffix(log, "19700101-000001");
                write_packed(&former, &with_suffix(&former, PACKED)).unwrap();
            },
            |log| compress(&with_suffix(log, "19700101-000001")).unwrap(),
            |log| {
                put_aside(log, Timestamp::from_second(2).unwrap()).unwrap();
                // The runtime writes on where it did, until it is asked once more.
                let mut still =
                    File::options().append(true).open(with_suffix(log, "19700101-000002")).unwrap();
                still.write_all(b"c\n").unwrap();
                fs::write(log, "").unwrap();
            },
        ];
        for (step, leave) in leaves.into_iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let log = folder.path().join("0.log");
            fs::write(&log, "a\n").unwrap();
            turn(&log, 5, 1, "b\n");
            leave(&log);
            let whole = if step == 3 { "a\nb\nc\n" } else { "a\nb\n" };
            assert_eq!(text(&log), whole, "step {step}");
            turn(&log, 5, 3, "d\n");
            assert_eq!(text(&log), format!("{whole}d\n"), "step {step}");
            let left = names(folder.path());
            assert!(left.iter().all(|name| !name.ends_with(UNFINISHED)), "{left:?}");
            assert!(left.contains(&"0.log.19700101-000001.gz".to_owned()), "{left:?}");
            assert!(!left.contains(&"0.log.19700101-000001".to_owned()), "{left:?}");
        }
    }

    #[test]
    fn a_log_that_the_runtime_did_not_open_anew_gets_its_name_back() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("0.log");
        fs::write(&log, "a\n").unwrap();
        let (_, aside) = put_aside(&log, Timestamp::UNIX_EPOCH).unwrap();
        assert!(!put_back(&log, &aside).unwrap());
        assert_eq!(names(folder.path()), ["0.log"]);
        let (_, aside) = put_aside(&log, Timestamp::UNIX_EPOCH).unwrap();
        fs::write(&log, "b\n").unwrap();
        assert!(put_back(&log, &aside).unwrap(), "it has, though it did not say so");
        assert_eq!(text(&log), "a\nb\n");
    }
}
