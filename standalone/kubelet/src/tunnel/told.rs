//! What the node tells of itself and of its pods, at upstream's paths: `/pods`, `/metrics…`,
//! `/stats/summary`; and at our own: `/usage`, which the API server makes `metrics.k8s.io` of, and
//! `/timeline/…`, of which `skerry pod timeline` is made.

use std::{net::IpAddr, sync::Arc};

use http::Method;
use k8s_openapi::{
    List,
    api::core::v1::{Pod, PodStatus},
};

use super::{
    query::Query,
    reply::{self, Refusal, Reply},
};
use crate::{
    agent::Agent,
    spec::PodId,
    stats::{self, PodTarget, Reading, Sample, Storage, Targets},
};

const JSON: &str = "application/json";

/// Answers what begins with `pods`, `metrics`, `stats`, `usage` or `timeline`.
pub async fn answer(
    agent: &Arc<Agent>,
    path: &[&str],
    query: &Query,
    method: &Method,
) -> Result<Reply, Refusal> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Refusal::MethodNotAllowed(format!("/{} is only read: use GET", path.join("/"))));
    }
    let node_name = &agent.config.node_name;
    match path {
        ["pods"] => pods(agent),
        ["usage"] => Ok(reply::typed(JSON, stats::usage(&*reading(agent).await).to_string())),
        ["stats", "summary"] => {
            let storage = match query.flag(&["only_cpu_and_memory"]) {
                true => None,
                false => Some(Storage::read(agent).await),
            };
            let booted = agent.machine.booted;
            let summary = stats::summary(node_name, booted, &*reading(agent).await, storage.as_ref());
            Ok(reply::typed(JSON, summary.to_string()))
        }
        ["metrics"] => {
            let pods = agent.pods();
            let statuses = pods.iter().map(|(_, status)| status.as_deref());
            Ok(reply::typed(stats::MEDIA_TYPE, stats::own_metrics(node_name, statuses)))
        }
        ["metrics", "resource"] => {
            Ok(reply::typed(stats::MEDIA_TYPE, stats::resource_metrics(&*reading(agent).await)))
        }
        ["metrics", "cadvisor"] => {
            let storage = Storage::read(agent).await;
            let (cores, memory) = (agent.machine.cpu_millis / 1000, agent.machine.memory_bytes);
            let text = stats::container_metrics(&*reading(agent).await, &storage, cores, memory);
            Ok(reply::typed(stats::MEDIA_TYPE, text))
        }
        ["timeline", "pods", namespace, name] => pod_timeline(agent, namespace, name),
        ["timeline", "addresses", address] => address_timeline(agent, address),
        _ => Err(Refusal::NotFound(format!("the node agent has no /{}", path.join("/")))),
    }
}

async fn reading(agent: &Arc<Agent>) -> Arc<Reading> {
    agent.sampler.reading(|| look(agent.clone())).await
}

/// One look at everything that runs; it blocks, so it is taken apart.
async fn look(agent: Arc<Agent>) -> Sample {
    let parent = &agent.config.cgroup_parent;
    let systemd = agent.runtime.systemd_cgroups;
    let pods = agent.pods();
    let running =
        pods.iter().filter_map(|(pod, status)| PodTarget::of(pod, status.as_ref()?, parent, systemd));
    let targets = Targets::new(parent, running.collect());
    let clock = tokio::time::Instant::now();
    let looked = tokio::task::spawn_blocking(move || targets.look(clock));
    looked.await.unwrap_or_else(|_| Targets::new("", Vec::new()).look(clock))
}

/// All pods that are bound to the node, with the status as the node has it.
fn pods(agent: &Agent) -> Result<Reply, Refusal> {
    let with_status = |(pod, status): (Arc<Pod>, Option<Arc<PodStatus>>)| {
        let mut pod = Pod::clone(&pod);
        pod.status = status.as_deref().cloned().or(pod.status);
        pod
    };
    let list: List<Pod> =
        List { items: agent.pods().into_iter().map(with_status).collect(), ..Default::default() };
    let text = serde_json::to_string(&list)
        .map_err(|error| Refusal::Internal(format!("write the pods: {error}")))?;
    Ok(reply::typed(JSON, text))
}

/// When the steps of a pod's start happened here.
fn pod_timeline(agent: &Agent, namespace: &str, name: &str) -> Result<Reply, Refusal> {
    let gone = || Refusal::NotFound(format!("pod {name}_{namespace} is not on this node"));
    let ids = agent.pods().into_iter().map(|(pod, _)| PodId::of(&pod));
    let id = ids.into_iter().find(|id| id.namespace == namespace && id.name == name).ok_or_else(gone)?;
    let times = agent.timeline(&id.uid).ok_or_else(gone)?;
    let mut told = times.json();
    told["uid"] = id.uid.into();
    Ok(reply::typed(JSON, told.to_string()))
}

/// When an address came to be, here and in the tables of this node's proxy.
fn address_timeline(agent: &Agent, address: &str) -> Result<Reply, Refusal> {
    let address: IpAddr =
        address.parse().map_err(|_| Refusal::BadRequest(format!("{address:?} is no address")))?;
    let Some(known) = &agent.config.addresses else {
        return Err(Refusal::NotFound("this node agent knows no service proxy".to_owned()));
    };
    Ok(reply::typed(JSON, known.told(address).to_string()))
}
