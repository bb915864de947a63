//! Into a pod's containers: log, exec, attach, port-forward, over the node's tunnel.
//!
//! Requests and answers are streamed; an upgraded connection is spliced as opaque bytes, each direction
//! closed on its own.

use std::{num::IntErrorKind, sync::Arc};

use futures::StreamExt;
use http::{HeaderMap, HeaderName, Method, Request, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::{
    api::{Api, Call, parse},
    error::ApiError,
    log_options,
    object::text,
    request::Query,
    respond::{self, Reply},
};

/// Headers that belong to one hop (RFC 9110, 7.6.1), less those that an upgrade needs.
const HOP_HEADERS: &[HeaderName] = &[
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::AUTHORIZATION,
];

/// The client's side of a connection that is to change its protocol, and its place among the long-running
/// requests.
pub struct Upgrade {
    pub client: hyper::upgrade::OnUpgrade,
    pub place: crate::clients::Place,
}

/// What of a request is passed on as it came.
pub struct Passed {
    pub method: Method,
    pub uri: Uri,
    pub upgrade: Option<Upgrade>,
    /// Where it was not read before.
    pub body: Option<respond::Body>,
}

/// The answer of `pods/NAME/{log,exec,attach,portforward}`.
pub async fn connect(
    api: &Arc<Api>,
    call: &Call,
    Passed { method, upgrade, .. }: Passed,
) -> Result<Reply, ApiError> {
    let pod = parse(call.kind, &api.entry(call).await?)?;
    let node = text(&pod, "/spec/nodeName").to_owned();
    if node.is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {} does not have a host assigned",
            call.request.name
        )));
    }
    let path = path(call, &pod)?;
    let is_log = call.request.subresource == "log";
    let mut client = api.tunnels.dial(&node).await?;
    let mut request = Request::new(respond::full(call.body.clone()));
    *request.method_mut() = if is_log { Method::GET } else { method };
    *request.uri_mut() =
        path.parse().map_err(|_| ApiError::bad_request("the request's parameters make no valid URL"))?;
    // A log is a body, or a stream of WebSocket messages.
    if !is_log || upgrade.is_some() {
        copy_headers(&call.headers, request.headers_mut());
    }
    let host = http::HeaderValue::from_str(&node)
        .map_err(|_| ApiError::internal("the node's name is no host name"))?;
    request.headers_mut().insert(header::HOST, host);
    let mut response = client
        .send_request(request)
        .await
        .map_err(|error| ApiError::bad_gateway(format!("ask node {node:?}: {error}")))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return splice(&mut response, upgrade, api);
    }
    let (parts, body) = response.into_parts();
    let mut answer = Reply::new(relay(body));
    *answer.status_mut() = parts.status;
    copy_headers(&parts.headers, answer.headers_mut());
    // Of the node's connection, not of the client's, which may be HTTP/2.
    answer.headers_mut().remove(header::CONNECTION);
    answer.headers_mut().remove(header::UPGRADE);
    Ok(answer)
}

/// The node's body as ours. The client's sender lives in the body's connection; dropping the body ends the
/// exchange.
pub fn relay(body: hyper::body::Incoming) -> respond::Body {
    let frames = http_body_util::BodyStream::new(body).map(|frame| frame.map_err(std::io::Error::other));
    http_body_util::StreamBody::new(frames).boxed_unsync()
}

pub fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        if !HOP_HEADERS.contains(name) {
            to.append(name, value.clone());
        }
    }
}

pub fn splice(
    response: &mut http::Response<hyper::body::Incoming>,
    upgrade: Option<Upgrade>,
    api: &Arc<Api>,
) -> Result<Reply, ApiError> {
    let Some(Upgrade { client, place }) = upgrade else {
        return Err(ApiError::bad_gateway("the node switched protocols without being asked to"));
    };
    let node_side = hyper::upgrade::on(&mut *response);
    let shutdown = api.shutdown.clone();
    tokio::spawn(async move {
        let sides = tokio::try_join!(client, node_side);
        let (client, node) = match sides {
            Ok(sides) => sides,
            Err(error) => {
                tracing::debug!(%error, "an upgrade was not carried out");
                return;
            }
        };
        let (client, node) = (TokioIo::new(client), TokioIo::new(node));
        tokio::select! {
            // Copies each direction to its own end and passes that end on.
            outcome = skerry_splice::splice(client, node) => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, "a spliced connection ended early");
                }
            }
            () = shutdown.cancelled() => {}
        }
        drop(place);
    });
    let mut answer = Reply::new(respond::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    copy_headers(response.headers(), answer.headers_mut());
    Ok(answer)
}

/// The kubelet's path and query for the request.
fn path(call: &Call, pod: &Value) -> Result<String, ApiError> {
    let (namespace, name) = (encode(&call.request.namespace), encode(&call.request.name));
    let mut query: Vec<String> = Vec::new();
    let mut copy = |from: &str, to: &str| {
        for value in call.query.all(from) {
            query.push(format!("{to}={}", encode(value)));
        }
    };
    match call.request.subresource.as_str() {
        "log" => {
            log_options::check(&call.query, &call.request.name)?;
            let container = container(call, pod)?;
            for key in [
                "follow",
                "tailLines",
                "timestamps",
                "previous",
                "sinceSeconds",
                "sinceTime",
                "limitBytes",
                "stream",
            ] {
                copy(key, key);
            }
            Ok(format!("/containerLogs/{namespace}/{name}/{}{}", encode(&container), joined(&query)))
        }
        action @ ("exec" | "attach") => {
            if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
                return Err(ApiError::bad_request(format!(
                    "cannot exec into a container in a completed pod; current phase is {}",
                    text(pod, "/status/phase")
                )));
            }
            let container = container(call, pod)?;
            copy("command", "command");
            for (from, to) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
            {
                if call.query.flag(from) {
                    query.push(format!("{to}=1"));
                }
            }
            Ok(format!("/{action}/{namespace}/{name}/{}{}", encode(&container), joined(&query)))
        }
        _ => {
            query.extend(ports(&call.query)?.into_iter().map(|port| format!("port={port}")));
            Ok(format!("/portForward/{namespace}/{name}{}", joined(&query)))
        }
    }
}

/// The ports of a port-forward: the parameter may stand there more than once, or list several with commas.
fn ports(query: &Query) -> Result<Vec<u16>, ApiError> {
    let all = query.all("ports").flat_map(|list| list.split(','));
    let read = |text: &str| {
        text.parse::<u16>().map_err(|error| {
            let what = match error.kind() {
                IntErrorKind::PosOverflow => "value out of range",
                _ => "invalid syntax",
            };
            let text = format!("strconv.ParseUint: parsing {text:?}: {what}");
            ApiError::bad_request(format!("cannot convert to []int32: {text}"))
        })
    };
    all.map(read).collect()
}

fn joined(query: &[String]) -> String {
    if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) }
}

/// The container of the request, or the only one there is.
fn container(call: &Call, pod: &Value) -> Result<String, ApiError> {
    let named = |field: &str| -> Vec<String> {
        let list = pod.pointer(&format!("/spec/{field}")).and_then(Value::as_array);
        list.into_iter().flatten().map(|container| text(container, "/name").to_owned()).collect()
    };
    let (containers, init, ephemeral) =
        (named("containers"), named("initContainers"), named("ephemeralContainers"));
    let pod_name = &call.request.name;
    match call.query.get("container").filter(|name| !name.is_empty()) {
        Some(asked) => {
            let known = containers.iter().chain(&init).chain(&ephemeral).any(|name| name == asked);
            if known {
                Ok(asked.to_owned())
            } else {
                Err(ApiError::bad_request(format!("container {asked} is not valid for pod {pod_name}")))
            }
        }
        None => match containers.as_slice() {
            [only] => Ok(only.clone()),
            many => {
                let mut text = format!(
                    "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                    many.join(" ")
                );
                if !init.is_empty() {
                    text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(ApiError::bad_request(text))
            }
        },
    }
}

/// Percent-encodes all but unreserved characters (RFC 3986, 2.3).
pub fn encode(plain: &str) -> String {
    let mut out = String::with_capacity(plain.len());
    for byte in plain.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_are_none_are_refused_before_anything_is_upgraded() {
        let read = |text: &str| ports(&Query::parse(text)).map_err(|error| (error.code(), error.to_string()));
        assert_eq!(read("ports=1234,1235&ports=80"), Ok(vec![1234, 1235, 80]));
        assert_eq!(read(""), Ok(vec![]));
        let refused =
            |why: &str| Err((400, format!("cannot convert to []int32: strconv.ParseUint: parsing {why}")));
        assert_eq!(read("ports=abc"), refused("\"abc\": invalid syntax"));
        assert_eq!(read("ports=80,"), refused("\"\": invalid syntax"));
        assert_eq!(read("ports=-1"), refused("\"-1\": invalid syntax"));
        assert_eq!(read("ports=65536"), refused("\"65536\": value out of range"));
    }
}
