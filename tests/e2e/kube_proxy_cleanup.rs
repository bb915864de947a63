//! From kube-proxy to Skerry under load: its rules go, those of others stay, no request is lost, and
//! connections that were made through a rule live on.

mod rules;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use skerry_lab::{Cluster, Kubectl, Lab, Node, cluster};
use skerry_tests::{Load, eventually};

use self::rules::Service;
use crate::other_node;

const SOON: Duration = Duration::from_secs(40);
const SERVICE: Service = Service {
    cluster_ip: Ipv4Addr::new(10, 96, 77, 77),
    port: 8080,
    node_port: 30077,
    endpoint: Ipv4Addr::UNSPECIFIED,
    target: 9090,
};
/// Requests that each load makes before, and again after, what is looked at.
const SOME: usize = 150;

pub fn goes_without_a_lost_request() -> Result<()> {
    let cluster = Cluster::start(Lab::for_test()?, &cluster::Options::default())?;
    let backend = cluster.lab().node("backend")?;
    let service = Service { endpoint: backend.ip(), ..SERVICE };
    serve(&backend)?;
    create(cluster.kubectl(), &service)?;
    let kubeconfig = other_node::kubeconfig(&cluster)?;
    let nft = [("nft -f", rules::nftables(&service))];
    let iptables = [
        ("iptables-legacy-restore --noflush", rules::iptables(&service)),
        ("iptables-nft-restore --noflush", rules::iptables(&service)),
    ];
    moves(&cluster, "nftables", &kubeconfig, &service, &nft)?;
    moves(&cluster, "iptables", &kubeconfig, &service, &iptables)
}

/// One node, from the rules to our programs.
fn moves(
    cluster: &Cluster,
    name: &str,
    kubeconfig: &str,
    service: &Service,
    rules: &[(&str, String)],
) -> Result<()> {
    let node = other_node::join(cluster, name)?;
    node.sh("echo 1 > /proc/sys/net/ipv4/ip_forward")?;
    load_rules(&node, "nft -f", rules::OTHERS_NFT)?;
    for flavour in ["iptables-legacy-restore --noflush", "iptables-nft-restore --noflush"] {
        load_rules(&node, flavour, rules::OTHERS)?;
    }
    let before = listing(&node)?;
    for (program, text) in rules {
        load_rules(&node, program, text)?;
    }
    ensure!(listing(&node)? != before, "{name}: the rules are not listed");

    let outside = SocketAddr::new(node.ip().into(), service.node_port);
    let inside = SocketAddrV4::new(service.cluster_ip, service.port);
    let client = cluster.lab().client();
    client
        .run(|| skerry_tests::get(outside))
        .context("enter the client")?
        .context("kube-proxy's NodePort")?;
    // Of the node's network but not of its cgroup: no hook of ours sees it, its packets are translated by the
    // rule.
    let mut kept = node.netns().run(|| Kept::open(inside)).context("enter the node")??;
    kept.ask().context("kube-proxy's ClusterIP")?;
    let mut far = client.run(|| Kept::open(outside)).context("enter the client")??;
    far.ask().context("kube-proxy's NodePort, kept open")?;
    let load = Load::start(client, vec![outside]);
    let mut local = LocalLoad::start(&node, inside)?;
    let moved = (|| {
        goes_on(&load, &mut local)?;
        std::fs::write(node.dir().join("opt/kubeconfig"), kubeconfig)?;
        let cgroup = node.cgroup().dir().display().to_string();
        let mut args = vec!["proxy", "--kubeconfig", "/opt/kubeconfig", "--node-name", name];
        args.extend(["--cgroup-root", &cgroup, "--clean-kube-proxy", "--healthz-bind", "127.0.0.1:10256"]);
        let mut agent = node.spawn("proxy", "/opt/skerry/bin/skerry", &args)?;
        eventually("the rules are gone", SOON, || {
            ensure!(agent.runs(), "it ended: {}", agent.tail(20));
            let now = listing(&node)?;
            let differs =
                |a: &str, b: &str| a.lines().filter(|line| !b.contains(*line)).collect::<Vec<_>>().join("\n");
            let (left, lost) = (differs(&now, &before), differs(&before, &now));
            ensure!(now == before, "left: {left}\nlost: {lost}\n{}", agent.tail(20));
            Ok(())
        })?;
        goes_on(&load, &mut local)?;
        far.ask().context("a connection from outside that was made through kube-proxy's rule")?;
        kept.ask().context("a connection that was made through kube-proxy's rule")
    })();
    let (report, local) = (load.stop()?, local.stop()?);
    moved.with_context(|| name.to_owned())?;
    println!("{name}: {} requests from outside, {} from the node", report.requests, local.done);
    ensure!(report.failed == 0, "{} of {} failed: {:?}", report.failed, report.requests, report.failures);
    ensure!(local.failed.is_empty(), "of {} from the node failed: {}", local.done, local.failed);

    // Entries of closed connections live for two minutes more. With the last one goes the empty table that
    // kept it alive.
    drop((kept, far));
    eventually("nothing of ours is left", SOON, || {
        node.sh("conntrack -F 2>/dev/null")?;
        let said = node.sh("/opt/skerry/bin/skerry cleanup-kube-proxy")?;
        ensure!(!node.sh("nft list tables")?.contains("skerry"), "{said}");
        Ok(())
    })?;
    let said = node.sh("/opt/skerry/bin/skerry cleanup-kube-proxy")?;
    ensure!(said.contains("nothing"), "a second time: {said}");
    ensure!(listing(&node)? == before, "a second time something else went");
    Ok(())
}

fn create(kubectl: &Kubectl, service: &Service) -> Result<()> {
    let Service { cluster_ip, port, node_port, endpoint, target } = service;
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kept"},
        "spec": {"type": "NodePort", "clusterIP": cluster_ip.to_string(),
                 "ports": [{"name": "http", "port": port, "targetPort": target, "nodePort": node_port, "protocol": "TCP"}]}});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "kept", "labels": {"kubernetes.io/service-name": "kept"}},
        "ports": [{"name": "http", "port": target, "protocol": "TCP"}],
        "endpoints": [{"addresses": [endpoint.to_string()], "conditions": {"ready": true}}]});
    kubectl.feed("create -f -", &object.to_string())?;
    kubectl.feed("create -f -", &slice.to_string()).map(drop)
}

fn load_rules(node: &Node, program: &str, text: &str) -> Result<()> {
    std::fs::write(node.dir().join("opt/rules"), text)?;
    let input = if program.starts_with("nft") { "" } else { "<" };
    node.sh(&format!("{program} {input} /opt/rules")).map(drop)
}

/// Every rule of every kind, without counters, and without the table that holds connections.
fn listing(node: &Node) -> Result<String> {
    let sort = "grep -v '^#' | sed 's/\\[[0-9:]*\\]//'";
    let legacy = node.sh(&format!("iptables-legacy-save | {sort}"))?;
    let tables = node.sh("nft list tables")?;
    let mut all = format!("{legacy}\n");
    for table in tables.lines().filter(|table| !table.contains("skerry-hold")) {
        all.push_str(
            &node.sh(&format!("nft -s list {table} 2>/dev/null | sed 's/packets [0-9]* bytes [0-9]*//'"))?,
        );
    }
    Ok(all)
}

fn goes_on(load: &Load, local: &mut LocalLoad) -> Result<()> {
    let (outside, inside) = (load.requests() + SOME, local.done()? + SOME);
    eventually("both loads go on", SOON, || {
        let now = (load.requests(), local.done()?);
        ensure!(now.0 > outside && now.1 > inside, "{now:?}");
        Ok(())
    })
}

/// A web server in the node's network that keeps connections open, for as long as the process lives.
fn serve(node: &Node) -> Result<()> {
    let listener =
        node.netns().run(|| TcpListener::bind(("0.0.0.0", SERVICE.target))).context("enter the node")??;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(&stream));
        }
    });
    Ok(())
}

/// Ends with the connection.
fn answer(stream: &TcpStream) -> Option<()> {
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    loop {
        let (mut line, mut closes) = (String::new(), false);
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            closes |= line.eq_ignore_ascii_case("connection: close\r\n");
        }
        writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").ok()?;
        if closes {
            return None;
        }
    }
}

/// One connection for many requests.
struct Kept(TcpStream);

impl Kept {
    fn open(address: impl Into<SocketAddr>) -> Result<Kept> {
        let stream = TcpStream::connect_timeout(&address.into(), SOON).context("connect")?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Kept(stream))
    }

    fn ask(&mut self) -> Result<()> {
        self.0.write_all(b"GET / HTTP/1.1\r\nHost: kept\r\n\r\n")?;
        let mut answer = [0; 40];
        self.0.read_exact(&mut answer).context("read the answer")?;
        ensure!(answer.ends_with(b"ok"), "{}", String::from_utf8_lossy(&answer));
        Ok(())
    }
}

/// Requests of a process of the node, in its cgroup, whose connects our hooks see.
struct LocalLoad {
    node: std::path::PathBuf,
    daemon: skerry_lab::Daemon,
}

struct LocalReport {
    done: usize,
    failed: String,
}

impl LocalLoad {
    fn start(node: &Node, address: SocketAddrV4) -> Result<LocalLoad> {
        let line = format!(
            "while :; do curl -sS --fail --max-time 3 -o /dev/null http://{address} 2>> /opt/failed; echo >> /opt/done; done"
        );
        let daemon = node.spawn("load", "sh", &["-c", &line])?;
        Ok(LocalLoad { node: node.dir().join("opt"), daemon })
    }

    fn done(&self) -> Result<usize> {
        Ok(std::fs::read(self.node.join("done")).unwrap_or_default().len())
    }

    fn stop(mut self) -> Result<LocalReport> {
        self.daemon.kill()?;
        let failed = std::fs::read_to_string(self.node.join("failed")).unwrap_or_default();
        Ok(LocalReport { done: self.done()?, failed })
    }
}
