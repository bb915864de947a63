//! Asks everyone who has recorded something of a pod.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::join_all;
use http::Request;
use serde_json::Value;
use skerry_client::Client;
use skerry_vocabulary::chain;

use super::timeline::{Facts, NodeFacts};

/// A node that does not answer within this is told as such.
const NODE_LIMIT: Duration = Duration::from_secs(5);

/// # Errors
/// When the API server can't be asked, or there is no such pod. What others don't answer is among the facts.
pub async fn facts(client: &Client, namespace: &str, name: &str) -> anyhow::Result<Facts> {
    for part in [namespace, name] {
        let is_name = part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'));
        ensure!(is_name && !part.is_empty(), "{part:?} is no name of an object");
    }
    let pods = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    let pod = get(client, &pods).await.with_context(|| format!("get pod {namespace}/{name}"))?;
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let events = format!("/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.uid%3D{uid}");
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    let (events, slices, nodes) =
        tokio::join!(items(client, &events), items(client, &slices), items(client, "/api/v1/nodes"));
    let own = async {
        let node = pod["spec"]["nodeName"].as_str().ok_or("no node has it yet")?;
        from_node(client, node, &format!("timeline/pods/{namespace}/{name}")).await
    };
    let addresses: Vec<&str> = pod["status"]["podIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|address| address["ip"].as_str())
        .collect();
    let names: Vec<String> = nodes
        .as_deref()
        .unwrap_or_default()
        .iter()
        .filter_map(|node| Some(node["metadata"]["name"].as_str()?.to_owned()))
        .collect();
    let told = join_all(names.into_iter().map(|node| of_addresses(client, node, &addresses)));
    let (node, nodes_tell) = tokio::join!(own, told);
    let (events, slices) = (events.map_err(text), slices.map_err(text));
    Ok(Facts { events, slices, node, nodes: nodes.map(|_| nodes_tell).map_err(text), pod })
}

/// What a node knows of each of the pod's addresses.
async fn of_addresses(client: &Client, node: String, addresses: &[&str]) -> NodeFacts {
    let asked = addresses
        .iter()
        .map(async |address| from_node(client, &node, &format!("timeline/addresses/{address}")).await);
    let told = join_all(asked).await.into_iter().collect();
    NodeFacts { node, told }
}

async fn from_node(client: &Client, node: &str, path: &str) -> Result<Value, String> {
    let path = format!("/api/v1/nodes/{node}/proxy/{path}");
    match tokio::time::timeout(NODE_LIMIT, get(client, &path)).await {
        Ok(answer) => answer.map_err(|error| format!("node {node}: {}", text(error))),
        Err(_) => Err(format!("node {node} did not answer within {} s", NODE_LIMIT.as_secs())),
    }
}

async fn get(client: &Client, path: &str) -> Result<Value, kube::Error> {
    let request = Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request(request).await
}

async fn items(client: &Client, path: &str) -> Result<Vec<Value>, kube::Error> {
    let mut list = get(client, path).await?;
    Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

/// The server's own words where it has some.
fn text(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => chain(&other),
    }
}
