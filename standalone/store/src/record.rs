//! How a transaction lies on the disk.
//!
//! A record is `magic u32 | length u32 | crc32 u32 | payload`, all little-endian; the checksum covers length
//! and payload. The payload is `durable_before u64 | revision u64 | room u32 | count u32`, then per write
//! `mod u64 | create u64 | key_length u32 | value_length u32 | key | value`, where `value_length` `u32::MAX`
//! is a deletion.
//!
//! `durable_before` is the file offset that was known to be on the disk when the record was written; `room`
//! is what the group behind the record may have at most. A broken record is a torn tail, and may be cut off,
//! unless the tail is longer than one group or a whole record behind it says that the break was durable once:
//! that is damage, and the store refuses to start rather than lose what it had confirmed.
//!
//! The first format's records have another magic and no `room`; its groups had no limit.

use std::sync::Arc;

use bytes::Bytes;

use crate::tree::Write;

const HEADER: usize = 12;
/// Of the payload, before its first write.
const FIXED: usize = 24;
/// Of a write, before its key.
const WRITE: usize = 24;
const DELETED: u32 = u32::MAX;

/// What one flush appends at most, unless a record before it has announced more.
pub const GROUP_BYTES: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Files without a header, groups without a limit.
    First,
    Second,
}

impl Format {
    fn magic(self) -> u32 {
        match self {
            Format::First => 0x534b_5231,
            Format::Second => 0x534b_5232,
        }
    }
}

/// A record read back.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    pub durable_before: u64,
    /// The revision that the store had reached with it; also a floor for revisions that were never written.
    pub revision: u64,
    /// Bytes that the group behind this record may have at most.
    pub room: usize,
    pub writes: Vec<Write>,
}

/// What [`encode`] will append.
pub fn encoded_length<'a>(writes: impl IntoIterator<Item = &'a Write>) -> usize {
    HEADER + FIXED + writes.into_iter().map(write_length).sum::<usize>()
}

/// The part of a record that one write takes.
pub fn write_length(write: &Write) -> usize {
    WRITE + write.key.len() + write.value.as_ref().map_or(0, Bytes::len)
}

/// Appends the record's bytes to `out`.
pub fn encode(out: &mut Vec<u8>, durable_before: u64, revision: u64, writes: &[Write]) {
    encode_with_room(out, durable_before, revision, GROUP_BYTES, writes);
}

/// The same, and says how much the next group may have.
pub fn encode_with_room(
    out: &mut Vec<u8>,
    durable_before: u64,
    revision: u64,
    room: usize,
    writes: &[Write],
) {
    let start = out.len();
    out.extend_from_slice(&Format::Second.magic().to_le_bytes());
    out.extend_from_slice(&[0; HEADER - 4]);
    out.extend_from_slice(&durable_before.to_le_bytes());
    out.extend_from_slice(&revision.to_le_bytes());
    out.extend_from_slice(&u32::try_from(room).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&(writes.len() as u32).to_le_bytes());
    for write in writes {
        out.extend_from_slice(&write.mod_revision.to_le_bytes());
        out.extend_from_slice(&write.create_revision.to_le_bytes());
        out.extend_from_slice(&(write.key.len() as u32).to_le_bytes());
        let length = write.value.as_ref().map_or(DELETED, |value| value.len() as u32);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(write.key.as_bytes());
        if let Some(value) = &write.value {
            out.extend_from_slice(value);
        }
    }
    let length = ((out.len() - start - HEADER) as u32).to_le_bytes();
    out[start + 4..start + 8].copy_from_slice(&length);
    let crc = checksum(&length, &out[start + HEADER..]);
    out[start + 8..start + HEADER].copy_from_slice(&crc.to_le_bytes());
}

/// What stands at an offset of a log.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Record {
        record: Record,
        end: usize,
    },
    /// The file ends here.
    End,
    Broken,
}

/// Reads the record at `offset`. `data` backs the values without a copy.
pub fn decode(format: Format, data: &Bytes, offset: usize) -> Found {
    if offset >= data.len() {
        return Found::End;
    }
    match parse(format, data, offset) {
        Some((record, end)) => Found::Record { record, end },
        None => Found::Broken,
    }
}

/// Whether a whole record behind the break at `offset` says that the break had been durable.
pub fn was_durable(format: Format, data: &Bytes, offset: usize) -> bool {
    let magic = format.magic().to_le_bytes();
    let mut at = offset + 1;
    while let Some(found) = data.get(at..).and_then(|rest| rest.windows(4).position(|w| w == magic)) {
        at += found;
        if let Some((record, _)) = parse(format, data, at)
            && record.durable_before > offset as u64
        {
            return true;
        }
        at += 1;
    }
    false
}

/// Every whole record of either format, wherever it begins.
pub fn whole(data: &Bytes) -> Vec<Record> {
    let formats = [Format::Second, Format::First];
    let (mut records, mut at) = (Vec::new(), 0);
    while at < data.len() {
        let found = formats.iter().find_map(|format| parse(*format, data, at));
        at = match found {
            Some((record, end)) => {
                records.push(record);
                end
            }
            None => at + 1,
        };
    }
    records
}

fn parse(format: Format, data: &Bytes, offset: usize) -> Option<(Record, usize)> {
    let mut header = Cursor { data, at: offset };
    if header.u32()? != format.magic() {
        return None;
    }
    let length_at = header.at;
    let length = header.u32()? as usize;
    let crc = header.u32()?;
    let end = header.at.checked_add(length)?;
    let payload = data.get(header.at..end)?;
    if checksum(&data[length_at..length_at + 4], payload) != crc {
        return None;
    }
    let mut body = header;
    let (durable_before, revision) = (body.u64()?, body.u64()?);
    let room = match format {
        Format::First => u32::MAX,
        Format::Second => body.u32()?,
    } as usize;
    let count = body.u32()?;
    let mut writes = Vec::new();
    for _ in 0..count {
        let (mod_revision, create_revision) = (body.u64()?, body.u64()?);
        let (key_length, value_length) = (body.u32()?, body.u32()?);
        let key: Arc<str> = std::str::from_utf8(&body.take(key_length as usize)?).ok()?.into();
        let value = match value_length {
            DELETED => None,
            length => Some(body.take(length as usize)?),
        };
        writes.push(Write { key, create_revision, mod_revision, value });
    }
    (body.at == end).then_some((Record { durable_before, revision, room, writes }, end))
}

fn checksum(length: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length);
    hasher.update(payload);
    hasher.finalize()
}

struct Cursor<'a> {
    data: &'a Bytes,
    at: usize,
}

impl Cursor<'_> {
    fn take(&mut self, length: usize) -> Option<Bytes> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.data.len())?;
        let taken = self.data.slice(self.at..end);
        self.at = end;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.as_ref().try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.as_ref().try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(key: &str, value: Option<&[u8]>) -> Write {
        Write {
            key: key.into(),
            create_revision: 3,
            mod_revision: 7,
            value: value.map(Bytes::copy_from_slice),
        }
    }

    fn log(records: &[(u64, Vec<Write>)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (durable, writes) in records {
            encode(&mut out, *durable, 7, writes);
        }
        out
    }

    #[test]
    fn a_cut_at_every_byte_of_the_last_record_is_a_torn_tail() {
        let first = log(&[(0, vec![write("/a", Some(b"one"))])]);
        let whole = log(&[(0, vec![write("/a", Some(b"one"))]), (0, vec![write("/b", None)])]);
        for cut in first.len() + 1..whole.len() {
            let data = Bytes::copy_from_slice(&whole[..cut]);
            assert!(
                matches!(decode(Format::Second, &data, 0), Found::Record { end, .. } if end == first.len())
            );
            assert_eq!(decode(Format::Second, &data, first.len()), Found::Broken, "cut at {cut}");
            assert!(!was_durable(Format::Second, &data, first.len()));
        }
    }

    #[test]
    fn damage_in_what_was_durable_is_told_from_a_torn_tail() {
        let first = log(&[(0, vec![write("/a", Some(b"one"))])]);
        let mut whole =
            log(&[(0, vec![write("/a", Some(b"one"))]), (first.len() as u64, vec![write("/b", None)])]);
        whole[first.len() - 1] ^= 1;
        let data = Bytes::from(whole);
        assert_eq!(decode(Format::Second, &data, 0), Found::Broken);
        assert!(was_durable(Format::Second, &data, 0));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(
            writes in prop::collection::vec(
                ("[a-z/]{1,20}", prop::option::of(prop::collection::vec(any::<u8>(), 0..64)), any::<u64>()), 0..8),
        ) {
            let writes: Vec<Write> = writes.into_iter().map(|(key, value, revision)| Write {
                key: key.as_str().into(), create_revision: revision / 2, mod_revision: revision, value: value.map(Bytes::from),
            }).collect();
            let mut out = vec![];
            encode(&mut out, 5, 9, &writes);
            let length = out.len();
            prop_assert_eq!(length, encoded_length(&writes));
            let found = decode(Format::Second, &Bytes::from(out), 0);
            let record = Record { durable_before: 5, revision: 9, room: GROUP_BYTES, writes };
            prop_assert_eq!(found, Found::Record { record, end: length });
        }

        #[test]
        fn rubbish_is_never_a_record_and_never_a_panic(data in prop::collection::vec(any::<u8>(), 1..400)) {
            let data = Bytes::from(data);
            let is_record = matches!(decode(Format::Second, &data, 0), Found::Record { .. });
            prop_assert!(!is_record);
            was_durable(Format::Second, &data, 0);
        }
    }
}
