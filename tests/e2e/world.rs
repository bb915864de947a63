//! The cluster that the cases share.

use std::{
    process::Output,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skerry_lab::{Cluster, Kubectl, Lab, Node, cluster};
use skerry_tests::{Row, eventually, rows};

use crate::{record, running::Running};

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
    /// Typed with another kubectl, once more: not for the page of the walkthrough.
    is_again: bool,
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
    let world = World::of(&cluster);
    if let Ok(mut owner) = OWNER.lock() {
        *owner = Some(cluster);
    }
    Ok(world)
}

impl World {
    /// Of a cluster that a case has for itself.
    pub fn of(cluster: &Cluster) -> World {
        World { kubectl: cluster.kubectl().clone(), lab: cluster.lab().name().to_owned(), is_again: false }
    }

    /// The same cluster, spoken to by Debian's kubectl 1.20.
    pub fn with_1_20(&self) -> Result<World> {
        Ok(World { kubectl: self.kubectl.of_1_20()?, lab: self.lab.clone(), is_again: true })
    }

    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// kubectl as a person types it; the line without `kubectl`.
    pub fn type_in(&self, line: &str) -> Result<String> {
        let printed = self.kubectl.run(line)?;
        self.note(line, &printed);
        Ok(printed)
    }

    fn note(&self, line: &str, printed: &str) {
        if !self.is_again {
            record::typed("", &format!("kubectl {line}"), printed);
        }
    }

    /// The same, of which the lines with these words are looked for: they alone stand on the page of the
    /// walkthrough.
    pub fn shows(&self, line: &str, expected: &[&str]) -> Result<String> {
        let printed = self.kubectl.run(line)?;
        for words in expected {
            ensure!(printed.contains(words), "kubectl {line}: no {words:?} in\n{printed}");
        }
        self.note(line, &record::lines_with(&printed, expected));
        Ok(printed)
    }

    /// kubectl with an input, a manifest for one.
    pub fn feed(&self, line: &str, input: &str) -> Result<String> {
        let printed = self.kubectl.feed(line, input)?;
        self.note(&format!("{line} <<'END'\n{}\nEND", input.trim_matches('\n')), &printed);
        Ok(printed)
    }

    /// kubectl whatever its exit code is.
    pub fn tries(&self, line: &str) -> Result<Output> {
        let out = self.kubectl.output(line)?;
        let [stdout, stderr] = [&out.stdout, &out.stderr].map(|text| String::from_utf8_lossy(text));
        let code = match out.status.code() {
            Some(0) => String::new(),
            code => format!("(exit code {})\n", code.unwrap_or(-1)),
        };
        self.note(line, &format!("{stdout}{stderr}{code}"));
        Ok(out)
    }

    /// What kubectl says when it is refused.
    pub fn refused(&self, line: &str) -> Result<String> {
        let out = self.tries(line)?;
        ensure!(!out.status.success(), "kubectl {line}: {out:?}");
        Ok(String::from_utf8_lossy(&out.stderr).into_owned())
    }

    /// kubectl that goes on until it is ended.
    pub fn begin(&self, line: &str) -> Result<Running> {
        Running::start(self.kubectl.command(line), line, !self.is_again)
    }

    /// The same on a terminal of this size, `ROWS COLUMNS`.
    pub fn begin_on_a_terminal(&self, line: &str, size: &str) -> Result<Running> {
        let (rows, columns) = size.split_once(' ').context("ROWS COLUMNS")?;
        let typed = skerry_lab::shown(&self.kubectl.command(line));
        let mut script = std::process::Command::new("script");
        script.arg("-qec").arg(format!("stty rows {rows} cols {columns}; exec {typed}")).arg("/dev/null");
        Running::start(script, line, !self.is_again)
    }

    /// A shell line on a node.
    pub fn on(&self, node: &Node, line: &str) -> Result<String> {
        let printed = node.sh(line)?;
        record::typed(&format!("{}:~", node.name()), line, &printed);
        Ok(printed)
    }

    /// A shell line on a machine outside of the cluster.
    pub fn outside(&self, line: &str) -> Result<String> {
        let printed = self.lab()?.client().sh(line)?;
        record::typed("outside:~", line, &printed);
        Ok(printed)
    }

    /// A table as rows.
    pub fn table(&self, line: &str) -> Result<Vec<Row>> {
        rows(&self.type_in(line)?).with_context(|| format!("kubectl {line}"))
    }

    /// The only row of a table, or its first.
    pub fn first_row(&self, line: &str) -> Result<Row> {
        self.table(line)?.into_iter().next().with_context(|| format!("kubectl {line}: no row"))
    }

    pub fn json(&self, line: &str) -> Result<Value> {
        let text = self.kubectl.run(&format!("{line} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {line} -o json"))
    }

    /// A namespace of this case alone; its objects go with it.
    pub fn namespace(&self, name: &str) -> Result<Namespace<'_>> {
        self.kubectl.run(&format!("create namespace {name}"))?;
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
        if let Err(error) = self.world.kubectl.run(&line) {
            eprintln!("{error:#}");
        }
    }
}
