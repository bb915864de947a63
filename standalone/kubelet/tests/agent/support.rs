//! A lab with one node, our API server in this process, the agent inside the node.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use skerry_client::{Client, Source, connect};
use skerry_lab::{Daemon, Lab, containerd, images};
use tokio_util::sync::CancellationToken;

/// How long anything that should happen may take on a machine that does much else.
pub const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(25);

pub const NODE: &str = "n1";

pub struct Bed {
    pub client: Client,
    pub node: skerry_lab::Node,
    pub agent: Option<Daemon>,
    pub kubeconfig: PathBuf,
    url: String,
    token: String,
    shutdown: CancellationToken,
    _data: tempfile::TempDir,
    // Last: its end takes the node's processes along.
    _lab: Lab,
}

impl Bed {
    /// A node that is Ready. The network is Debian's bridge plugin.
    pub async fn new() -> Result<Bed> {
        let lab = Lab::for_test()?;
        let data = tempfile::tempdir()?;
        let host = lab.subnet().host(1);
        let bind = SocketAddr::new(host.into(), 0);
        let config = skerry_apiserver::Config::new(data.path().to_owned(), bind, host.into());
        let store =
            skerry_store::LogStore::open(&data.path().join("store"), skerry_store::Options::default())?;
        let server = skerry_apiserver::Server::bind(config, Arc::new(store)).await?;
        let url = format!("https://{}", server.address());
        let shutdown = CancellationToken::new();
        tokio::spawn(server.run(shutdown.clone()));
        let kubeconfig = data.path().join("server/kubeconfig/admin.yaml");
        let token = std::fs::read_to_string(data.path().join("server/join-token")).context("join token")?;
        let node = lab.node(NODE)?;
        network(&node)?;
        node.start_containerd(&containerd::Options::default())?;
        node.import(&images::only(&[images::PAUSE, images::BUSYBOX, images::STRESS, images::NGINX])?)?;
        let client = client(&kubeconfig).await?;
        let mut bed = Bed {
            client,
            node,
            agent: None,
            kubeconfig,
            url,
            token: token.trim().to_owned(),
            shutdown,
            _data: data,
            _lab: lab,
        };
        bed.start_agent()?;
        bed.node_ready().await?;
        Ok(bed)
    }

    pub fn start_agent(&mut self) -> Result<()> {
        let program = agent_program()?;
        let ip = self.node.ip().to_string();
        let parent = format!("/{}/{NODE}", self._lab.name());
        let args = [self.url.as_str(), &self.token, NODE, &ip, &parent];
        self.agent = Some(self.node.spawn("agent", program, &args)?);
        Ok(())
    }

    pub async fn node_ready(&self) -> Result<Node> {
        let api: Api<Node> = Api::all(self.client.clone());
        self.until("the node is Ready", async || {
            let Some(node) = api.get_opt(NODE).await? else { return Ok(None) };
            let conditions =
                node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
            Ok(ready.then_some(node))
        })
        .await
    }

    pub async fn node_object(&self) -> Result<Node> {
        Ok(Api::<Node>::all(self.client.clone()).get(NODE).await?)
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Creates a pod on the node out of a spec.
    pub async fn create(&self, name: &str, mut spec: serde_json::Value) -> Result<Pod> {
        spec["nodeName"] = NODE.into();
        let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"}, "spec": spec});
        Ok(self.pods().create(&PostParams::default(), &serde_json::from_value(pod)?).await?)
    }

    /// Waits until the pod is as `test` wants it.
    pub async fn pod(&self, name: &str, what: &str, test: impl Fn(&Pod) -> bool) -> Result<Pod> {
        let found = self
            .until(&format!("pod {name}: {what}"), async || {
                let pod = self.pods().get_opt(name).await?;
                Ok(pod.filter(|pod| test(pod)))
            })
            .await;
        if found.is_err() {
            let pod = self.pods().get_opt(name).await?;
            eprintln!("{}", serde_json::to_string_pretty(&pod.and_then(|pod| pod.status))?);
            for event in self.events(name).await? {
                eprintln!("{event}");
            }
            if let Some(agent) = &self.agent {
                eprintln!("{}", agent.tail(60));
            }
        }
        found
    }

    pub async fn gone(&self, name: &str) -> Result<()> {
        let gone = async || Ok(self.pods().get_opt(name).await?.is_none().then_some(()));
        self.until(&format!("pod {name} is gone"), gone).await
    }

    /// `REASON MESSAGE` of every event about the pod, oldest first.
    pub async fn events(&self, name: &str) -> Result<Vec<String>> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let mut events = api.list(&ListParams::default()).await?.items;
        events.retain(|event| event.involved_object.name.as_deref() == Some(name));
        events.sort_by_key(|event| event.metadata.name.clone());
        let text = |event: Event| {
            format!("{} {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default())
        };
        Ok(events.into_iter().map(text).collect())
    }

    pub async fn until<T>(&self, what: &str, look: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            if Instant::now() > deadline {
                bail!("not within {} s: {what}", LIMIT.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Runs a shell line in the node.
    pub fn sh(&self, line: &str) -> Result<String> {
        self.node.sh(line)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn network(node: &skerry_lab::Node) -> Result<()> {
    let conflist = r#"{"cniVersion":"1.0.0","name":"bed","plugins":[{"type":"bridge","bridge":"cni0",
        "isGateway":true,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.0.0/24"}]],
        "routes":[{"dst":"0.0.0.0/0"}]}},{"type":"loopback"}]}"#;
    node.sh("mkdir -p /opt/cni/bin /etc/cni/net.d && cp /usr/lib/cni/* /opt/cni/bin/")?;
    std::fs::write(node.outside("/etc/cni/net.d/10-bed.conflist")?, conflist)?;
    Ok(())
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    Ok(connect(&Source::Kubeconfig(kubeconfig.to_owned())).await?.client)
}

/// The example beside this test's own binary.
fn agent_program() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let dir = exe.ancestors().nth(2).context("the target folder")?;
    Ok(dir.join("examples/node"))
}

/// Whether the machine has what these tests need; otherwise the test is named as skipped.
pub fn able(test: &str) -> bool {
    let needed = ["containerd", "runc", "ctr", "ip"];
    let missing: Vec<&str> = needed.into_iter().filter(|name| !skerry_lab::has_program(name)).collect();
    if !missing.is_empty() {
        skerry_lab::skipped(test, &format!("not installed: {}", missing.join(", ")));
    }
    missing.is_empty()
}

/// The real kubectl, as the cluster's administrator.
pub fn kubectl(bed: &Bed, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(skerry_lab::kubectl::ensure()?);
    command.arg("--kubeconfig").arg(&bed.kubeconfig).args(args).stdin(Stdio::null());
    Ok(command)
}

/// Its `(exit code, standard output, standard error)`.
pub fn run(bed: &Bed, args: &[&str]) -> Result<(i32, String, String)> {
    let output = kubectl(bed, args)?.output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
}

/// The state of the pod's first container.
pub fn state(pod: &Pod) -> Option<k8s_openapi::api::core::v1::ContainerState> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()?.state.clone()
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub fn condition(pod: &Pod, kind: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == kind && condition.status == "True")
}
