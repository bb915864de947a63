//! Joins two connections, byte by byte.
//!
//! Unlike [`tokio::io::copy_bidirectional`], which ends both directions with the first error of either: a side
//! that takes no more bytes has often just said its last and closed. What it has said is passed on.
#![forbid(unsafe_code)]

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const BUFFER: usize = 16 << 10;

/// Copies each direction to its own end and passes that end on. A side that takes no more bytes ends the
/// direction towards it alone.
///
/// # Errors
/// When a side can't be read: nothing more will come of it, so both directions end.
pub async fn splice<A, B>(one: A, other: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_one, mut to_one) = tokio::io::split(one);
    let (mut from_other, mut to_other) = tokio::io::split(other);
    let there = copy(&mut from_one, &mut to_other);
    let back = copy(&mut from_other, &mut to_one);
    tokio::try_join!(there, back).map(drop)
}

/// Copies until the end, or until nothing more is taken.
///
/// # Errors
/// When `from` can't be read.
pub async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
        let taken = match length {
            0 => to.shutdown().await,
            length => pass(to, &buffer[..length]).await,
        };
        if length == 0 || taken.is_err() {
            return Ok(());
        }
    }
}

async fn pass(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use tokio::io::{DuplexStream, ReadBuf};

    use super::*;

    /// Takes nothing more, but still has something to say.
    struct Closing(DuplexStream);

    impl AsyncRead for Closing {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Closing {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
        }
    }

    #[tokio::test]
    async fn last_words_come_across_though_nothing_is_taken_any_more() {
        let (mut client, ours) = tokio::io::duplex(64);
        let (theirs, mut server) = tokio::io::duplex(64);
        client.write_all(b"more").await.unwrap();
        let task = tokio::spawn(splice(ours, Closing(theirs)));
        // The direction towards the server has failed by now or will.
        tokio::task::yield_now().await;
        server.write_all(b"last words").await.unwrap();
        drop(server);
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "last words");
        drop(client);
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn each_end_is_passed_on_by_itself() {
        let (mut client, ours) = tokio::io::duplex(64);
        let (theirs, mut server) = tokio::io::duplex(64);
        let task = tokio::spawn(splice(ours, theirs));
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = String::new();
        server.read_to_string(&mut asked).await.unwrap();
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        assert_eq!((asked.as_str(), said.as_str()), ("question", "answer"));
        task.await.unwrap().unwrap();
    }
}
