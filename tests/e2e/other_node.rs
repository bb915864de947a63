//! A node that our own node agent does not run on, as on a cluster of another make: a machine and its Node
//! object.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use skerry_lab::{Cluster, Node};
use skerry_tests::eventually;

const SOON: Duration = Duration::from_secs(40);

/// A machine of the cluster's lab, with our programs but none of our processes, and its Node object, whose
/// pod range the server's controller has chosen.
pub fn join(cluster: &Cluster, name: &str) -> Result<Node> {
    let node = cluster.lab().node(name)?;
    skerry_lab::cluster::install(&node)?;
    let kubectl = cluster.kubectl();
    kubectl.feed(
        "create -f -",
        &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}).to_string(),
    )?;
    let address =
        json!({"status": {"addresses": [{"type": "InternalIP", "address": node.ip().to_string()}]}});
    kubectl.run(&format!("patch node {name} --subresource=status --type=merge -p {address}"))?;
    eventually("the node has a pod range", SOON, || {
        let range = kubectl.run(&format!("get node {name} -o jsonpath={{.spec.podCIDR}}"))?;
        (!range.is_empty()).then_some(range).context("no range yet")
    })?;
    Ok(node)
}

/// A kubeconfig with the rights of the server's own node: it may read what a node's proxy reads. Everything
/// is in it.
pub fn kubeconfig(cluster: &Cluster) -> Result<String> {
    Ok(json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {
            "server": cluster.server_url(), "certificate-authority-data": authority(cluster)?,
        }}],
        "users": [{"name": "u", "user": {
            "client-certificate-data": file(cluster, "node.crt")?, "client-key-data": file(cluster, "node.key")?,
        }}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    })
    .to_string())
}

/// The certificate of the cluster's authority, as kubeconfigs hold it.
pub fn authority(cluster: &Cluster) -> Result<String> {
    file(cluster, "ca.crt")
}

fn file(cluster: &Cluster, name: &str) -> Result<String> {
    let master = cluster.node(skerry_lab::cluster::SERVER)?;
    let path = master.outside(&format!("/var/lib/skerry/node/pki/{name}"))?;
    skerry_lab::run("base64", &["-w0", &path.display().to_string()])
}
