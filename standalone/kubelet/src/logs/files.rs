//! The files of one log: the one that is written to, and those that it was before: `LOG.20260131-235959`,
//! all but the newest of them compressed (`….gz`). The names are the upstream node agent's, in UTC.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use flate2::read::MultiGzDecoder;
use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

use super::tail;

const STAMP: &str = "%Y%m%d-%H%M%S";
const STAMP_LENGTH: usize = "20260131-235959".len();
pub const PACKED: &str = "gz";
/// What is being compressed; worth nothing before it has its own name.
pub const UNFINISHED: &str = "tmp";
/// A file's own time of writing is coarser than that of its lines.
const CLOCKS: Duration = Duration::from_secs(1);

/// A file that the log was before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Former {
    /// When it was turned over: names sort by it.
    pub stamp: String,
    pub path: PathBuf,
    pub packed: bool,
}

/// The files in a log's folder that bear its name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Formers {
    /// Oldest first, one of each stamp.
    pub files: Vec<Former>,
    /// What a compression left that did not come to its end, or whose original was not yet removed.
    pub leavings: Vec<PathBuf>,
}

impl Formers {
    /// # Errors
    /// When the folder can't be read.
    pub fn of(log: &Path) -> io::Result<Formers> {
        let (Some(folder), Some(name)) = (log.parent(), log.file_name().and_then(OsStr::to_str)) else {
            return Ok(Formers::default());
        };
        let mut found = Formers::default();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let file = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let Some(rest) = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            let (stamp, form) = rest.split_once('.').unwrap_or((rest, ""));
            if time_of(stamp).is_none() {
                continue;
            }
            match form {
                "" | PACKED => {
                    let packed = form == PACKED;
                    found.files.push(Former { stamp: stamp.to_owned(), path, packed });
                }
                other if other.ends_with(UNFINISHED) => found.leavings.push(path),
                _ => {}
            }
        }
        // The packed one is whole, since it has its name.
        found.files.sort_by_key(|file| (file.stamp.clone(), !file.packed));
        let leavings = &mut found.leavings;
        found.files.dedup_by(|later, earlier| {
            let twice = later.stamp == earlier.stamp;
            if twice {
                leavings.push(later.path.clone());
            }
            twice
        });
        Ok(found)
    }
}

/// Where the log goes that is turned over now; always behind those that are there.
pub fn next_name(log: &Path, last: Option<&str>, now: Timestamp) -> (String, PathBuf) {
    let now = now.to_zoned(TimeZone::UTC).datetime();
    let after = last.and_then(time_of).and_then(|last| last.checked_add(SignedDuration::from_secs(1)).ok());
    let stamp = after.map_or(now, |after| after.max(now)).strftime(STAMP).to_string();
    let path = with_suffix(log, &stamp);
    (stamp, path)
}

pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn time_of(stamp: &str) -> Option<DateTime> {
    (stamp.len() == STAMP_LENGTH).then(|| DateTime::strptime(STAMP, stamp).ok())?
}

/// Takes a log away with all that it was before.
pub fn remove(log: &Path) {
    let formers = Formers::of(log).unwrap_or_default();
    let files = formers.files.into_iter().map(|file| file.path).chain(formers.leavings);
    for path in files.chain([log.to_owned()]) {
        // Most logs have one file, and a container that never began has none.
        let _ = fs::remove_file(path);
    }
}

/// One file of a log, to be read from a line of its own on.
pub enum Source {
    Plain(File),
    Packed(Box<BufReader<MultiGzDecoder<File>>>),
}

impl Source {
    pub fn open(path: &Path, packed: bool) -> io::Result<Source> {
        let file = File::open(path)?;
        Ok(if packed { Source::packed(file) } else { Source::Plain(file) })
    }

    fn packed(file: File) -> Source {
        Source::Packed(Box::new(BufReader::new(MultiGzDecoder::new(file))))
    }

    /// Goes to the first of the last `lines` lines; how many there are from there on.
    pub fn go_to_last(&mut self, lines: u64) -> io::Result<u64> {
        match self {
            Source::Plain(file) => {
                let (offset, found) = tail::offset_of_last(file, lines)?;
                file.seek(SeekFrom::Start(offset))?;
                Ok(found)
            }
            Source::Packed(reader) => {
                let mut all = 0;
                while reader.skip_until(b'\n')? > 0 {
                    all += 1;
                }
                let mut file = reader.get_ref().get_ref().try_clone()?;
                file.seek(SeekFrom::Start(0))?;
                **reader = BufReader::new(MultiGzDecoder::new(file));
                for _ in lines..all {
                    reader.skip_until(b'\n')?;
                }
                Ok(all.min(lines))
            }
        }
    }
}

impl Read for Source {
    fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::Plain(file) => file.read(block),
            Source::Packed(reader) => reader.read(block),
        }
    }
}

/// Opens all that the log was and is, oldest first; files that have nothing since `since` are left out. They
/// can be read to their end even if the log is turned over meanwhile.
///
/// # Errors
/// When the file that is written to can't be opened.
pub fn open_all(log: &Path, since: Option<Timestamp>) -> io::Result<Vec<Source>> {
    let current = Source::open(log, false)?;
    let since = since.and_then(|since| SystemTime::from(since).checked_sub(CLOCKS));
    let is_asked = |file: &Former| {
        let written = fs::metadata(&file.path).and_then(|metadata| metadata.modified());
        since.is_none_or(|since| written.is_ok_and(|written| written >= since))
    };
    let formers = Formers::of(log)?.files.into_iter().filter(is_asked);
    let opened = formers.filter_map(|file| {
        let opened = Source::open(&file.path, file.packed);
        opened.inspect_err(|error| tracing::warn!(path = %file.path.display(), %error, "log not opened")).ok()
    });
    Ok(opened.chain([current]).collect())
}

/// Leaves of all the files the last `lines` lines.
pub fn keep_last(sources: &mut Vec<Source>, lines: u64) -> io::Result<()> {
    let mut wanted = lines;
    let mut first = sources.len();
    while first > 0 && (wanted > 0 || first == sources.len()) {
        first -= 1;
        wanted -= sources[first].go_to_last(wanted)?;
    }
    sources.drain(..first);
    Ok(())
}

#[cfg(test)]
mod tests;
