use http::{Method, Request};
use kube::Client;
use proxy_state::{ObjectKey, Warning};
use serde_json::{Value, json};
use tokio::time::timeout;

/// A warning as an Event (events.k8s.io/v1) of the Service, or the Node, that it regards.
#[derive(Clone, Copy)]
pub(crate) struct Event<'a> {
    pub of: &'a ObjectKey,
    pub uid: &'a str,
    /// Name of our Node: who tells it.
    pub node: &'a str,
    pub warning: &'a Warning,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Written {
    /// There is one by this name.
    As(String),
    /// The one that was to be counted on is gone.
    Gone,
}

/// For the server's answer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("make a request for {path}")]
    Request { path: String, source: http::Error },
    #[error("write to {path}: no answer within {}s", PATIENCE.as_secs())]
    Silent { path: String },
    #[error("write to {path}")]
    Server { path: String, source: Box<kube::Error> },
}

/// Makes a new Event, or counts on the one of this `name`: `times` is how often it was seen, of all times.
pub(crate) async fn write(
    client: &Client,
    event: &Event<'_>,
    name: Option<&str>,
    times: u64,
) -> Result<Written, WriteError> {
    let now = jiff::Timestamp::now();
    let (namespace, of) = (namespace(event.of), event.of.parts().1);
    let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let request = match name {
        Some(name) => {
            let series = json!({"series": {"count": times, "lastObservedTime": micro_time(now)}});
            let path = format!("{path}/{name}");
            build(Method::PATCH, &path, "application/merge-patch+json", &series)
                .map_err(|source| WriteError::Request { path, source })?
        }
        None => {
            // Names of Events end in the time, as client-go makes them; the node tells apart who tells in one moment.
            let hash = event.node.bytes().fold(0_u32, |sum, b| sum.rotate_left(5) ^ u32::from(b));
            let name = format!("{of}.{:x}{hash:08x}", now.as_nanosecond());
            build(Method::POST, &path, "application/json", &body(event, &name, now))
                .map_err(|source| WriteError::Request { path: path.clone(), source })?
        }
    };
    let answer = match timeout(PATIENCE, client.request::<Value>(request)).await {
        Ok(answer) => answer,
        Err(_) => return Err(WriteError::Silent { path }),
    };
    match answer {
        Ok(written) => {
            Ok(Written::As(written["metadata"]["name"].as_str().or(name).unwrap_or_default().to_owned()))
        }
        Err(kube::Error::Api(status)) if status.code == 404 && name.is_some() => Ok(Written::Gone),
        Err(source) => Err(WriteError::Server { path, source: Box::new(source) }),
    }
}

fn build(method: Method, path: &str, kind: &str, body: &Value) -> Result<Request<Vec<u8>>, http::Error> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .header("accept", "application/json")
        .body(body.to_string().into_bytes())
}

fn body(event: &Event<'_>, name: &str, now: jiff::Timestamp) -> Value {
    let mut regarding = match event.of.parts() {
        ("", node) => json!({"apiVersion": "v1", "kind": "Node", "name": node}),
        (namespace, service) => {
            json!({"apiVersion": "v1", "kind": "Service", "namespace": namespace, "name": service})
        }
    };
    if !event.uid.is_empty() {
        regarding["uid"] = json!(event.uid);
    }
    let action = if event.of.parts().0.is_empty() { "Route" } else { "Balance" };
    // At most 128 bytes; a Node's name may have 253.
    let instance: String = event.node.chars().take(128).collect();
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": name, "namespace": namespace(event.of)},
        "eventTime": micro_time(now),
        "type": "Warning", "reason": event.warning.cause.reason(), "action": action, "note": event.warning.note,
        "regarding": regarding,
        "reportingController": "skerry.io/proxy", "reportingInstance": instance,
    })
}

/// Events of what is in no namespace live in `default`.
fn namespace(of: &ObjectKey) -> &str {
    match of.parts().0 {
        "" => "default",
        namespace => namespace,
    }
}

/// RFC 3339 with six digits, which the API demands of a MicroTime.
fn micro_time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use proxy_state::Cause;

    use super::*;

    #[test]
    fn an_event_names_its_service_its_reason_and_who_tells() {
        let warning = Warning { cause: Cause::AddressTaken, note: "taken".to_owned() };
        let service = ObjectKey::new("ns", "web");
        let event = Event { of: &service, uid: "u", node: &"n".repeat(200), warning: &warning };
        let at = "2026-11-24T12:50:04.5Z".parse().unwrap();
        let body = body(&event, "web.1", at);
        assert_eq!(body["eventTime"], "2026-11-24T12:50:04.500000Z");
        assert_eq!(body["regarding"]["uid"], "u");
        assert_eq!((body["reason"].as_str(), body["note"].as_str()), (Some("AddressTaken"), Some("taken")));
        assert_eq!(body["reportingInstance"].as_str().map(str::len), Some(128));
        let node = ObjectKey::new("", "n2");
        let of_node = self::body(&Event { of: &node, ..event }, "n2.1", at);
        assert_eq!(
            (of_node["regarding"]["kind"].as_str(), of_node["action"].as_str()),
            (Some("Node"), Some("Route"))
        );
        assert_eq!(of_node["metadata"]["namespace"], "default");
        let unknown = Event { uid: "", ..event };
        assert!(self::body(&unknown, "web.1", at)["regarding"].get("uid").is_none());
    }
}
