//! One line of a log file: `TIME STREAM TAGS TEXT`, TAGS being `F` for a whole line or `P` for a part of one.

use jiff::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLine<'a> {
    /// As it is written, RFC 3339 with nanoseconds.
    pub time: &'a str,
    pub stdout: bool,
    /// The text goes on in the stream's next line.
    pub partial: bool,
    pub text: &'a [u8],
}

impl LogLine<'_> {
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// Reads one line, with or without its newline; `None` for what is not in the format (a torn write).
pub fn parse(line: &[u8]) -> Option<LogLine<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let (time, rest) = word(line)?;
    let (stream, rest) = word(rest)?;
    let (tags, text) = word(rest).unwrap_or((rest, &[]));
    let stdout = match stream {
        b"stdout" => true,
        b"stderr" => false,
        _ => return None,
    };
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    Some(LogLine { time: std::str::from_utf8(time).ok()?, stdout, partial, text })
}

fn word(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == b' ')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_partial_and_empty_lines_are_told_apart() {
        let line = parse(b"2016-10-06T00:17:09.669794202Z stdout F hello world\n").unwrap();
        assert_eq!((line.stdout, line.partial, line.text), (true, false, b"hello world".as_slice()));
        assert_eq!(line.timestamp().unwrap().as_second(), 1_475_713_029);
        assert!(parse(b"2016-10-06T00:17:09Z stderr P part").unwrap().partial);
        assert_eq!(parse(b"2016-10-06T00:17:09Z stderr F \n").unwrap().text, b"");
        assert_eq!(parse(b"2016-10-06T00:17:09Z stderr F\n").unwrap().text, b"");
        assert!(!parse(b"2016-10-06T00:17:09Z stdout F:x a").unwrap().partial);
    }

    #[test]
    fn what_is_not_in_the_format_is_refused() {
        for line in [&b""[..], b"x", b"a b c", b"a stdin F x", b"\xff\xfe stdout F x"] {
            assert_eq!(parse(line), None);
        }
    }
}
