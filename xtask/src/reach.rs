//! The pure crates can't reach a runtime, a client or the kernel: what they decide can be tested without
//! them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::build::cargo;

const PURE: &[&str] = &["proxy-abi", "proxy-datapath", "proxy-state", "skerry-vocabulary"];
const FORBIDDEN: &[&str] = &["tokio", "aya", "kube", "hyper", "rtnetlink", "nix", "rustix"];

/// # Errors
/// When a pure crate reaches a forbidden one: the text has the way there.
pub fn check() -> Result<()> {
    let out = cargo()
        .args(["metadata", "--format-version=1", "--locked"])
        .output()
        .context("start cargo metadata")?;
    if !out.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    let metadata: Value = serde_json::from_slice(&out.stdout).context("read cargo's metadata")?;
    let graph = graph(&metadata);
    for pure in PURE {
        if !graph.contains_key(*pure) {
            bail!("no crate {pure} in this workspace: correct the list in xtask/src/reach.rs");
        }
        if let Some(way) = way(&graph, pure, FORBIDDEN) {
            bail!("{pure} must stay pure but reaches {}: {}", way.last().unwrap_or(pure), way.join(" → "));
        }
    }
    Ok(())
}

type Graph<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// Normal dependencies by name; those of tests and build scripts don't end up in the crate.
fn graph(metadata: &Value) -> Graph<'_> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let names: BTreeMap<&str, &str> =
        packages.filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?))).collect();
    let mut graph = Graph::new();
    for node in metadata["resolve"]["nodes"].as_array().into_iter().flatten() {
        let Some(name) = node["id"].as_str().and_then(|id| names.get(id)) else { continue };
        let edges = graph.entry(name).or_default();
        for dep in node["deps"].as_array().into_iter().flatten() {
            let normal = dep["dep_kinds"].as_array().into_iter().flatten().any(|kind| kind["kind"].is_null());
            if normal && let Some(to) = dep["pkg"].as_str().and_then(|id| names.get(id)) {
                edges.insert(to);
            }
        }
    }
    graph
}

/// The shortest way from `start` to one of `targets`.
fn way<'a>(graph: &Graph<'a>, start: &'a str, targets: &[&str]) -> Option<Vec<&'a str>> {
    let mut queue = std::collections::VecDeque::from([vec![start]]);
    let mut seen = BTreeSet::from([start]);
    while let Some(path) = queue.pop_front() {
        let last = path.last().copied()?;
        if targets.contains(&last) {
            return Some(path);
        }
        for next in graph.get(last).into_iter().flatten() {
            if seen.insert(next) {
                queue.push_back(path.iter().copied().chain([*next]).collect());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_forbidden_crate_is_named_and_test_dependencies_are_no_way() {
        let metadata = serde_json::json!({
            "packages": [{"id": "1", "name": "pure"}, {"id": "2", "name": "middle"}, {"id": "3", "name": "tokio"}],
            "resolve": {"nodes": [
                {"id": "1", "deps": [
                    {"pkg": "2", "dep_kinds": [{"kind": null}]},
                    {"pkg": "3", "dep_kinds": [{"kind": "dev"}]},
                ]},
                {"id": "2", "deps": [{"pkg": "3", "dep_kinds": [{"kind": null}]}]},
                {"id": "3", "deps": []},
            ]},
        });
        assert_eq!(way(&graph(&metadata), "pure", &["tokio"]).unwrap(), ["pure", "middle", "tokio"]);
        assert_eq!(way(&graph(&metadata), "pure", &["aya"]), None);
    }
}
