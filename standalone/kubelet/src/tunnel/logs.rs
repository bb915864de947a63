//! `kubectl logs`: a body, or WebSocket messages for clients that ask for those (browsers can't read a body
//! as it comes).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64_ALPHABET};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{broadcast, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message},
};

use super::{
    bridge,
    query::Query,
    reply::{Refusal, Reply},
    routes::{Place, runtime},
    streaming,
};
use crate::{
    agent::Agent,
    cri::{ContainerPhase, ContainerRecord},
    inotify::{Flags, Watcher},
    logs::{self, LogOptions},
};

/// After its end a container's log is closed within this, or was before somebody followed it.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// Pieces of a log that wait for a slow reader.
const QUEUE: usize = 16;

const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";

pub async fn answer(
    agent: &Arc<Agent>,
    place: Place<'_>,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Reply, Refusal> {
    let options = options(query)?;
    let messages = match streaming::is_web_socket(request.headers()) {
        true => Some(Messages::of(request.headers())?),
        false => None,
    };
    let exits = agent.exits.subscribe();
    let record = instance(agent, place, query.flag(&["previous"])).await?;
    let path = PathBuf::from(&record.log_path);
    if let Err(error) = tokio::fs::metadata(&path).await {
        return Err(Refusal::Internal(format!(
            "log {} of container {}: {error}",
            path.display(),
            record.name
        )));
    }
    let (sender, pieces) = mpsc::channel::<Bytes>(QUEUE);
    let agent = agent.clone();
    tokio::spawn(async move {
        let ended = ended(&agent, &record, exits);
        let turns = agent.log_keeper.logs.of(&path);
        if let Err(error) = logs::stream(&path, &turns, &options, &sender, ended).await {
            tracing::warn!(error = skerry_vocabulary::chain(&error), "log stream ended early");
        }
    });
    if let Some(messages) = messages {
        let serve = move |client| send_messages(client, pieces, messages);
        return streaming::switch_to_web_socket(request, messages.protocol, serve);
    }
    let frames = ReceiverStream::new(pieces).map(|bytes| Ok(Frame::data(bytes)));
    let mut reply = Response::new(StreamBody::new(frames).boxed_unsync());
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    Ok(reply)
}

/// How a log goes into WebSocket messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Messages {
    /// The subprotocol to answer with; none for a client that names none.
    protocol: Option<&'static str>,
    /// Text messages with base64 in them.
    base64: bool,
}

impl Messages {
    /// The first of the client's subprotocols that is known.
    fn of(headers: &HeaderMap) -> Result<Messages, Refusal> {
        let mut offered = streaming::offered(headers).peekable();
        if offered.peek().is_none() {
            return Ok(Messages { protocol: None, base64: false });
        }
        let known = offered.find_map(|one| [BINARY, BASE64].into_iter().find(|known| *known == one));
        match known {
            Some(protocol) => Ok(Messages { protocol: Some(protocol), base64: protocol == BASE64 }),
            None => Err(Refusal::BadRequest(format!(
                "requested protocol(s) are not supported: {:?}; supports [{BINARY:?} {BASE64:?}]",
                streaming::offered(headers).collect::<Vec<&str>>()
            ))),
        }
    }

    fn message(self, bytes: Bytes) -> Message {
        match self.base64 {
            true => Message::text(BASE64_ALPHABET.encode(bytes)),
            false => Message::binary(bytes),
        }
    }
}

async fn send_messages(client: Upgraded, pieces: mpsc::Receiver<Bytes>, messages: Messages) {
    let socket = bridge::accept(TokioIo::new(client)).await;
    if let Err(error) = send_all(socket, pieces, messages).await {
        tracing::debug!(%error, "a log's messages ended early");
    }
}

/// Until the log's end or the client's; what the client says is of no interest.
async fn send_all<S: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<S>,
    mut pieces: mpsc::Receiver<Bytes>,
    messages: Messages,
) -> Result<(), tungstenite::Error> {
    let (mut to_client, mut from_client) = socket.split();
    let outwards = async {
        // An empty one first tells the client that the stream stands, as upstream's server does.
        to_client.send(messages.message(Bytes::new())).await?;
        while let Some(bytes) = pieces.recv().await {
            to_client.send(messages.message(bytes)).await?;
        }
        to_client.send(bridge::normal_close()).await
    };
    let inwards = async {
        while let Some(message) = from_client.next().await {
            if matches!(message?, Message::Close(_)) {
                break;
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = outwards => ended,
        ended = inwards => ended,
    }
}

fn options(query: &Query) -> Result<LogOptions, Refusal> {
    let since = match (query.first("sinceTime"), query.number("sinceSeconds")) {
        (Some(time), _) => {
            let invalid = |error| Refusal::BadRequest(format!("sinceTime {time:?}: {error}"));
            Some(time.parse::<Timestamp>().map_err(invalid)?)
        }
        (None, Some(seconds)) => {
            let ago = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            Some(Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::MIN))
        }
        (None, None) => None,
    };
    Ok(LogOptions {
        follow: query.flag(&["follow"]),
        timestamps: query.flag(&["timestamps"]),
        tail_lines: query.number("tailLines"),
        since,
        limit_bytes: query.number("limitBytes"),
        stdout_only: match query.first("stream") {
            Some("Stdout") => Some(true),
            Some("Stderr") => Some(false),
            _ => None,
        },
    })
}

/// The newest instance, or the one before it.
async fn instance(agent: &Agent, place: Place<'_>, previous: bool) -> Result<ContainerRecord, Refusal> {
    let Place { namespace, pod, container } = place;
    let found = agent.cri.find_containers(namespace, pod, container).await.map_err(runtime)?;
    // `--previous` of a container that waits for its next turn is the one that has just ended.
    let running = found.first().is_some_and(|c| ContainerPhase::from(c.state) == ContainerPhase::Running);
    let waits = !running && agent.waiting_reason(namespace, pod, container).is_some();
    let index = usize::from(previous && !waits);
    match found.get(index) {
        Some(found) => agent.cri.container(&found.id, &found.pod_sandbox_id).await.map_err(runtime),
        None if previous && !found.is_empty() => Err(Refusal::BadRequest(format!(
            "previous terminated container \"{container}\" in pod \"{pod}\" not found"
        ))),
        None => match agent.waiting_reason(namespace, pod, container) {
            Some(reason) => Err(Refusal::BadRequest(format!(
                "container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}"
            ))),
            None => Err(Refusal::NotFound(format!(
                "container \"{container}\" in pod \"{pod}\" is not on this node"
            ))),
        },
    }
}

/// Completes once the container has ended and the runtime has written all of its log.
async fn ended(agent: &Agent, record: &ContainerRecord, mut exits: broadcast::Receiver<String>) {
    let closing = Watcher::new().and_then(|watcher| {
        watcher.add(Path::new(&record.log_path), Flags::IN_CLOSE_WRITE)?;
        Ok(watcher)
    });
    loop {
        match agent.cri.container(&record.id, &record.sandbox_id).await {
            Ok(now) if now.phase == ContainerPhase::Running || now.phase == ContainerPhase::Created => {}
            Ok(now) => {
                // It tells of the end some moments before it has written the last lines.
                let ago = Timestamp::now().duration_since(now.finished_at());
                let left = CLOSE_LIMIT.checked_sub(ago.unsigned_abs());
                if let (Ok(closing), Some(left)) = (closing, left) {
                    let _ = tokio::time::timeout(left, closing.events()).await.is_ok();
                }
                return;
            }
            Err(error) if error.is_not_found() => return,
            Err(error) => tracing::debug!(%error, "container of a followed log not read"),
        }
        loop {
            match exits.recv().await {
                Ok(id) if id == record.id => break,
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => break,
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    fn asked(protocols: &[&str]) -> Result<Messages, String> {
        let mut headers = HeaderMap::new();
        for list in protocols {
            headers.append(header::SEC_WEBSOCKET_PROTOCOL, list.parse().unwrap());
        }
        Messages::of(&headers).map_err(|refusal| refusal.to_string())
    }

    async fn received(messages: Messages, text: &'static str) -> Vec<Message> {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (sender, pieces) = mpsc::channel(1);
        tokio::spawn(async move { send_all(bridge::accept(server).await, pieces, messages).await });
        sender.send(Bytes::from_static(text.as_bytes())).await.unwrap();
        drop(sender);
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let mut received = Vec::new();
        while !matches!(received.last(), Some(Message::Close(_))) {
            received.push(client.next().await.unwrap().unwrap());
        }
        received
    }

    #[tokio::test]
    async fn a_log_goes_into_messages_as_the_client_asked() {
        let bare = Messages { protocol: None, base64: false };
        assert_eq!(asked(&[]), Ok(bare));
        let binary = asked(&["nope, binary.k8s.io", "base64.binary.k8s.io"]).unwrap();
        assert_eq!(binary, Messages { protocol: Some(BINARY), base64: false });
        let base64 = asked(&["base64.binary.k8s.io"]).unwrap();
        assert!(asked(&["v4.channel.k8s.io"]).unwrap_err().contains("are not supported"));
        let close = bridge::normal_close();
        for messages in [bare, binary] {
            let expected = [Message::binary(vec![]), Message::binary("a\n"), close.clone()];
            assert_eq!(received(messages, "a\n").await, expected);
        }
        let expected = [Message::text(""), Message::text("YQo="), close];
        assert_eq!(received(base64, "a\n").await, expected);
    }
}
