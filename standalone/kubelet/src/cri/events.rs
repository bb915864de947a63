//! containerd's event stream (`containerd.services.events.v1.Events/Subscribe`), narrowed to what ends or
//! changes a container. The messages are the few fields of containerd's published protos that are needed
//! here.

use std::time::Duration;

use tonic::{Streaming, codegen::http::uri::PathAndQuery, metadata::MetadataValue, transport::Channel};

use super::CriError;

/// containerd's namespace for CRI.
const NAMESPACE: &str = "k8s.io";
/// Topic of our own events.
const HELLO: &str = "/skerry/subscribed";
const HELLO_PERIOD: Duration = Duration::from_millis(5);
const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// Something that happened to a container or sandbox (a sandbox's task has the sandbox's id).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// The first process of the container ended.
    Exit {
        container_id: String,
    },
    Oom {
        container_id: String,
    },
    Deleted {
        container_id: String,
    },
}

impl RuntimeEvent {
    pub fn container_id(&self) -> &str {
        match self {
            RuntimeEvent::Exit { container_id }
            | RuntimeEvent::Oom { container_id }
            | RuntimeEvent::Deleted { container_id } => container_id,
        }
    }
}

/// A subscription; it ends with an error when containerd goes away.
pub struct Events {
    stream: Streaming<Envelope>,
}

impl Events {
    /// Subscribes to containerd's namespace `k8s.io`; what happens after this returned is heard.
    ///
    /// containerd answers a subscription only with its first event. So events of our own are published until
    /// one comes back: then the subscription is known to stand.
    pub async fn subscribe(channel: Channel) -> Result<Events, CriError> {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.map_err(|error| failed(tonic::Status::unavailable(error.to_string())))?;
        let topics = ["/tasks/exit", "/tasks/oom", "/tasks/delete", HELLO];
        let filters =
            topics.iter().map(|topic| format!("namespace=={NAMESPACE},topic==\"{topic}\"")).collect();
        let path = PathAndQuery::from_static("/containerd.services.events.v1.Events/Subscribe");
        let codec = tonic_prost::ProstCodec::<SubscribeRequest, Envelope>::default();
        let request = tonic::Request::new(SubscribeRequest { filters });
        let mut answer = std::pin::pin!(grpc.server_streaming(request, path, codec));
        let mut hello = tokio::time::interval(HELLO_PERIOD);
        let deadline = tokio::time::sleep(HELLO_LIMIT);
        let mut deadline = std::pin::pin!(deadline);
        loop {
            tokio::select! {
                answer = &mut answer => {
                    return Ok(Events { stream: answer.map_err(failed)?.into_inner() });
                }
                _ = hello.tick() => publish_hello(channel.clone()).await?,
                () = &mut deadline => {
                    return Err(failed(tonic::Status::deadline_exceeded("our own event did not come back")));
                }
            }
        }
    }

    /// The next event that matters; `None` when containerd closed the stream.
    pub async fn next(&mut self) -> Result<Option<RuntimeEvent>, CriError> {
        loop {
            let message = self.stream.message().await.map_err(failed)?;
            match message {
                None => return Ok(None),
                Some(envelope) => {
                    if let Some(event) = interpret(&envelope) {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }
}

async fn publish_hello(channel: Channel) -> Result<(), CriError> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| failed(tonic::Status::unavailable(error.to_string())))?;
    let event = Any { type_url: "skerry.io/subscribed".to_owned(), value: Vec::new() };
    let mut request = tonic::Request::new(PublishRequest { topic: HELLO.to_owned(), event: Some(event) });
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    let path = PathAndQuery::from_static("/containerd.services.events.v1.Events/Publish");
    let codec = tonic_prost::ProstCodec::<PublishRequest, Empty>::default();
    grpc.unary(request, path, codec).await.map(drop).map_err(failed)
}

fn failed(source: tonic::Status) -> CriError {
    CriError::Call {
        operation: "Subscribe",
        object: "to containerd's events".to_owned(),
        source: Box::new(source),
    }
}

/// Exits of exec'd processes carry an id of their own and are left out.
fn interpret(envelope: &Envelope) -> Option<RuntimeEvent> {
    let value = envelope.event.as_ref()?.value.as_slice();
    match envelope.topic.as_str() {
        "/tasks/exit" => {
            let exit = <TaskExit as prost::Message>::decode(value).ok()?;
            (exit.id.is_empty() || exit.id == exit.container_id)
                .then_some(RuntimeEvent::Exit { container_id: exit.container_id })
        }
        "/tasks/oom" => {
            let oom = <TaskOom as prost::Message>::decode(value).ok()?;
            Some(RuntimeEvent::Oom { container_id: oom.container_id })
        }
        "/tasks/delete" => {
            let deleted = <TaskDelete as prost::Message>::decode(value).ok()?;
            (deleted.id.is_empty() || deleted.id == deleted.container_id)
                .then_some(RuntimeEvent::Deleted { container_id: deleted.container_id })
        }
        _ => None,
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PublishRequest {
    #[prost(string, tag = "1")]
    topic: String,
    #[prost(message, optional, tag = "2")]
    event: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    topic: String,
    #[prost(message, optional, tag = "4")]
    event: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TaskExit {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, tag = "2")]
    id: String,
    #[prost(uint32, tag = "4")]
    exit_status: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TaskOom {
    #[prost(string, tag = "1")]
    container_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TaskDelete {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, tag = "5")]
    id: String,
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn envelope(topic: &str, value: Vec<u8>) -> Envelope {
        Envelope {
            namespace: "k8s.io".to_owned(),
            topic: topic.to_owned(),
            event: Some(Any { type_url: String::new(), value }),
        }
    }

    #[test]
    fn the_end_of_an_exec_is_not_the_end_of_the_container() {
        let exit = |id: &str| TaskExit { container_id: "c".into(), id: id.into(), exit_status: 1 };
        assert_eq!(interpret(&envelope("/tasks/exit", exit("e1").encode_to_vec())), None);
        let whole = interpret(&envelope("/tasks/exit", exit("c").encode_to_vec()));
        assert_eq!(whole, Some(RuntimeEvent::Exit { container_id: "c".into() }));
    }

    #[test]
    fn garbage_in_an_event_is_passed_over() {
        assert_eq!(interpret(&envelope("/tasks/exit", vec![0xff, 0xff, 0xff])), None);
        assert_eq!(interpret(&envelope("/images/create", vec![])), None);
    }
}
