//! `metrics.k8s.io`: what nodes and pods use. The nodes are asked when somebody asks us, each through the
//! connection that it opened; nothing is kept. What a node says counts for itself and for the pods that are
//! bound to it, and for nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use skerry_schema::Kind;
use skerry_vocabulary::{Quantity, time};

use crate::{
    api::{Api, Call, built_in, parse, shaped},
    error::{ApiError, Subject},
    list::{self, Filter, Page},
    object::{self, text},
    request::Verb,
    respond::Reply,
};

/// Nodes that are asked side by side.
const AT_ONCE: usize = 64;
/// All nodes together get so long; who has not answered by then is left out. A node takes half a second that
/// nobody has asked for some minutes.
const LIMIT: Duration = Duration::from_secs(5);
/// What one node may answer.
const ANSWER_BYTES: usize = 1 << 20;

/// A node's answer.
#[derive(Deserialize)]
struct Usage {
    node: Option<NodeUsage>,
    #[serde(default)]
    pods: Vec<PodUsage>,
}

#[derive(Deserialize)]
struct NodeUsage {
    timestamp: String,
    window: String,
    usage: Amounts,
}

#[derive(Deserialize)]
struct PodUsage {
    namespace: String,
    name: String,
    uid: String,
    timestamp: String,
    window: String,
    containers: Vec<ContainerUsage>,
}

#[derive(Deserialize)]
struct ContainerUsage {
    name: String,
    usage: Amounts,
}

#[derive(Deserialize)]
struct Amounts {
    cpu: String,
    memory: String,
}

impl Amounts {
    /// `None` where an amount is none.
    fn told(&self) -> Option<Value> {
        let known = [&self.cpu, &self.memory].iter().all(|amount| Quantity::parse(amount).is_ok());
        known.then(|| json!({"cpu": self.cpu, "memory": self.memory}))
    }
}

/// GET of one `NodeMetrics` or `PodMetrics`, or of all that are selected.
pub async fn answer(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let is_node = call.kind.kind == "NodeMetrics";
    let measured = if is_node { built_in("", "v1", "nodes")? } else { built_in("", "v1", "pods")? };
    let objects = match call.request.verb {
        Verb::Get => vec![named(api, call, measured).await?],
        Verb::List => selected(api, call, measured).await?,
        _ => return Err(ApiError::method_not_allowed()),
    };
    let told = if is_node { nodes(api, &objects).await } else { pods(api, &objects).await };
    if call.request.verb == Verb::List {
        return list::of_values(call, Map::new(), told);
    }
    let mut one = told.into_iter().next().ok_or_else(|| unmeasured(call))?;
    one["kind"] = call.kind.kind.into();
    one["apiVersion"] = call.kind.api_version().into();
    shaped(call, StatusCode::OK, one)
}

async fn named(api: &Api, call: &Call, measured: &Kind) -> Result<Value, ApiError> {
    let found = api.object(measured, &call.request.namespace, &call.request.name).await?;
    found.ok_or_else(|| unmeasured(call))
}

/// In the metrics server's words.
fn unmeasured(call: &Call) -> ApiError {
    let resource = call.kind.kind.to_lowercase();
    let (namespace, name) = (&call.request.namespace, &call.request.name);
    let name = if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") };
    ApiError::not_found(Subject { group: call.kind.group, resource: &resource, name: &name })
}

async fn selected(api: &Api, call: &Call, measured: &Kind) -> Result<Vec<Value>, ApiError> {
    let filter = Filter::of(call.kind, &call.query)?;
    let Page { entries, .. } =
        list::select(api, measured, &call.request.namespace, &filter, None, None, 0).await?;
    entries.iter().map(|entry| parse(measured, entry)).collect()
}

async fn nodes(api: &Api, nodes: &[Value]) -> Vec<Value> {
    let answers = ask_all(api, nodes.iter().map(|node| object::name(node).to_owned()).collect()).await;
    let told = nodes.iter().filter_map(|node| {
        let NodeUsage { timestamp, window, usage } = answers.get(object::name(node))?.node.as_ref()?;
        Some(json!({"metadata": metadata(node), "timestamp": timestamp, "window": window, "usage": usage.told()?}))
    });
    told.collect()
}

async fn pods(api: &Api, pods: &[Value]) -> Vec<Value> {
    let runs =
        |pod: &&Value| text(pod, "/status/phase") == "Running" && !text(pod, "/spec/nodeName").is_empty();
    let mut nodes: Vec<String> =
        pods.iter().filter(runs).map(|pod| text(pod, "/spec/nodeName").to_owned()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let answers = ask_all(api, nodes).await;
    let by_uid: HashMap<(&str, &str), &PodUsage> = answers
        .iter()
        .flat_map(|(node, usage)| usage.pods.iter().map(move |pod| ((node.as_str(), pod.uid.as_str()), pod)))
        .collect();
    let told = pods.iter().filter(runs).filter_map(|pod| {
        let found = by_uid.get(&(text(pod, "/spec/nodeName"), text(pod, "/metadata/uid")))?;
        let is_same = found.namespace == text(pod, "/metadata/namespace") && found.name == object::name(pod);
        let containers = found.containers.iter().map(|container| {
            Some(json!({"name": container.name, "usage": container.usage.told()?}))
        });
        let containers = containers.collect::<Option<Vec<Value>>>().filter(|_| is_same)?;
        Some(json!({
            "metadata": metadata(pod), "timestamp": found.timestamp, "window": found.window, "containers": containers,
        }))
    });
    told.collect()
}

/// Of what was measured: its name and labels.
fn metadata(measured: &Value) -> Value {
    let mut metadata = json!({"name": object::name(measured)});
    for field in ["namespace", "labels"] {
        let value = &measured["metadata"][field];
        if !value.is_null() {
            metadata[field] = value.clone();
        }
    }
    metadata["creationTimestamp"] = time::seconds(jiff::Timestamp::now()).into();
    metadata
}

/// The answers of those that gave one in time, by the node's name.
async fn ask_all(api: &Api, nodes: Vec<String>) -> BTreeMap<String, Usage> {
    let deadline = tokio::time::Instant::now() + LIMIT;
    let asked = stream::iter(nodes).map(|node| async move {
        match tokio::time::timeout_at(deadline, ask(api, &node)).await {
            Ok(Ok(usage)) => return Some((node, usage)),
            Ok(Err(error)) => tracing::debug!(node, %error, "a node does not tell what it uses"),
            Err(_) => tracing::debug!(node, "a node did not tell in time what it uses"),
        }
        None
    });
    asked.buffer_unordered(AT_ONCE).filter_map(async |answer| answer).collect().await
}

async fn ask(api: &Api, node: &str) -> Result<Usage, ApiError> {
    let failed = |error: &dyn std::fmt::Display| {
        ApiError::bad_gateway(format!("ask node {node:?} what it uses: {error}"))
    };
    let mut client = api.tunnels.dial(node).await?;
    let request = Request::get("/usage").header(header::HOST, node).body(crate::respond::empty());
    let request = request.map_err(|error| failed(&error))?;
    let answer = client.send_request(request).await.map_err(|error| failed(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
    let body: Bytes = body.map_err(|error| failed(&error))?.to_bytes();
    if status != StatusCode::OK {
        return Err(failed(&format!("{status} {}", String::from_utf8_lossy(&body))));
    }
    serde_json::from_slice(&body).map_err(|error| failed(&error))
}
