//! WebSocket on the client's side, SPDY on the runtime's.

use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::Instant,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    last_words::LastWords,
    spdy::{self, Frame},
    streaming::Session,
};

/// A client's message may be this large, bytes.
const MESSAGE_LIMIT: usize = 16 << 20;
const BUFFER: usize = 32 << 10;

/// Channel numbers of `v4.channel.k8s.io` and `v5.channel.k8s.io`.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5: the channel whose number follows is closed.
const CLOSE: u8 = 255;

/// SPDY stream ids in the order in which they are opened.
fn streams(session: Session) -> Vec<(u8, &'static str, u32)> {
    let all = [
        (ERROR, "error", true),
        (STDIN, "stdin", session.stdin),
        (STDOUT, "stdout", session.stdout),
        (STDERR, "stderr", session.stderr),
        (RESIZE, "resize", session.tty),
    ];
    let opened = all.into_iter().filter(|(_, _, wanted)| *wanted);
    opened.zip((1..).step_by(2)).map(|((channel, name, _), id)| (channel, name, id)).collect()
}

/// An exec or attach session: v5 channels to SPDY streams and back, until the runtime ends it.
pub async fn channels(client: Upgraded, runtime: Upgraded, session: Session) {
    let socket = accept(TokioIo::new(client)).await;
    if let Err(error) = bridge(socket, TokioIo::new(runtime), session).await {
        tracing::debug!(%error, "a session ended early");
    }
}

pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> WebSocketStream<S> {
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_LIMIT)).max_frame_size(Some(MESSAGE_LIMIT));
    WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await
}

async fn bridge<C, R>(socket: WebSocketStream<C>, runtime: R, session: Session) -> Result<(), Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    let streams = streams(session);
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let mut writer = spdy::Writer::default();
    for (_, name, id) in &streams {
        to_runtime.write_all(&writer.open(*id, &[("streamtype", name)])).await?;
    }
    let (mut to_client, mut from_client) = socket.split();
    // An empty message tells the client that the session stands (as upstream's server does).
    let lowest = streams.iter().map(|(channel, _, _)| *channel).filter(|channel| *channel != STDIN).min();
    to_client.send(Message::binary(vec![lowest.unwrap_or(ERROR)])).await?;
    let (pings, mut pongs) = tokio::sync::mpsc::channel::<u32>(8);
    let words = LastWords::default();
    let outwards = async {
        while let Some(frame) = spdy::read(&mut from_runtime).await? {
            match frame {
                Frame::Data { stream, bytes, .. } if !bytes.is_empty() => {
                    let Some((channel, _, _)) = streams.iter().find(|(_, _, id)| *id == stream) else {
                        continue;
                    };
                    let mut message = Vec::with_capacity(bytes.len() + 1);
                    message.push(*channel);
                    message.extend_from_slice(&bytes);
                    words.said();
                    to_client.send(Message::binary(message)).await?;
                }
                Frame::Ping { id } if id % 2 == 0 => _ = pings.try_send(id),
                Frame::GoAway => break,
                Frame::Data { .. } | Frame::Reset { .. } | Frame::Ping { .. } | Frame::Other => {}
            }
        }
        to_client.send(normal_close()).await
    };
    let inwards = async {
        let mut to_runtime = Taker(Some(to_runtime));
        let mut held = None;
        loop {
            let message = tokio::select! {
                Some(id) = pongs.recv() => {
                    to_runtime.take(&spdy::ping(id)).await;
                    continue;
                }
                () = words.heard(held.map(|(_, end)| end)) => {
                    if let Some((stream, _)) = held.take() {
                        to_runtime.take(&spdy::data(stream, &[], true)).await;
                    }
                    continue;
                }
                message = from_client.next() => message,
            };
            let bytes = match message {
                Some(Ok(Message::Binary(bytes))) => bytes,
                // Clients that know no binary messages send the same bytes as text (upstream's server takes
                // both).
                Some(Ok(Message::Text(text))) => text.into(),
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(error),
            };
            let frame = match bytes.split_first() {
                Some((&CLOSE, rest)) => {
                    let closed = rest.first().and_then(|channel| id_of(&streams, *channel));
                    if session.stays_open && closed.is_some() {
                        held = closed.map(|stream| (stream, Instant::now()));
                        continue;
                    }
                    closed.map(|id| spdy::data(id, &[], true))
                }
                Some((&channel @ (STDIN | RESIZE), rest)) if !rest.is_empty() => {
                    id_of(&streams, channel).map(|id| spdy::data(id, rest, false))
                }
                _ => None,
            };
            if let Some(frame) = frame {
                to_runtime.take(&frame).await;
            }
        }
    };
    // Both sides end when the runtime does, or when the client goes away.
    tokio::select! {
        ended = outwards => ended,
        ended = inwards => ended,
    }
}

/// The runtime's side, for as long as it takes anything: once it does not it has perhaps just said its last,
/// which is still to be read.
struct Taker<W>(Option<W>);

impl<W: AsyncWrite + Unpin> Taker<W> {
    async fn take(&mut self, bytes: &[u8]) {
        if let Some(writer) = &mut self.0
            && let Err(error) = writer.write_all(bytes).await
        {
            tracing::debug!(%error, "the runtime takes no more of a session's input");
            self.0 = None;
        }
    }
}

/// Clients take a close without this code for a connection that broke (RFC 6455, 7.4.1).
pub(super) fn normal_close() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

fn id_of(streams: &[(u8, &'static str, u32)], channel: u8) -> Option<u32> {
    streams.iter().find(|(have, _, _)| *have == channel).map(|(_, _, id)| *id)
}

/// SPDY that a client sends inside WebSocket messages: taken out, and the answers wrapped.
pub async fn unwrap(client: Upgraded, runtime: Upgraded) {
    let socket = accept(TokioIo::new(client)).await;
    if let Err(error) = unwrap_all(socket, TokioIo::new(runtime)).await {
        tracing::debug!(%error, "a port-forward ended early");
    }
}

async fn unwrap_all<C, R>(socket: WebSocketStream<C>, runtime: R) -> Result<(), Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_runtime, to_runtime) = tokio::io::split(runtime);
    let (mut to_client, mut from_client) = socket.split();
    let outwards = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = from_runtime.read(&mut buffer).await?;
            if length == 0 {
                return to_client.send(normal_close()).await;
            }
            to_client.send(Message::binary(buffer[..length].to_vec())).await?;
        }
    };
    let inwards = async {
        let mut to_runtime = Taker(Some(to_runtime));
        while let Some(message) = from_client.next().await {
            match message? {
                Message::Binary(bytes) => to_runtime.take(&bytes).await,
                Message::Close(_) => break,
                // SPDY is no text: what went on after a gap would be nonsense.
                Message::Text(_) => return Err(Error::Io(std::io::ErrorKind::InvalidData.into())),
                _ => {}
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = outwards => ended,
        ended = inwards => ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Session =
        Session { stdin: true, stdout: true, stderr: true, tty: false, stays_open: false };

    /// A runtime that reads the opening frames and then gives its side of the connection.
    async fn opened() -> (WebSocketStream<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        opened_as(SESSION).await
    }

    async fn opened_as(
        session: Session,
    ) -> (WebSocketStream<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (ours, mut runtime) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move { _ = bridge(accept(server).await, ours, session).await });
        for _ in 0..4 {
            assert_eq!(spdy::read(&mut runtime).await.unwrap(), Some(Frame::Other));
        }
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(vec![STDOUT]));
        (client, runtime)
    }

    #[tokio::test]
    async fn stdin_goes_in_and_its_close_becomes_a_half_close() {
        let (mut client, mut runtime) = opened().await;
        client.send(Message::binary(vec![STDIN, b'a', b'b'])).await.unwrap();
        client.send(Message::binary(vec![CLOSE, STDIN])).await.unwrap();
        let data = |bytes: &[u8], last| Some(Frame::Data { stream: 3, bytes: bytes.to_vec(), last });
        assert_eq!(spdy::read(&mut runtime).await.unwrap(), data(b"ab", false));
        assert_eq!(spdy::read(&mut runtime).await.unwrap(), data(b"", true));
    }

    #[tokio::test]
    async fn the_end_of_stdin_that_stays_open_waits_for_the_answer() {
        let (mut client, mut runtime) = opened_as(Session { stays_open: true, ..SESSION }).await;
        client.send(Message::binary(vec![STDIN, b'a'])).await.unwrap();
        client.send(Message::binary(vec![CLOSE, STDIN])).await.unwrap();
        let data = |bytes: &[u8], last| Some(Frame::Data { stream: 3, bytes: bytes.to_vec(), last });
        assert_eq!(spdy::read(&mut runtime).await.unwrap(), data(b"a", false));
        let end = Instant::now();
        runtime.write_all(&spdy::data(5, b"out", false)).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(b"\x01out".to_vec()));
        assert_eq!(spdy::read(&mut runtime).await.unwrap(), data(b"", true));
        assert!(end.elapsed() >= std::time::Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_runtime_that_takes_no_more_is_no_end() {
        let (ours, theirs) = tokio::io::duplex(16);
        drop(theirs);
        let mut taker = Taker(Some(ours));
        taker.take(b"x").await;
        assert!(taker.0.is_none());
        taker.take(b"x").await;
    }

    #[tokio::test]
    async fn stdin_in_text_messages_is_stdin_as_well() {
        let (mut client, mut runtime) = opened().await;
        client.send(Message::text("\0text, ä")).await.unwrap();
        client.send(Message::text("\u{4}{\"Width\":1}")).await.unwrap();
        client.send(Message::binary(vec![CLOSE, STDIN])).await.unwrap();
        let data = |bytes: &[u8], last| Some(Frame::Data { stream: 3, bytes: bytes.to_vec(), last });
        assert_eq!(spdy::read(&mut runtime).await.unwrap(), data("text, ä".as_bytes(), false));
        assert_eq!(spdy::read(&mut runtime).await.unwrap(), data(b"", true), "no terminal, no resizing");
    }

    #[tokio::test]
    async fn text_in_a_tunnel_of_frames_ends_it() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (ours, _runtime) = tokio::io::duplex(1 << 16);
        let tunnel = tokio::spawn(async move { unwrap_all(accept(server).await, ours).await });
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        client.send(Message::text("x")).await.unwrap();
        assert!(tunnel.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn output_and_the_final_status_come_out_before_the_close() {
        let (mut client, mut runtime) = opened().await;
        runtime.write_all(&spdy::data(5, b"out", false)).await.unwrap();
        runtime.write_all(&spdy::data(1, b"{}", true)).await.unwrap();
        drop(runtime);
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(b"\x01out".to_vec()));
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(b"\x03{}".to_vec()));
        assert!(matches!(client.next().await, Some(Ok(Message::Close(_)))));
    }
}
