//! What the API server is asked.

use std::collections::BTreeMap;

use futures::future::join_all;
use jiff::SignedDuration;
use serde_json::Value;

use super::{
    edges::{Answer, Edges, Role},
    report::{Checked, Finding},
};

/// How far two clocks may be apart. Leases and certificates bear more; whoever compares logs does not.
const MOST_SKEW: SignedDuration = SignedDuration::from_secs(2);
/// A node's credentials are for itself: its neighbours' agents are not its to ask.
const FORBIDDEN: u16 = 403;
/// What a node calls its version: Kubernetes', then ours.
const OURS: &str = "-skerry.";
const LOG: &str = "look at its log (`journalctl -u skerry`, or where `skerry up` was typed)";

/// The Service that pods ask for names.
const DNS_SERVICE: &str = "/api/v1/namespaces/kube-system/services/kube-dns";
const DNS_ENDPOINTS: &str = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dkube-dns";

/// Whether it answers, and says that it is ready.
pub async fn api_server(edges: &impl Edges) -> Checked {
    let answer = match edges.get("/readyz?verbose").await {
        Ok(answer) => answer,
        Err(error) => {
            return Checked::found(
                format!("the API server does not answer: {error}"),
                "start it (`skerry up`), or name the file that leads to it (--kubeconfig); from elsewhere: is port 6443 open?",
            );
        }
    };
    match answer.status {
        200 => Checked::Fine("answers and is ready".to_owned()),
        401 | 403 => Checked::found(
            format!("the API server does not know us: {}", message(&answer)),
            "take a fresh kubeconfig from the server: `skerry kubeconfig`",
        ),
        status => {
            let failing = answer.body.lines().filter(|line| line.starts_with("[-]"));
            let failing = failing.collect::<Vec<_>>().join("; ");
            let why = if failing.is_empty() { message(&answer) } else { failing };
            Checked::found(format!("the API server is not ready ({status}): {why}"), LOG)
        }
    }
}

/// This machine's clock against the server's, as far as a time to the second tells.
pub async fn clock(edges: &impl Edges) -> Checked {
    let before = edges.now();
    let Ok(answer) = edges.get("/version").await else {
        return unreachable();
    };
    let after = edges.now();
    let Some(date) = answer.date else {
        return Checked::Left("the server's answer has no date".to_owned());
    };
    // The server's clock was somewhere in this second while we waited.
    let least = date.duration_since(after);
    let most = date.duration_since(before) + SignedDuration::from_secs(1);
    let (apart, way) = match () {
        () if least > MOST_SKEW => (least, "behind"),
        () if -most > MOST_SKEW => (-most, "ahead of"),
        () => return Checked::Fine(format!("within {} s of the server's", MOST_SKEW.as_secs())),
    };
    Checked::found(
        format!("this machine's clock is {} s or more {way} the server's", apart.as_secs()),
        "set both by NTP (`timedatectl set-ntp true`, or chrony); certificates and leases count by them",
    )
}

/// Each node is Ready, and its agent answers over its tunnel.
pub async fn nodes(edges: &impl Edges) -> Checked {
    let nodes = match objects(edges, "/api/v1/nodes").await {
        Ok(nodes) => nodes,
        Err(checked) => return checked,
    };
    if nodes.is_empty() {
        return Checked::found("the cluster has no node", "join one: `skerry node --server … --token …`");
    }
    let seen = join_all(nodes.iter().map(|node| look_at(edges, node))).await;
    let kept = seen.iter().filter(|seen| matches!(seen, Ok(false))).count();
    let whole = match kept {
        0 => format!("{} Ready, and their agents answer", nodes.len()),
        kept => format!("{} Ready; {kept} agents not asked: these credentials may not", nodes.len()),
    };
    Checked::of(seen.into_iter().filter_map(Result::err).collect(), whole)
}

/// Whether its agent answers; `false`: it is not ours to ask.
async fn look_at(edges: &impl Edges, node: &Value) -> Result<bool, Finding> {
    let name = name(node);
    let ready = condition(node, "Ready");
    if ready["status"] != "True" {
        let why = [&ready["reason"], &ready["message"]].map(|text| text.as_str().unwrap_or("?"));
        return Err(Finding::new(
            format!("node {name} is not Ready: {}: {}", why[0], why[1]),
            format!("`kubectl describe node {name}`; does `skerry node` run there? {LOG}"),
        ));
    }
    let why = match edges.get(&format!("/api/v1/nodes/{name}/proxy/healthz")).await {
        Ok(answer) if answer.status == 200 => return Ok(true),
        Ok(answer) if answer.status == FORBIDDEN => return Ok(false),
        Ok(answer) => message(&answer),
        Err(error) => error,
    };
    Err(Finding::new(
        format!("node {name} is Ready, but its agent does not answer: {why}"),
        format!(
            "logs, exec and metrics of its pods fail, too: can {name} reach port 6443 of the server? {LOG}"
        ),
    ))
}

/// Every node, and this program, are of one version.
pub async fn versions(edges: &impl Edges) -> Checked {
    let nodes = match objects(edges, "/api/v1/nodes").await {
        Ok(nodes) => nodes,
        Err(checked) => return checked,
    };
    let mut by_version: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for node in &nodes {
        let version = &node["status"]["nodeInfo"]["kubeletVersion"];
        if let Some((_, version)) = version.as_str().unwrap_or_default().split_once(OURS) {
            by_version.entry(version.to_owned()).or_default().push(name(node).to_owned());
        }
    }
    let ours = env!("CARGO_PKG_VERSION");
    let differ = by_version.iter().filter(|(version, _)| *version != ours);
    let mut findings: Vec<Finding> = differ
        .map(|(version, nodes)| {
            Finding::new(
                format!("{} of version {version}, this program is {ours}", listed("node", nodes)),
                "install the same version everywhere, the server's machine first",
            )
        })
        .collect();
    let runs_node = matches!(edges.holder(Role::Node), Ok(Some(_)));
    if runs_node && let Err(error) = edges.maps() {
        findings.push(Finding::new(error, "`skerry status`, and use the `skerry` that the node runs"));
    }
    if by_version.is_empty() && findings.is_empty() {
        return Checked::Left("no node of this cluster runs our node agent".to_owned());
    }
    Checked::of(findings, format!("{ours} everywhere"))
}

/// Somebody answers for the cluster's names; where this machine is a node, it is asked as a pod would.
pub async fn names(edges: &impl Edges, domain: &str) -> Checked {
    let service = match object(edges, DNS_SERVICE).await {
        Ok(Some(service)) => service,
        Ok(None) => {
            return Checked::found(
                "there is no Service kube-system/kube-dns: pods have no names",
                "the server makes it at its start: look at its log",
            );
        }
        Err(checked) => return checked,
    };
    let slices = match objects(edges, DNS_ENDPOINTS).await {
        Ok(slices) => slices,
        Err(checked) => return checked,
    };
    let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false).count();
    if ready == 0 {
        return Checked::found(
            "nobody answers for names: kube-system/kube-dns has no ready endpoint",
            "does any node run without --dns-port 0? `skerry status` on a node shows its process dns; docs/dns.md",
        );
    }
    if !matches!(edges.holder(Role::Node), Ok(Some(_))) {
        return Checked::Fine(format!("{ready} answer for names (none was asked: no node runs here)"));
    }
    let name = format!("kubernetes.default.svc.{domain}");
    let servers = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    let servers = servers.filter_map(|address| address.as_str()?.parse().ok());
    let asked = servers.map(async |server| {
        let error = edges.resolve(server, &name).await.err()?;
        Some(Finding::new(
            format!("the cluster's DNS at {server} does not answer for {name}: {error}"),
            format!(
                "`skerry dns lookup {name}.` says why; `skerry service get kube-system/kube-dns` who is asked"
            ),
        ))
    });
    let findings = join_all(asked).await.into_iter().flatten().collect();
    Checked::of(findings, format!("{ready} answer for names, and {name} is found from here"))
}

/// Another check tells of the server that does not answer.
fn unreachable() -> Checked {
    Checked::Left("the API server does not answer".to_owned())
}

async fn object(edges: &impl Edges, path: &str) -> Result<Option<Value>, Checked> {
    match edges.get(path).await {
        Ok(Answer { status: 200, body, .. }) => serde_json::from_str(&body).map(Some).map_err(|error| {
            Checked::found(format!("{path} is answered by what is no object: {error}"), LOG)
        }),
        Ok(Answer { status: 404, .. }) => Ok(None),
        Ok(answer) => {
            Err(Checked::Left(format!("the API server says {}: {}", answer.status, message(&answer))))
        }
        Err(_) => Err(unreachable()),
    }
}

async fn objects(edges: &impl Edges, path: &str) -> Result<Vec<Value>, Checked> {
    let list = object(edges, path).await?.unwrap_or_default();
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// Of a Status, else the whole text.
fn message(answer: &Answer) -> String {
    let status: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    status["message"].as_str().unwrap_or(answer.body.trim()).to_owned()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn condition<'a>(node: &'a Value, kind: &str) -> &'a Value {
    let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    conditions.find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

/// `node a is`, `nodes a, b are`.
fn listed(kind: &str, names: &[String]) -> String {
    match names {
        [name] => format!("{kind} {name} is"),
        names => format!("{kind}s {} are", names.join(", ")),
    }
}
