//! As much of SPDY/3.1 as a client of containerd's streaming server needs: opening streams, data, half-close,
//! ping.
//!
//! Header blocks are a zlib stream over the connection's life. What we send is stored, not compressed, which
//! any zlib reader takes (RFC 1950, RFC 1951 3.2.4); what we receive in header blocks is of no interest and
//! is skipped.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
pub const FLAG_FIN: u8 = 1;
/// Largest payload that is sent in one frame; the field has 24 bits.
pub const MAX_DATA: usize = 32 << 10;
/// Frames that are received may be as large as the field allows.
const MAX_FRAME: usize = 1 << 24;
const HEAD: usize = 8;

/// What a frame from the server means to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Data {
        stream: u32,
        bytes: Vec<u8>,
        last: bool,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Answers to our streams, settings, window updates: nothing to do.
    Other,
}

/// Writes the client's frames.
#[derive(Debug, Default)]
pub struct Writer {
    begun: bool,
}

impl Writer {
    /// A SYN_STREAM with these headers. Ids of a client are odd and grow.
    pub fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        block.extend_from_slice(&length(headers.len()));
        for (name, value) in headers {
            for text in [name, value] {
                block.extend_from_slice(&length(text.len()));
                block.extend_from_slice(text.as_bytes());
            }
        }
        let mut payload = Vec::new();
        payload.extend_from_slice(&stream.to_be_bytes());
        payload.extend_from_slice(&0_u32.to_be_bytes());
        payload.extend_from_slice(&[0, 0]);
        payload.extend_from_slice(&self.stored(&block));
        control(SYN_STREAM, 0, &payload)
    }

    /// One stored block and an empty one, which makes the reader hand out what it has.
    fn stored(&mut self, block: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.begun {
            self.begun = true;
            out.extend_from_slice(&[0x78, 0x01]);
        }
        for piece in [block, &[]] {
            let length = u16::try_from(piece.len()).unwrap_or(u16::MAX);
            out.push(0);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&(!length).to_le_bytes());
            out.extend_from_slice(&piece[..usize::from(length)]);
        }
        out
    }
}

/// Data frames for all of `bytes`; the last one ends our side of the stream if `last`.
pub fn data(stream: u32, bytes: &[u8], last: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 8);
    let mut pieces = bytes.chunks(MAX_DATA).peekable();
    if pieces.peek().is_none() && last {
        out.extend_from_slice(&data_frame(stream, &[], FLAG_FIN));
    }
    while let Some(piece) = pieces.next() {
        let flags = if last && pieces.peek().is_none() { FLAG_FIN } else { 0 };
        out.extend_from_slice(&data_frame(stream, piece, flags));
    }
    out
}

pub fn ping(id: u32) -> Vec<u8> {
    control(PING, 0, &id.to_be_bytes())
}

fn data_frame(stream: u32, bytes: &[u8], flags: u8) -> Vec<u8> {
    let mut out = (stream & 0x7fff_ffff).to_be_bytes().to_vec();
    out.extend_from_slice(&flags_and_length(flags, bytes.len()));
    out.extend_from_slice(bytes);
    out
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80, 3];
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&flags_and_length(flags, payload.len()));
    out.extend_from_slice(payload);
    out
}

fn flags_and_length(flags: u8, length: usize) -> [u8; 4] {
    let [_, a, b, c] = u32::try_from(length).unwrap_or(0).to_be_bytes();
    [flags, a, b, c]
}

fn length(value: usize) -> [u8; 4] {
    u32::try_from(value).unwrap_or(0).to_be_bytes()
}

/// A frame as it came.
pub struct RawFrame {
    head: [u8; HEAD],
    payload: Vec<u8>,
}

impl RawFrame {
    fn is_data(&self) -> bool {
        self.head[0] & 0x80 == 0
    }

    /// Makes a frame that ends its stream one that does not; the stream's id.
    pub fn take_end(&mut self) -> Option<u32> {
        let ends = self.is_data() && self.head[4] & FLAG_FIN != 0;
        self.head[4] &= if ends { !FLAG_FIN } else { u8::MAX };
        let [a, b, c, d, ..] = self.head;
        ends.then_some(u32::from_be_bytes([a, b, c, d]))
    }

    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    pub fn bytes(&self) -> Vec<u8> {
        [self.head.as_slice(), &self.payload].concat()
    }
}

/// Reads one frame; `None` at the connection's end.
pub async fn read_raw(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<RawFrame>> {
    let mut head = [0; HEAD];
    match from.read_exact(&mut head).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => _ = other?,
    }
    let [.., x, y, z] = head;
    let size = usize::try_from(u32::from_be_bytes([0, x, y, z])).unwrap_or(MAX_FRAME);
    let mut payload = vec![0; size];
    from.read_exact(&mut payload).await?;
    Ok(Some(RawFrame { head, payload }))
}

/// Reads one frame and what it means; `None` at the connection's end.
pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    let Some(frame) = read_raw(from).await? else { return Ok(None) };
    let is_data = frame.is_data();
    let RawFrame { head: [a, b, c, d, flags, ..], payload } = frame;
    let first = payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes).unwrap_or(0);
    if is_data {
        let stream = u32::from_be_bytes([a, b, c, d]);
        return Ok(Some(Frame::Data { stream, bytes: payload, last: flags & FLAG_FIN != 0 }));
    }
    Ok(Some(match u16::from_be_bytes([c, d]) {
        RST_STREAM => Frame::Reset { stream: first },
        PING => Frame::Ping { id: first },
        GOAWAY => Frame::GoAway,
        _ => Frame::Other,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_blocks_are_one_zlib_stream_of_stored_blocks() {
        let mut writer = Writer::default();
        let first = writer.open(1, &[("streamtype", "error")]);
        assert_eq!(first[..4], [0x80, 3, 0, 1]);
        assert_eq!(usize::from(first[7]) + 8, first.len());
        assert_eq!(first[8..12], 1_u32.to_be_bytes());
        let block = &first[18..];
        assert_eq!(block[..3], [0x78, 0x01, 0]);
        assert_eq!(&block[block.len() - 5..], [0, 0, 0, 0xff, 0xff]);
        let second = writer.open(3, &[("streamtype", "stdin")]);
        assert_eq!(second[18], 0, "the zlib header comes once");
    }

    #[tokio::test]
    async fn frames_are_read_back() {
        let mut bytes = data(5, b"hello", true);
        bytes.extend(ping(2));
        bytes.extend(data(7, &[], true));
        bytes.extend(control(GOAWAY, 0, &[0; 8]));
        let mut from = bytes.as_slice();
        let hello = Frame::Data { stream: 5, bytes: b"hello".to_vec(), last: true };
        assert_eq!(read(&mut from).await.unwrap(), Some(hello));
        assert_eq!(read(&mut from).await.unwrap(), Some(Frame::Ping { id: 2 }));
        let end = Frame::Data { stream: 7, bytes: vec![], last: true };
        assert_eq!(read(&mut from).await.unwrap(), Some(end));
        assert_eq!(read(&mut from).await.unwrap(), Some(Frame::GoAway));
        assert_eq!(read(&mut from).await.unwrap(), None);
    }

    #[test]
    fn large_data_is_cut_and_ends_once() {
        let bytes = vec![0; MAX_DATA + 1];
        let frames = data(1, &bytes, true);
        assert_eq!(frames.len(), bytes.len() + 16);
        assert_eq!((frames[4], frames[8 + MAX_DATA + 4]), (0, FLAG_FIN));
    }
}
