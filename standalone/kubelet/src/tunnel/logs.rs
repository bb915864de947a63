//! `kubectl logs`.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    query::Query,
    reply::{Refusal, Reply},
    routes::{Place, runtime},
};
use crate::{
    agent::Agent,
    cri::{ContainerPhase, ContainerRecord},
    logs::{self, LogOptions},
};

/// Pieces of a log that wait for a slow reader.
const QUEUE: usize = 16;

pub async fn answer(agent: &Arc<Agent>, place: Place<'_>, query: &Query) -> Result<Reply, Refusal> {
    let options = options(query)?;
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
        if let Err(error) = logs::stream(&path, &options, &sender, ended).await {
            tracing::warn!(error = crate::error_chain(&error), "log stream ended early");
        }
    });
    let frames = ReceiverStream::new(pieces).map(|bytes| Ok(Frame::data(bytes)));
    let mut reply = Response::new(StreamBody::new(frames).boxed_unsync());
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    Ok(reply)
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

/// Completes once the runtime itself says that the container has ended: it has then written all of the log.
async fn ended(agent: &Agent, record: &ContainerRecord, mut exits: broadcast::Receiver<String>) {
    loop {
        match agent.cri.container(&record.id, &record.sandbox_id).await {
            Ok(now) if now.phase == ContainerPhase::Running || now.phase == ContainerPhase::Created => {}
            Ok(_) => return,
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
