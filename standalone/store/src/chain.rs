//! What a store must find when it is opened: which files, of which lengths and checksums. Pure.
//!
//! `MANIFEST` names the chain: one snapshot, the logs after it that are full, and the one that is being
//! written. It is replaced whenever the chain changes, never by a commit. How far the open log had come is
//! said by `MARK`, which is overwritten after each flush of the log and not flushed itself: whatever of it
//! survives was true of the log before. So a mark is a floor, exact after a process was killed and at most a
//! little low after a power cut.

use std::fmt::Write as _;

/// `magic 8 | id u64 | sequence u64 | crc32 u32`, little-endian, at the start of every snapshot and log.
pub const HEADER: usize = 28;
/// `id u64 | sequence u64 | length u64 | checksum u32 | crc32 u32`.
pub const MARK: usize = 32;

const FIRST_LINE: &str = "skerry-store 2";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Snapshot,
    Log,
}

impl Kind {
    pub fn prefix(self) -> &'static str {
        match self {
            Kind::Snapshot => "snapshot-",
            Kind::Log => "log-",
        }
    }

    pub fn file(self, sequence: u64) -> String {
        format!("{}{sequence:016}", self.prefix())
    }

    fn magic(self) -> [u8; 8] {
        match self {
            Kind::Snapshot => *b"SKRYSNP2",
            Kind::Log => *b"SKRYLOG2",
        }
    }
}

/// A file whose content is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub sequence: u64,
    /// In bytes, the header with them.
    pub length: u64,
    /// CRC-32 of all of it.
    pub checksum: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Drawn when the store was made: files of two stores are told apart by it.
    pub id: u64,
    /// Holds everything up to the start of the log of its number.
    pub snapshot: Part,
    /// From the snapshot's number on, without a gap.
    pub full: Vec<Part>,
    /// The number of the log that is being written.
    pub open: u64,
}

impl Manifest {
    pub fn encode(&self) -> String {
        let mut text = format!("{FIRST_LINE}\nid {:016x}\n", self.id);
        let parts =
            std::iter::once(("snapshot", &self.snapshot)).chain(self.full.iter().map(|log| ("log", log)));
        for (what, Part { sequence, length, checksum }) in parts {
            // Writing to a string does not fail.
            let _written = writeln!(text, "{what} {sequence} {length} {checksum:08x}");
        }
        let _written = writeln!(text, "log {}", self.open);
        let sum = crc32fast::hash(text.as_bytes());
        let _written = writeln!(text, "sum {sum:08x}");
        text
    }

    /// `None`: not what [`Manifest::encode`] has written.
    pub fn decode(text: &str) -> Option<Manifest> {
        let body = text.get(..text.len().checked_sub("sum 01234567\n".len())?)?;
        if text.get(body.len()..)? != format!("sum {:08x}\n", crc32fast::hash(body.as_bytes())) {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != FIRST_LINE {
            return None;
        }
        let id = u64::from_str_radix(lines.next()?.strip_prefix("id ")?, 16).ok()?;
        let snapshot = part(lines.next()?.strip_prefix("snapshot ")?)?;
        let mut logs: Vec<&str> = lines.map(|line| line.strip_prefix("log ")).collect::<Option<_>>()?;
        let open = logs.pop()?.parse().ok()?;
        let full: Vec<Part> = logs.into_iter().map(part).collect::<Option<_>>()?;
        let numbers = full.iter().map(|log| log.sequence).chain([open]);
        let is_chain = numbers.zip(snapshot.sequence..).all(|(found, expected)| found == expected);
        is_chain.then_some(Manifest { id, snapshot, full, open })
    }
}

fn part(text: &str) -> Option<Part> {
    let mut words = text.split(' ');
    let (sequence, length) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let checksum = u32::from_str_radix(words.next()?, 16).ok()?;
    words.next().is_none().then_some(Part { sequence, length, checksum })
}

/// How much of a log is durable at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub id: u64,
    pub log: Part,
}

impl Mark {
    pub fn encode(&self) -> [u8; MARK] {
        let mut out = [0; MARK];
        out[..8].copy_from_slice(&self.id.to_le_bytes());
        out[8..16].copy_from_slice(&self.log.sequence.to_le_bytes());
        out[16..24].copy_from_slice(&self.log.length.to_le_bytes());
        out[24..28].copy_from_slice(&self.log.checksum.to_le_bytes());
        let crc = crc32fast::hash(&out[..28]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Mark> {
        let bytes: &[u8; MARK] = bytes.try_into().ok()?;
        let log =
            Part { sequence: u64_at(bytes, 8)?, length: u64_at(bytes, 16)?, checksum: u32_at(bytes, 24)? };
        (u32_at(bytes, 28)? == crc32fast::hash(&bytes[..28])).then_some(Mark { id: u64_at(bytes, 0)?, log })
    }
}

pub fn header(kind: Kind, id: u64, sequence: u64) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..8].copy_from_slice(&kind.magic());
    out[8..16].copy_from_slice(&id.to_le_bytes());
    out[16..24].copy_from_slice(&sequence.to_le_bytes());
    let crc = crc32fast::hash(&out[..24]);
    out[24..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Whether a file begins as this format's files of its kind do.
pub fn is_of_this_format(kind: Kind, data: &[u8]) -> bool {
    data.starts_with(&kind.magic())
}

/// The checksum of what had `checksum` and is followed by `bytes`.
pub fn extend(checksum: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(checksum);
    hasher.update(bytes);
    hasher.finalize()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let log = |sequence| Part { sequence, length: 1000 + sequence, checksum: 7 };
        Manifest { id: 0xabc, snapshot: log(3), full: vec![log(3), log(4)], open: 5 }
    }

    #[test]
    fn a_manifest_is_read_back_whole_or_not_at_all() {
        let text = manifest().encode();
        assert_eq!(Manifest::decode(&text), Some(manifest()));
        for cut in 0..text.len() {
            assert_eq!(Manifest::decode(&text[..cut]), None, "cut at {cut}");
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let text = String::from_utf8(bytes).unwrap();
            assert_eq!(Manifest::decode(&text), None, "flipped at {at}");
        }
    }

    #[test]
    fn a_chain_with_a_gap_is_no_manifest() {
        let mut gap = manifest();
        gap.full.remove(0);
        assert_eq!(Manifest::decode(&gap.encode()), None);
        let mut ahead = manifest();
        ahead.open = 6;
        assert_eq!(Manifest::decode(&ahead.encode()), None);
    }

    #[test]
    fn a_mark_is_read_back_whole_or_not_at_all() {
        let mark = Mark { id: 9, log: Part { sequence: 2, length: 77, checksum: 5 } };
        let bytes = mark.encode();
        assert_eq!(Mark::decode(&bytes), Some(mark));
        for at in 0..bytes.len() {
            let mut bytes = bytes;
            bytes[at] ^= 1;
            assert_eq!(Mark::decode(&bytes), None);
            assert_eq!(Mark::decode(&bytes[..at]), None);
        }
    }

    #[test]
    fn a_checksum_goes_on_where_it_stopped() {
        assert_eq!(extend(extend(0, b"one "), b"two"), crc32fast::hash(b"one two"));
    }
}
