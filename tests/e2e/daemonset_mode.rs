//! `skerry proxy` as `deploy/` has it: in a container with the named capabilities and host paths and no more,
//! on a node that our own node agent does not run on, asking the API server only for what the ClusterRole
//! allows.
//!
//! The API server has no service-account tokens yet: a kubeconfig lies where the token would, and leads to a
//! recorder, which judges each request by the ClusterRole and passes it on under the administrator's
//! certificate: a node's may only speak for that node.

mod container;
mod manifest;
mod recorder;

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skerry_lab::{Cluster, Daemon, Kubectl, Lab, Node, cluster};
use skerry_tests::{Load, eventually, manifest as file};

use self::{container::Bundle, manifest::Container, recorder::Recorder};
use crate::{node_port_service::node_port, other_node};

const SOON: Duration = Duration::from_secs(40);

pub fn runs_as_the_manifest_says() -> Result<()> {
    let cluster = Cluster::start(Lab::for_test()?, &cluster::Options::default())?;
    let kubectl = cluster.kubectl();
    let objects = manifest::objects(kubectl, "base")?;
    objects_are_valid(kubectl)?;
    let node = other_node::join(&cluster, "edge")?;
    let container = Container::read(&objects, node.name(), node.ip())?;

    let recorder = Recorder::new(manifest::kind(&objects, "ClusterRole")?);
    let upstream = Upstream::start(&cluster)?;
    let listener = node.netns().run(|| TcpListener::bind("127.0.0.1:0")).context("enter the node")??;
    let server = format!("http://{}", listener.local_addr()?);
    recorder.serve(listener, upstream.address);
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {}}],
        // A client reads the authority's certificate even where it speaks plain HTTP.
        "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority-data": other_node::authority(&cluster)?}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    let bundle = Bundle::make(cluster.lab().node("edge")?, &container, &kubeconfig.to_string())?;

    each_capability_is_needed(&bundle, &container)?;
    let mut agent = bundle.start()?;
    is_ready(&node, &container, &mut agent)?;
    is_confined(&node, &container)?;
    kubectl.run(&format!("apply -f {}", file("load.yaml")))?;
    kubectl.run("rollout status deployment steady --timeout=60s")?;
    serves(&cluster, &node, &bundle, &container, &mut agent)?;
    answers_for_load_balancers(&cluster, &node)?;
    owners_are_told(kubectl, node.name())?;

    let unasked: Vec<_> = recorder.seen().into_iter().filter(|request| !recorder.allows(request)).collect();
    ensure!(unasked.is_empty(), "asked for what the ClusterRole does not allow: {unasked:?}");
    let used = |(verb, group, resource): &(String, String, String)| {
        recorder
            .seen()
            .iter()
            .any(|seen| (&seen.verb, &seen.group, &seen.resource) == (verb, group, resource))
    };
    let unused: Vec<_> = recorder.rights().iter().filter(|right| !used(right)).collect();
    ensure!(unused.is_empty(), "the ClusterRole allows what was never asked for: {unused:?}");
    println!("asked for: {:?}", recorder.seen());
    Ok(())
}

/// The API server takes all of it, and so does kustomize the variant that cleans up behind kube-proxy.
fn objects_are_valid(kubectl: &Kubectl) -> Result<()> {
    let kinds = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet"];
    for folder in ["base", "clean-kube-proxy"] {
        let objects = manifest::objects(kubectl, folder)?;
        for kind in kinds {
            let object = manifest::kind(&objects, kind)?;
            kubectl.feed("create --dry-run=server -f -", &object.to_string())?;
        }
        let daemonset = manifest::kind(&objects, "DaemonSet")?.to_string();
        ensure!(daemonset.contains("--clean-kube-proxy") == (folder != "base"), "{folder}: {daemonset}");
    }
    Ok(())
}

/// Without any of those that it needs from the start the agent ends, and says what it could not do.
fn each_capability_is_needed(bundle: &Bundle, container: &Container) -> Result<()> {
    for missing in container.capabilities.iter().filter(|name| *name != "NET_RAW") {
        let others: Vec<String> =
            container.capabilities.iter().filter(|name| *name != missing).cloned().collect();
        bundle.write(container, &others)?;
        let mut agent = bundle.start()?;
        let code = agent.wait(SOON).with_context(|| format!("without {missing} it goes on"))?;
        // EPERM, or EACCES where the verifier is the one to refuse.
        let said = agent.tail(1);
        let refused = ["not permitted", "ermission denied"].iter().any(|words| said.contains(words));
        ensure!(code == Some(1) && refused, "without {missing}: {code:?}: {said}");
    }
    bundle.write(container, &container.capabilities)
}

fn is_ready(node: &Node, container: &Container, agent: &mut Daemon) -> Result<()> {
    for probe in &container.probes {
        eventually("the probe is answered", SOON, || {
            ensure!(agent.runs(), "it ended: {}", agent.tail(20));
            node.sh(&format!("curl -sS --fail --max-time 2 {probe}")).with_context(|| agent.tail(20))
        })?;
    }
    Ok(())
}

/// What the kernel says about the process that runs in the container.
fn is_confined(node: &Node, container: &Container) -> Result<()> {
    let status = node.sh("cat /proc/$(pgrep -f '^/usr/local/bin/skerry proxy' -n)/status")?;
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or_default().to_owned()
    };
    // linux/capability.h
    let bit = |name: &String| match name.as_str() {
        "NET_ADMIN" => Ok(12),
        "NET_RAW" => Ok(13),
        "PERFMON" => Ok(38),
        "BPF" => Ok(39),
        other => anyhow::bail!("the test does not know {other}: is it needed?"),
    };
    let mut mask: u64 = 0;
    for name in &container.capabilities {
        mask |= 1 << bit(name)?;
    }
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        ensure!(u64::from_str_radix(&field(set), 16)? == mask, "{set}: {status}");
    }
    ensure!(field("NoNewPrivs") == "1", "{status}");
    Ok(())
}

/// Clients of every kind, and a load from outside that a killed and restarted container costs nothing.
fn serves(
    cluster: &Cluster,
    node: &Node,
    bundle: &Bundle,
    container: &Container,
    agent: &mut Daemon,
) -> Result<()> {
    let kubectl = cluster.kubectl();
    let service: Value = serde_json::from_str(&kubectl.run("get service steady -o json")?)?;
    let url = format!("http://{}:8080", service["spec"]["clusterIP"].as_str().context("a ClusterIP")?);
    let get = format!("curl -sS --fail --max-time 3 -o /dev/null {url}");
    eventually("a process of the node reaches the service", SOON, || node.sh(&get))?;
    add_pod(node)?;
    eventually("a pod reaches the service", SOON, || {
        node.sh(&format!("nsenter --net=/run/netns/pod {get}"))
    })?;

    let address = SocketAddr::new(node.ip().into(), node_port(&service)?);
    eventually("the NodePort answers", SOON, || {
        cluster.lab().client().run(|| skerry_tests::get(address)).context("enter the client")?
    })?;
    let load = Load::start(cluster.lab().client(), vec![address]);
    let restarted = (|| {
        agent.kill()?;
        *agent = bundle.start()?;
        is_ready(node, container, agent)?;
        node.sh(&format!("nsenter --net=/run/netns/pod {get}"))?;
        let mark = load.requests() + 100;
        eventually("the load goes on", SOON, || {
            ensure!(load.requests() > mark, "{} requests", load.requests());
            Ok(())
        })
    })();
    let report = load.stop()?;
    restarted?;
    println!("load: {} requests, {} failed", report.requests, report.failed);
    ensure!(report.failed == 0, "{} of {} failed: {:?}", report.failed, report.requests, report.failures);
    Ok(())
}

/// What a container runtime does with the plugin and the configuration that the container has installed on
/// the host.
fn add_pod(node: &Node) -> Result<()> {
    let list: Value = serde_json::from_str(&node.sh("cat /etc/cni/net.d/10-skerry.conflist")?)?;
    let mut conf = list["plugins"][0].clone();
    conf["name"] = list["name"].clone();
    conf["cniVersion"] = list["cniVersion"].clone();
    node.sh("ip netns add pod && ip -n pod link set lo up")?;
    node.sh(&format!(
        "echo '{conf}' | CNI_COMMAND=ADD CNI_CONTAINERID=pod CNI_NETNS=/run/netns/pod CNI_IFNAME=eth0 \
         CNI_PATH=/opt/cni/bin /opt/cni/bin/skerry-cni"
    ))
    .map(drop)
}

/// NET_RAW is there for this: an address on no device is answered for on the link.
fn answers_for_load_balancers(cluster: &Cluster, node: &Node) -> Result<()> {
    let address = cluster.lab().subnet().host(250);
    let kubectl = cluster.kubectl();
    let pools = json!([{"name": "one", "ranges": [format!("{address}-{address}")]}]).to_string();
    let pool = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"pools": pools},
        "metadata": {"name": "skerry-load-balancer", "namespace": "kube-system"}});
    let port = json!({"name": "http", "port": 8081, "protocol": "TCP"});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "outside"},
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [port]}});
    // The one ready endpoint is here, so this node and no other is the one to announce.
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "outside", "labels": {"kubernetes.io/service-name": "outside"}}, "ports": [port],
        "endpoints": [{"addresses": [node.ip().to_string()], "nodeName": node.name(), "conditions": {"ready": true}}]});
    for object in [pool, service, slice] {
        kubectl.feed("create -f -", &object.to_string())?;
    }
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Test"}]}});
    kubectl.run(&format!("patch node {} --subresource=status --type=merge -p {ready}", node.name()))?;
    let mac = node.sh("cat /sys/class/net/eth0/address")?;
    let client = cluster.lab().client();
    eventually("the address is answered for", SOON, || {
        client.sh(&format!("curl -s --max-time 1 http://{address}:8081 || true"))?;
        let neighbours = client.ip(&format!("neighbour show {address}"))?;
        ensure!(neighbours.contains(mac.trim()), "{neighbours:?}");
        Ok(())
    })
}

/// Services that want an address which an older one has: one of the two nodes tells of each, and counts on
/// while it stands.
fn owners_are_told(kubectl: &Kubectl, node: &str) -> Result<()> {
    let service = |n: u8| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("claims-{n}")},
               "spec": {"externalIPs": ["203.0.113.9"], "ports": [{"port": 80}]}})
    };
    kubectl.feed("apply -f -", &service(0).to_string())?;
    // Ages are whole seconds; between equals the name decides, which the first has ahead.
    let others: Vec<String> = (1..=9).map(|n| service(n).to_string()).collect();
    kubectl.feed("apply -f -", &others.join("\n---\n"))?;
    eventually("an event that is counted on", SOON, || {
        let events = kubectl.run("get events.events.k8s.io -o json")?;
        let events: Value = serde_json::from_str(&events)?;
        let counted = events["items"].as_array().into_iter().flatten().find(|event| {
            event["reason"] == "AddressTaken"
                && event["reportingInstance"] == node
                && event["series"]["count"].as_u64() > Some(1)
        });
        let event = counted.with_context(|| format!("none from {node}: {events}"))?;
        let name = event["regarding"]["name"].as_str().context("a name")?;
        let described = kubectl.run(&format!("describe service {name}"))?;
        ensure!(described.contains("belongs to the older Service default/claims-0"), "{described}");
        Ok(())
    })
}

/// `kubectl proxy`: plain HTTP on one side, the administrator's certificate on the other.
struct Upstream {
    child: Child,
    address: SocketAddr,
}

impl Upstream {
    fn start(cluster: &Cluster) -> Result<Upstream> {
        let mut child = cluster
            .kubectl()
            .command("proxy --port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start kubectl proxy")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its standard output")?).read_line(&mut line)?;
        let address = line.trim().rsplit(' ').next().unwrap_or_default().parse();
        Ok(Upstream { address: address.with_context(|| format!("kubectl proxy says {line:?}"))?, child })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
