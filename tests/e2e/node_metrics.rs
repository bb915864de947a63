//! What nodes tell of themselves and their pods: `top` in its forms, the metrics API, and the node agent's
//! own endpoints through the API server.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skerry_tests::{eventually, manifest, manifest_with};

use crate::world::{SOON, World, name_of};

fn raw(world: &World, path: &str) -> Result<Value> {
    let text = world.type_in(&format!("get --raw {path}"))?;
    serde_json::from_str(&text).with_context(|| format!("{path}: {text}"))
}

pub fn top_and_the_api_agree(world: &World) -> Result<()> {
    let namespace = world.namespace("tops")?;
    let ns = &namespace.name;
    let text =
        manifest_with("multi-container.yaml", &[("namespace: mem-example", &format!("namespace: {ns}"))])?;
    world.kubectl().feed("apply -f -", &text)?;
    let pods = eventually("a pod of two containers runs", SOON, || {
        let list = world.json(&format!("get pods -n {ns}"))?;
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        ensure!(!pods.is_empty() && pods.iter().all(crate::world::is_ready), "{pods:?}");
        Ok(pods)
    })?;
    let name = name_of(&pods[0]);
    let rows = eventually("each container has a row", SOON, || {
        let rows = world.table(&format!("top pod {name} -n {ns} --containers"))?;
        ensure!(rows.len() == 2, "{rows:?}");
        Ok(rows)
    })?;
    ensure!(rows.iter().all(|row| row["POD"] == name), "{rows:?}");
    let all = world.table("top pod -A --sort-by=memory")?;
    ensure!(all.iter().any(|row| row["NAMESPACE"] == *ns && row["NAME"] == name), "{all:?}");
    world.type_in("top node --sort-by=cpu")?;

    let base = "/apis/metrics.k8s.io/v1beta1";
    let list = raw(world, &format!("{base}/namespaces/{ns}/pods"))?;
    ensure!(list["kind"] == "PodMetricsList" && list["apiVersion"] == "metrics.k8s.io/v1beta1", "{list}");
    let pod = raw(world, &format!("{base}/namespaces/{ns}/pods/{name}"))?;
    ensure!(
        pod["kind"] == "PodMetrics" && pod["containers"].as_array().is_some_and(|list| list.len() == 2),
        "{pod}"
    );
    ensure!(["timestamp", "window"].iter().all(|field| pod[*field].is_string()), "{pod}");
    let nodes = raw(world, &format!("{base}/nodes"))?;
    ensure!(nodes["items"].as_array().map_or(0, Vec::len) == world.nodes()?.len(), "{nodes}");
    let missing = world.kubectl().output(&format!("get --raw {base}/namespaces/{ns}/pods/nobody"))?;
    let said = String::from_utf8_lossy(&missing.stderr);
    ensure!(said.contains(&format!("podmetrics.metrics.k8s.io \"{ns}/nobody\" not found")), "{said}");
    let table = world.table("get nodes.metrics.k8s.io")?;
    ensure!(table.iter().all(|row| !row["CPU"].is_empty() && !row["MEMORY"].is_empty()), "{table:?}");

    // The older kubectl asks the same API.
    let old = world.kubectl().of_1_20()?;
    let shown = old.run(&format!("top pod {name} -n {ns} --containers"))?;
    ensure!(shown.lines().count() == 3 && shown.contains("MEMORY(bytes)"), "{shown}");
    let shown = old.run("top node")?;
    ensure!(shown.lines().count() == 1 + world.nodes()?.len(), "{shown}");
    Ok(())
}

pub fn nodes_tell_by_upstreams_paths(world: &World) -> Result<()> {
    let namespace = world.namespace("summaries")?;
    let ns = &namespace.name;
    world.type_in(&format!("apply -n {ns} -f {}", manifest("simple-pod.yaml")))?;
    world.kubectl().wait(&format!("pod/scnginx -n {ns}"), "condition=Ready", SOON)?;
    let node = world.json(&format!("get pod scnginx -n {ns}"))?["spec"]["nodeName"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let proxy = format!("/api/v1/nodes/{node}/proxy");
    ensure!(world.type_in(&format!("get --raw {proxy}/healthz"))?.trim() == "ok", "the node is well");

    let is_ours =
        |pod: &&Value| pod["podRef"]["name"] == "scnginx" && pod["podRef"]["namespace"] == ns.as_str();
    let ours = |summary: &Value| summary["pods"].as_array().into_iter().flatten().find(is_ours).cloned();
    let numbers = |of: &Value, fields: &[&str]| -> Result<()> {
        for field in fields {
            ensure!(of.pointer(field).is_some_and(Value::is_u64), "{field} is not in {of}");
        }
        Ok(())
    };
    // A container that has begun just now has no rate yet.
    let pod = eventually("the node tells of the pod", SOON, || {
        let summary = raw(world, &format!("{proxy}/stats/summary"))?;
        ensure!(summary["node"]["nodeName"] == node.as_str(), "{summary}");
        numbers(
            &summary,
            &[
                "/node/cpu/usageNanoCores",
                "/node/memory/workingSetBytes",
                "/node/fs/capacityBytes",
                "/node/runtime/imageFs/usedBytes",
            ],
        )?;
        let pod = ours(&summary).with_context(|| format!("the pod is not in {summary}"))?;
        numbers(
            &pod,
            &[
                "/cpu/usageCoreNanoSeconds",
                "/memory/workingSetBytes",
                "/network/rxBytes",
                "/ephemeral-storage/usedBytes",
                "/containers/0/cpu/usageNanoCores",
                "/containers/0/memory/rssBytes",
                "/containers/0/rootfs/usedBytes",
                "/containers/0/logs/usedBytes",
            ],
        )?;
        Ok(pod)
    })?;
    // The network's counters are the pod's own: what it receives grows by what is sent to it.
    let address = world.json(&format!("get pod scnginx -n {ns}"))?["status"]["podIP"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    world
        .node(&node)?
        .sh(&format!("for i in 1 2 3 4 5 6 7 8 9 10; do curl -sS -o /dev/null http://{address}/; done"))?;
    let before = pod["network"]["rxBytes"].as_u64().unwrap_or(0);
    eventually("what was received is counted", SOON, || {
        let summary = raw(world, &format!("{proxy}/stats/summary"))?;
        let pod = ours(&summary).context("the pod")?;
        ensure!(pod["network"]["name"] == "eth0", "{pod}");
        ensure!(pod["network"]["rxBytes"].as_u64().unwrap_or(0) > before + 1000, "{pod}");
        Ok(())
    })?;

    let resource = world.type_in(&format!("get --raw {proxy}/metrics/resource"))?;
    let labels = format!("{{container=\"nginx\",namespace=\"{ns}\",pod=\"scnginx\"}}");
    for name in ["container_cpu_usage_seconds_total", "container_memory_working_set_bytes"] {
        ensure!(resource.contains(&format!("{name}{labels} ")), "{name}{labels} is not in\n{resource}");
    }
    ensure!(resource.contains("\nnode_cpu_usage_seconds_total "), "{resource}");
    let cadvisor = world.type_in(&format!("get --raw {proxy}/metrics/cadvisor"))?;
    ensure!(cadvisor.contains("container_network_receive_bytes_total{"), "{cadvisor}");
    ensure!(
        world.type_in(&format!("get --raw {proxy}/metrics"))?.contains("kubelet_running_pods "),
        "the agent's own"
    );
    let pods = raw(world, &format!("{proxy}/pods"))?;
    let names: Vec<String> = pods["items"].as_array().into_iter().flatten().map(name_of).collect();
    ensure!(pods["kind"] == "PodList" && names.contains(&"scnginx".to_owned()), "{names:?}");
    Ok(())
}
