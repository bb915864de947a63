//! The cluster that the cases share.

use std::{
    sync::{Mutex, OnceLock},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skerry_lab::{Cluster, Kubectl, Lab, Node, cluster};
use skerry_tests::{Row, eventually, rows};

/// Images are there, so a pod needs a second or two; a busy machine more.
pub const SOON: Duration = Duration::from_secs(40);
const WORKERS: usize = 3;

static CLUSTER: OnceLock<Result<World, String>> = OnceLock::new();
/// The cluster's owner, kept apart so that `end` can drop it: a static never is.
static OWNER: Mutex<Option<Cluster>> = Mutex::new(None);

/// What a case sees of the cluster.
pub struct World {
    kubectl: Kubectl,
    lab: String,
}

/// The cluster, started by the first that asks.
pub fn get() -> Result<&'static World, String> {
    let world = CLUSTER.get_or_init(|| start().map_err(|error| format!("{error:#}")));
    world.as_ref().map_err(Clone::clone)
}

/// Ends the cluster, if there is one; after a failure its logs are shown before.
pub fn end(failed: bool) {
    let owner = OWNER.lock().map(|mut owner| owner.take()).unwrap_or_default();
    let Some(cluster) = owner else { return };
    if failed {
        eprintln!("{}", cluster.logs());
        eprintln!(
            "{}",
            cluster.kubectl().run("get pods,nodes,services,events -A -o wide").unwrap_or_default()
        );
    }
}

fn start() -> Result<World> {
    let options = cluster::Options { workers: WORKERS, ..cluster::Options::default() };
    let cluster = Cluster::start(Lab::for_test()?, &options)?;
    let world = World { kubectl: cluster.kubectl().clone(), lab: cluster.lab().name().to_owned() };
    if let Ok(mut owner) = OWNER.lock() {
        *owner = Some(cluster);
    }
    Ok(world)
}

impl World {
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// kubectl as a person types it; the line without `kubectl`.
    pub fn type_in(&self, line: &str) -> Result<String> {
        self.kubectl.run(line)
    }

    /// A table as rows.
    pub fn table(&self, line: &str) -> Result<Vec<Row>> {
        rows(&self.kubectl.run(line)?).with_context(|| format!("kubectl {line}"))
    }

    pub fn json(&self, line: &str) -> Result<Value> {
        let text = self.kubectl.run(&format!("{line} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {line} -o json"))
    }

    /// A namespace of this case alone; its objects go with it.
    pub fn namespace(&self, name: &str) -> Result<Namespace<'_>> {
        self.type_in(&format!("create namespace {name}"))?;
        Ok(Namespace { world: self, name: name.to_owned() })
    }

    /// All nodes, the server node first.
    pub fn nodes(&self) -> Result<Vec<Node>> {
        self.lab()?.nodes()
    }

    pub fn node(&self, name: &str) -> Result<Node> {
        let nodes = self.nodes()?;
        nodes.into_iter().find(|node| node.name() == name).with_context(|| format!("no node {name}"))
    }

    pub fn lab(&self) -> Result<Lab> {
        Lab::find(&self.lab)?.context("the lab is gone")
    }

    /// Works on the cluster itself: restarts of its programs.
    pub fn with_cluster<T>(&self, work: impl FnOnce(&Cluster) -> Result<T>) -> Result<T> {
        let owner = OWNER.lock().map_err(|_| anyhow::anyhow!("a case panicked while it held the cluster"))?;
        work(owner.as_ref().context("the cluster is gone")?)
    }

    /// The pods of a selector as they are listed, once there are `count` of them, all Running and Ready.
    pub fn ready_pods(&self, namespace: &str, selector: &str, count: usize) -> Result<Vec<Value>> {
        eventually(&format!("{count} pods {selector} in {namespace} run"), SOON, || {
            let list = self.json(&format!("get pods -n {namespace} -l {selector}"))?;
            let pods = list["items"].as_array().cloned().unwrap_or_default();
            let alive: Vec<Value> =
                pods.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
            let ready = alive.iter().filter(|pod| is_ready(pod)).count();
            ensure!(alive.len() == count && ready == count, "{} pods, {ready} of them ready", alive.len());
            Ok(alive)
        })
    }
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut ready = conditions.filter(|condition| condition["type"] == "Ready");
    ready.any(|condition| condition["status"] == "True")
}

pub fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// A namespace that is deleted when its case is over.
pub struct Namespace<'a> {
    world: &'a World,
    pub name: String,
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        // Not waited for: the cluster's end takes what is still there.
        let line = format!("delete namespace {} --wait=false", self.name);
        if let Err(error) = self.world.type_in(&line) {
            eprintln!("{error:#}");
        }
    }
}
