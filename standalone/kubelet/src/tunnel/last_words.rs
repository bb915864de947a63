//! The end of a client's input where the container's own stays open (`stdinOnce` is not set, as `kubectl
//! debug -i` leaves it): containerd then ends the session at once, and what the container says to the last
//! of the input nobody hears. So that end is held back until the container has nothing more to say.

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::Instant,
};

use super::spdy::{self, RawFrame};

/// A container that was silent for so long has said all …
const SILENCE: Duration = Duration::from_secs(3);
/// … and one that goes on talking is left after this.
const LIMIT: Duration = Duration::from_secs(15);
const BUFFER: usize = 16 << 10;

/// When the container last said something.
pub struct LastWords(Mutex<Instant>);

impl Default for LastWords {
    fn default() -> LastWords {
        LastWords(Mutex::new(Instant::now()))
    }
}

impl LastWords {
    pub fn said(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits until the container has said all after its input ended at `end`; for ever, if it has not ended.
    pub async fn heard(&self, end: Option<Instant>) {
        let Some(end) = end else { return std::future::pending().await };
        loop {
            let said = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let at = until(said, end);
            if at <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(at).await;
        }
    }
}

/// When the container has said all, as it looks by now.
fn until(said: Instant, end: Instant) -> Instant {
    (said.max(end) + SILENCE).min(end + LIMIT)
}

/// Joins a client's SPDY and the runtime's, but for the ends of the client's streams.
pub async fn splice<C, R>(client: C, runtime: R) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    let words = LastWords::default();
    let mut held = None;
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let outwards = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = from_runtime.read(&mut buffer).await?;
            if length == 0 {
                return to_client.shutdown().await;
            }
            words.said();
            to_client.write_all(&buffer[..length]).await?;
            to_client.flush().await?;
        }
    };
    let inwards = async {
        while let Some(frame) = next(&mut from_client, &mut to_runtime, &words, &mut held).await? {
            // What takes no more has perhaps answered already.
            if to_runtime.write_all(&frame.bytes()).await.is_err() {
                break;
            }
        }
        // It may be closed already.
        let _ = to_runtime.shutdown().await;
        Ok(())
    };
    tokio::try_join!(outwards, inwards).map(drop)
}

/// The end of a stream that is held back, and since when.
type Held = Option<(u32, Instant)>;

/// The client's next frame; one that ends a stream goes on as one that does not. What is held back goes to
/// the runtime in its time.
async fn next(
    from_client: &mut (impl AsyncRead + Unpin),
    to_runtime: &mut (impl AsyncWrite + Unpin),
    words: &LastWords,
    held: &mut Held,
) -> io::Result<Option<RawFrame>> {
    loop {
        // It must not be dropped half-way.
        let mut reading = std::pin::pin!(spdy::read_raw(from_client));
        let frame = loop {
            tokio::select! {
                frame = &mut reading => break frame?,
                () = words.heard(held.map(|(_, end)| end)) => end(to_runtime, held.take()).await,
            }
        };
        let Some(mut frame) = frame else { return Ok(None) };
        if let Some(stream) = frame.take_end() {
            end(to_runtime, held.replace((stream, Instant::now()))).await;
            if frame.is_empty() {
                continue;
            }
        }
        return Ok(Some(frame));
    }
}

async fn end(to_runtime: &mut (impl AsyncWrite + Unpin), held: Held) {
    if let Some((stream, _)) = held {
        // One that takes nothing more needs no end.
        let _ = to_runtime.write_all(&spdy::data(stream, &[], true)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::spdy::Frame;

    #[tokio::test]
    async fn the_end_of_input_waits_for_what_the_container_says_to_it() {
        let (mut client, ours) = tokio::io::duplex(1 << 10);
        let (theirs, mut runtime) = tokio::io::duplex(1 << 10);
        tokio::spawn(splice(ours, theirs));
        client.write_all(&spdy::data(3, b"question", true)).await.unwrap();
        let data = |bytes: &[u8], last| Some(Frame::Data { stream: 3, bytes: bytes.to_vec(), last });
        assert_eq!(spdy::read(&mut runtime).await.unwrap(), data(b"question", false));
        let begun = Instant::now();
        // Whatever else the client says, such as pings.
        client.write_all(&spdy::ping(1)).await.unwrap();
        assert_eq!(spdy::read(&mut runtime).await.unwrap(), Some(Frame::Ping { id: 1 }));
        tokio::time::sleep(SILENCE / 2).await;
        runtime.write_all(&spdy::data(5, b"answer", false)).await.unwrap();
        let answer = Frame::Data { stream: 5, bytes: b"answer".to_vec(), last: false };
        assert_eq!(spdy::read(&mut client).await.unwrap(), Some(answer));
        assert_eq!(spdy::read(&mut runtime).await.unwrap(), data(b"", true));
        assert!(begun.elapsed() >= SILENCE * 3 / 2);
        drop(client);
    }

    #[test]
    fn a_container_that_goes_on_talking_is_left_in_the_end() {
        let end = Instant::now();
        assert_eq!(until(end - LIMIT, end), end + SILENCE, "it has not said anything since");
        assert_eq!(until(end + SILENCE / 2, end), end + SILENCE * 3 / 2);
        assert_eq!(until(end + LIMIT, end), end + LIMIT);
    }
}
