use std::{sync::Arc, time::Duration};

use std::{io, net::IpAddr, time::Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::datagrams::counted;
use crate::{
    engine::{Engine, Step},
    forward::Limits,
    message::Transport,
    metrics::Dropped,
};

/// Connections at a time: of all clients, and of one.
const MAX_CONNECTIONS: usize = 512;
const MAX_CONNECTIONS_EACH: usize = 32;
/// For the next question, and for the client to take an answer (RFC 7766 section 6.2.3).
const IDLE: Duration = Duration::from_secs(10);

/// Answers on connections, for ever.
pub async fn serve_streams(engine: Arc<Engine>, listener: TcpListener) {
    let limits = Limits::new(MAX_CONNECTIONS, MAX_CONNECTIONS_EACH);
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Out of descriptors, most likely: connections that end give some back.
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let client = from.ip().to_canonical();
        if !engine.knows(client) {
            engine.metrics().dropped(Dropped::Stranger);
            continue;
        }
        let seat = match limits.take(client, Instant::now()) {
            Ok(seat) => seat,
            Err(turned) => {
                engine.metrics().dropped(if turned.is_own { Dropped::ClientLimit } else { Dropped::Limit });
                if turned.is_to_be_named {
                    tracing::warn!(%client, "too many connections: closed until others end");
                }
                continue;
            }
        };
        let engine = engine.clone();
        tokio::spawn(async move {
            // A client that goes away, or says nothing, is nothing to tell of.
            drop(converse(&engine, stream, client).await);
            drop(seat);
        });
    }
}

async fn converse(engine: &Arc<Engine>, mut stream: TcpStream, client: IpAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut packet = Vec::new();
    loop {
        let length = timeout(IDLE, stream.read_u16()).await??;
        packet.resize(length.into(), 0);
        timeout(IDLE, stream.read_exact(&mut packet)).await??;
        let began = Instant::now();
        let (answer, seen, took) = match engine.ask(&packet, client, Transport::Tcp) {
            Step::Silence => return Ok(()),
            Step::Now(answer, seen) => (answer, seen, began.elapsed()),
            Step::Later(pending) => engine.finish(*pending).await,
        };
        counted(engine, seen).count(took);
        let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}
