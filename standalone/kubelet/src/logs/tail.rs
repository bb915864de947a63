//! The end of a log file, found from behind.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use super::{files, line};

const BLOCK: u64 = 16 << 10;

/// Offset of the first of the last `lines` lines, and how many there are from there on.
pub fn offset_of_last(file: &mut File, lines: u64) -> io::Result<(u64, u64)> {
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 || end == 0 {
        return Ok((end, 0));
    }
    let mut seen = 0;
    let mut at = end;
    let mut block = vec![0; usize::try_from(BLOCK).unwrap_or(0)];
    while at > 0 {
        let start = at.saturating_sub(BLOCK);
        let length = usize::try_from(at - start).unwrap_or(0);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..length])?;
        for index in (0..length).rev() {
            let position = start + u64::try_from(index).unwrap_or(0);
            // The newline that ends the file ends the last line, it does not begin one.
            if block[index] == b'\n' && position + 1 < end {
                seen += 1;
                if seen == lines {
                    return Ok((position + 1, lines));
                }
            }
        }
        at = start;
    }
    Ok((0, seen + 1))
}

/// The text of the last lines of a log, at most `limit` bytes of it; empty if there is none.
pub fn last_lines(path: &Path, lines: u64, limit: usize) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut sources = files::open_all(path, None)?;
        files::keep_last(&mut sources, lines)?;
        let mut raw = Vec::new();
        for source in sources {
            source.take(BLOCK * 64).read_to_end(&mut raw)?;
        }
        Ok(raw)
    };
    let raw = read().unwrap_or_default();
    let mut text = Vec::new();
    for line in raw.split_inclusive(|byte| *byte == b'\n').filter_map(line::parse) {
        text.extend_from_slice(line.text);
        if !line.partial {
            text.push(b'\n');
        }
    }
    let from = text.len().saturating_sub(limit);
    String::from_utf8_lossy(&text[from..]).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn the_last_lines_begin_where_they_should() {
        let file = file("a\nbb\nccc\n");
        let mut handle = File::open(file.path()).unwrap();
        let offsets = [0, 1, 2, 3, 9].map(|lines| offset_of_last(&mut handle, lines).unwrap());
        assert_eq!(offsets, [(9, 0), (5, 1), (2, 2), (0, 3), (0, 3)]);
    }

    #[test]
    fn lines_across_blocks_are_found() {
        let long = "x".repeat(40_000);
        let file = file(&format!("first\n{long}\nlast\n"));
        let mut handle = File::open(file.path()).unwrap();
        assert_eq!(offset_of_last(&mut handle, 2).unwrap(), (6, 2));
        assert_eq!(offset_of_last(&mut handle, 1).unwrap(), (6 + 40_001, 1));
    }

    #[test]
    fn an_empty_or_missing_file_has_no_last_lines() {
        assert_eq!(last_lines(file("").path(), 5, 100), "");
        assert_eq!(last_lines(Path::new("/none"), 5, 100), "");
    }

    #[test]
    fn parts_are_joined_in_the_text() {
        let file = file("2016-10-06T00:17:09Z stdout P ab\n2016-10-06T00:17:09Z stdout F cd\n");
        assert_eq!(last_lines(file.path(), 80, 100), "abcd\n");
        assert_eq!(last_lines(file.path(), 80, 3), "cd\n");
    }
}
