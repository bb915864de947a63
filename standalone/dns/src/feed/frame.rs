use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use crate::zone::Change;

/// Of what is said here and of what is on disk. Grows with each change of [`Message`] or of anything in it.
pub const VERSION: u16 = 1;
/// An EndpointSlice of 1,000 endpoints with the longest host names has 90 KB.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// What a frame says. Each is 4 bytes of length (little-endian, of what follows) and this in postcard's
/// encoding.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Message {
    /// The first one.
    Hello(Hello),
    /// An object as it is now.
    Change(Change),
    /// Everything that there is has been said: what was not is gone.
    Complete,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub version: u16,
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a message of {0} bytes: at most {MAX_FRAME_BYTES} are read")]
    TooLong(usize),
    #[error("a message is not understood")]
    Unread(#[from] postcard::Error),
    #[error("a message is cut off")]
    Cut(#[source] io::Error),
    #[error("version {0} is spoken there, {VERSION} here: both ends must be of one build")]
    OtherVersion(u16),
}

/// Appends a frame.
///
/// # Errors
/// When the message is longer than [`MAX_FRAME_BYTES`]; `to` is then as before.
pub fn encode(message: &Message, to: &mut Vec<u8>) -> Result<(), FrameError> {
    let body = postcard::to_allocvec(message)?;
    if body.len() > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong(body.len()));
    }
    to.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    to.extend(body);
    Ok(())
}

/// The next message; `None` at the end.
///
/// # Errors
/// A frame that is too long, cut off or not understood.
pub fn read_message(from: &mut impl Read, buffer: &mut Vec<u8>) -> Result<Option<Message>, FrameError> {
    let mut length = [0; 4];
    match from.read(&mut length[..1]).map_err(FrameError::Cut)? {
        0 => return Ok(None),
        _ => from.read_exact(&mut length[1..]).map_err(FrameError::Cut)?,
    }
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong(length));
    }
    buffer.resize(length, 0);
    from.read_exact(buffer).map_err(FrameError::Cut)?;
    let message = postcard::from_bytes(buffer)?;
    if let Message::Hello(Hello { version }) = &message
        && *version != VERSION
    {
        return Err(FrameError::OtherVersion(*version));
    }
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Place, Service};

    fn read_all(bytes: &[u8]) -> Result<Vec<Message>, FrameError> {
        let (mut from, mut buffer, mut all) = (bytes, Vec::new(), Vec::new());
        while let Some(message) = read_message(&mut from, &mut buffer)? {
            all.push(message);
        }
        Ok(all)
    }

    fn some() -> Vec<Message> {
        let service =
            Service { place: Place::Addresses(["10.96.0.1".parse().unwrap()].into()), ports: [].into() };
        vec![
            Message::Hello(Hello { version: VERSION }),
            Message::Change(Change::Service("ns/web".into(), Some(service))),
            Message::Change(Change::Slice("ns/web-1".into(), None)),
            Message::Complete,
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        some().iter().for_each(|message| encode(message, &mut bytes).unwrap());
        assert_eq!(read_all(&bytes).unwrap(), some());
        let cut = read_all(&bytes[..bytes.len() - 1]).unwrap_err();
        assert!(matches!(cut, FrameError::Cut(_)), "{cut}");
    }

    #[test]
    fn another_version_and_a_frame_without_end_are_refused() {
        let mut bytes = Vec::new();
        encode(&Message::Hello(Hello { version: VERSION + 1 }), &mut bytes).unwrap();
        assert!(matches!(read_all(&bytes), Err(FrameError::OtherVersion(_))));
        assert!(matches!(read_all(&[0xff; 8]), Err(FrameError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_bring_the_reader_down(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = read_all(&bytes);
        }
    }
}
