//! What `deploy/` says, as kubectl puts it together.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use skerry_lab::{Kubectl, paths};

/// All objects of a folder of `deploy/`.
pub fn objects(kubectl: &Kubectl, folder: &str) -> Result<Vec<Value>> {
    let path = paths::workspace().join("deploy").join(folder);
    let text = kubectl.run(&format!("create -k {} --dry-run=client -o json", path.display()))?;
    // One object after another, or a List of them.
    let values: Vec<Value> =
        serde_json::Deserializer::from_str(&text).into_iter().collect::<Result<_, _>>()?;
    let lists = values.into_iter().map(|value| match value["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![value],
    });
    Ok(lists.flatten().collect())
}

pub fn kind<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind).with_context(|| format!("no {kind} in deploy/"))
}

/// The container and the volumes of the DaemonSet, with all that a node agent fills in.
pub struct Container {
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub capabilities: Vec<String>,
    pub mounts: Vec<Mount>,
    /// URLs of its probes.
    pub probes: Vec<String>,
}

pub struct Mount {
    pub host: String,
    pub at: String,
    pub read_only: bool,
    pub follows_host: bool,
    /// Made where it is not there.
    pub may_be_made: bool,
}

impl Container {
    pub fn read(objects: &[Value], node: &str, node_ip: Ipv4Addr) -> Result<Container> {
        let pod = &kind(objects, "DaemonSet")?["spec"]["template"]["spec"];
        ensure!(pod["hostNetwork"] == true && pod["hostPID"].is_null() && pod["hostIPC"].is_null(), "{pod}");
        ensure!(pod["priorityClassName"] == "system-node-critical", "{pod}");
        ensure!(pod["tolerations"] == serde_json::json!([{"operator": "Exists"}]), "{pod}");
        let container = &pod["containers"][0];
        let security = &container["securityContext"];
        ensure!(
            security["privileged"] == false && security["allowPrivilegeEscalation"] == false,
            "{security}"
        );
        ensure!(security["readOnlyRootFilesystem"] == true, "{security}");
        ensure!(security["capabilities"]["drop"] == serde_json::json!(["ALL"]), "{security}");
        let config = &kind(objects, "ConfigMap")?["data"];
        let env = env(container, config, node, node_ip)?;
        let args = strings(&container["args"]);
        Ok(Container {
            args: args.iter().map(|arg| expand(arg, &env)).collect(),
            env,
            capabilities: strings(&security["capabilities"]["add"]),
            mounts: mounts(pod, container)?,
            probes: probes(container)?,
        })
    }
}

fn env(container: &Value, config: &Value, node: &str, node_ip: Ipv4Addr) -> Result<BTreeMap<String, String>> {
    let mut env = BTreeMap::new();
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = text(&variable["name"]);
        let from = &variable["valueFrom"];
        let key = &from["configMapKeyRef"];
        let value = match from["fieldRef"]["fieldPath"].as_str() {
            Some("spec.nodeName") => node.to_owned(),
            Some("status.hostIP") => node_ip.to_string(),
            Some(other) => bail!("{name}: the test does not know the field {other}"),
            None => match config[text(&key["key"])].as_str() {
                Some(value) => value.to_owned(),
                None if key["optional"] == true => continue,
                None => bail!("{name}: no key {} in the ConfigMap", key["key"]),
            },
        };
        env.insert(name.to_owned(), value);
    }
    Ok(env)
}

/// `$(NAME)`, as a pod's arguments have it.
fn expand(arg: &str, env: &BTreeMap<String, String>) -> String {
    env.iter().fold(arg.to_owned(), |arg, (name, value)| arg.replace(&format!("$({name})"), value))
}

fn mounts(pod: &Value, container: &Value) -> Result<Vec<Mount>> {
    let volumes = pod["volumes"].as_array().cloned().unwrap_or_default();
    let mount = |mount: &Value| {
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
        let host = &volume.with_context(|| format!("no volume for {mount}"))?["hostPath"];
        ensure!(host["path"].is_string() && host["type"].is_string(), "only named host paths: {host}");
        Ok(Mount {
            host: text(&host["path"]).to_owned(),
            at: text(&mount["mountPath"]).to_owned(),
            read_only: mount["readOnly"] == true,
            follows_host: mount["mountPropagation"] == "HostToContainer",
            may_be_made: text(&host["type"]).ends_with("OrCreate"),
        })
    };
    let mounts: Vec<Mount> =
        container["volumeMounts"].as_array().into_iter().flatten().map(mount).collect::<Result<_>>()?;
    ensure!(mounts.len() == volumes.len(), "a volume is not mounted");
    Ok(mounts)
}

fn probes(container: &Value) -> Result<Vec<String>> {
    let url = |probe: &str| {
        let get = &container[probe]["httpGet"];
        let ports = container["ports"].as_array().into_iter().flatten();
        let port = ports.into_iter().find(|port| port["name"] == get["port"]);
        let port = &port.with_context(|| format!("{probe}: no port {}", get["port"]))?["containerPort"];
        Ok(format!("http://{}:{port}{}", text(&get["host"]), text(&get["path"])))
    };
    ["startupProbe", "livenessProbe", "readinessProbe"].into_iter().map(url).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|value| text(value).to_owned()).collect()
}
