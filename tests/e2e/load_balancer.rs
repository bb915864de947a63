//! Services of type LoadBalancer without a cloud: addresses from a pool, announced by ARP; health checks for
//! those who balance themselves.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skerry_lab::{
    Cluster, Lab, Node,
    cluster::{Families, Options},
    images,
};
use skerry_tests::{Load, eventually, get};

use crate::world::{SOON, World, name_of};

const REQUESTS: usize = 40;
/// How long an address may be without an answer when its node goes: the watches tell all others at once.
const TAKEOVER: Duration = Duration::from_secs(5);
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A pool at the end of the lab's network, beyond its nodes.
fn configure(world: &World) -> Result<()> {
    let subnet = world.lab()?.subnet();
    let pools = json!([{"name": "lab", "ranges": [format!("{}-{}", subnet.host(250), subnet.host(254))]}]);
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "skerry-load-balancer", "namespace": "kube-system"},
        "data": {"pools": pools.to_string()},
    });
    world.kubectl().feed("apply -f -", &config.to_string()).map(drop)
}

/// What `kubectl get service` shows as EXTERNAL-IP, once it is an address.
fn external_ip(world: &World, namespace: &str) -> Result<IpAddr> {
    eventually("the service has an external address", SOON, || {
        let rows = world.table(&format!("get service web -n {namespace}"))?;
        let shown = rows.first().map(|row| row["EXTERNAL-IP"].clone()).context("the service")?;
        shown.parse().with_context(|| format!("EXTERNAL-IP {shown}"))
    })
}

/// A page, as the client outside of the cluster gets it.
fn from_outside(world: &World, ip: IpAddr) -> Result<String> {
    world.lab()?.client().run(|| get(SocketAddr::new(ip, 80))).context("enter the client's namespace")?
}

/// The node whose Ethernet address the client knows the address by.
fn announcer(world: &World, ip: IpAddr) -> Result<Node> {
    let client = world.lab()?.client();
    let known = client.ip(&format!("neigh show to {ip}"))?;
    let mac = known.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
    let mac = mac.with_context(|| format!("nobody has answered for {ip}: {known}"))?;
    let nodes = world.nodes()?;
    for node in nodes {
        if node.mac()? == mac {
            return Ok(node);
        }
    }
    anyhow::bail!("{mac} is no node's address")
}

/// Status, weight header and body of a node's answer to a health check; 0: refused.
fn health(world: &World, node: &Node, port: u64) -> Result<(u16, String, Value)> {
    let line = format!("curl -sS -i --max-time 3 http://{}:{port}/ || test $? = 7", node.ip());
    let said = world.lab()?.client().sh(&line)?;
    let Some((head, body)) = said.split_once("\r\n\r\n") else { return Ok((0, String::new(), Value::Null)) };
    let status = head.split_whitespace().nth(1).context("a status")?.parse()?;
    let weight = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("X-Load-Balancing-Endpoint-Weight").then(|| value.trim().to_owned())
    });
    Ok((status, weight.unwrap_or_default(), serde_json::from_str(body)?))
}

pub fn has_address_and_health_checks(world: &World) -> Result<()> {
    let ns = world.namespace("balanced")?;
    configure(world)?;
    world.type_in("create deployment web --image=nginx -n balanced")?;
    world.type_in("expose deployment web --type=LoadBalancer --port=80 -n balanced")?;
    let pods = world.ready_pods(&ns.name, "app=web", 1)?;
    let ip = external_ip(world, &ns.name)?;
    let subnet = world.lab()?.subnet();
    ensure!((250..=254).any(|host| ip == IpAddr::from(subnet.host(host))), "{ip} is not of the pool");

    // Outside, by ARP alone: nothing routes to the address.
    let page = eventually("the address answers", SOON, || from_outside(world, ip))?;
    ensure!(page.contains("Welcome to nginx!"), "{page}");
    for number in 0..REQUESTS {
        from_outside(world, ip).with_context(|| format!("request {number}"))?;
    }
    announcer(world, ip)?;
    for node in world.nodes()? {
        node.sh(&format!("curl -sSf --max-time 3 http://{ip}"))
            .with_context(|| format!("from {}", node.name()))?;
    }
    let pod = name_of(&pods[0]);
    world
        .type_in(&format!("exec {pod} -n balanced -- curl -sSf --max-time 3 http://{ip}"))
        .context("from the pod")?;

    // Local: the pod's node answers for the address, the client's own address arrives, health checks tell who
    // has pods.
    world.type_in(r#"patch service web -n balanced -p {"spec":{"externalTrafficPolicy":"Local"}}"#)?;
    let port = world.json("get service web -n balanced")?["spec"]["healthCheckNodePort"].as_u64();
    let port = port.context("healthCheckNodePort")?;
    let home = pods[0]["spec"]["nodeName"].as_str().context("nodeName")?;
    for node in world.nodes()? {
        let count = usize::from(node.name() == home);
        let service = json!({"namespace": "balanced", "name": "web"});
        let body = json!({"service": service, "localEndpoints": count, "serviceProxyHealthy": true});
        let expected = (if count > 0 { 200 } else { 503 }, count.to_string(), body);
        eventually(&format!("the health of {}", node.name()), SOON, || {
            let said = health(world, &node, port)?;
            ensure!(said == expected, "{said:?}");
            Ok(())
        })?;
    }
    eventually("the pod's node answers for the address", SOON, || {
        let node = announcer(world, ip)?;
        ensure!(node.name() == home, "{}", node.name());
        Ok(())
    })?;
    let page = from_outside(world, ip)?;
    ensure!(page.contains("Welcome to nginx!"), "{page}");
    let client = subnet.host(2).to_string();
    eventually("the pod sees the client's own address", SOON, || {
        let log = world.type_in(&format!("logs {pod} -n balanced"))?;
        ensure!(log.contains(&client), "{client} is not in {log}");
        Ok(())
    })?;
    world.type_in("scale deployment web --replicas=0 -n balanced")?;
    let home = world.node(home)?;
    eventually("no pod, no health", SOON, || {
        let said = health(world, &home, port)?;
        ensure!(said.0 == 503 && said.2["localEndpoints"] == 0, "{said:?}");
        Ok(())
    })?;
    world.type_in("scale deployment web --replicas=1 -n balanced")?;
    world.ready_pods(&ns.name, "app=web", 1)?;
    eventually("the address answers again", SOON, || from_outside(world, ip))?;
    is_released(world, ip, port)
}

/// Another type: address and port are given back.
fn is_released(world: &World, ip: IpAddr, port: u64) -> Result<()> {
    world.type_in(r#"patch service web -n balanced -p {"spec":{"type":"ClusterIP"}}"#)?;
    eventually("no external address is shown", SOON, || {
        let rows = world.table("get service web -n balanced")?;
        ensure!(rows[0]["TYPE"] == "ClusterIP" && rows[0]["EXTERNAL-IP"] == "<none>", "{rows:?}");
        Ok(())
    })?;
    let client = world.lab()?.client();
    eventually("nobody answers for the address", SOON, || {
        client.ip("neigh flush dev eth0")?;
        // 7: no route to host, since nobody answered; 28 would be a time-out.
        Ok(client.sh(&format!("curl -sS --max-time 6 http://{ip}; test $? = 7"))?)
    })?;
    for node in world.nodes()? {
        eventually(&format!("the health port of {} is closed", node.name()), SOON, || {
            let said = health(world, &node, port)?;
            ensure!(said.0 == 0, "{said:?}");
            Ok(())
        })?;
    }
    let events = world.type_in("get events -n balanced")?;
    ensure!(events.contains("AddressAssigned") && events.contains("AddressReleased"), "{events}");
    Ok(())
}

pub fn another_node_takes_over(world: &World) -> Result<()> {
    let _ns = world.namespace("takeover")?;
    configure(world)?;
    // The server node is to go on: without it nobody could be told of anything.
    world.type_in(&format!("label node master {EXCLUDED}="))?;
    let done = taken_over(world);
    world.type_in(&format!("label node master {EXCLUDED}-"))?;
    done
}

fn taken_over(world: &World) -> Result<()> {
    world.type_in("create service loadbalancer web --tcp=80:80 -n takeover")?;
    let ip = external_ip(world, "takeover")?;
    let client = world.lab()?.client();
    let elected = eventually("a worker answers for the address", SOON, || {
        client.ip("neigh flush dev eth0")?;
        // Refused, since there is no pod yet; but asked for.
        from_outside(world, ip).err().context("no pod is there")?;
        let node = announcer(world, ip)?;
        ensure!(node.name() != "master", "the excluded node answers");
        Ok(node)
    })?;
    // Pods elsewhere: what is seen is the address alone.
    world.type_in(&format!("cordon {}", elected.name()))?;
    world.type_in("create deployment web --image=nginx -r 2 -n takeover")?;
    world.ready_pods("takeover", "app=web", 2)?;
    eventually("the address answers", SOON, || from_outside(world, ip))?;

    let load = Load::start(world.lab()?.client(), vec![SocketAddr::new(ip, 80)]);
    let went = goes(world, &elected, ip);
    let back = comes_back(world, &elected, ip);
    let mark = load.requests() + 50;
    let after = eventually("the load goes on", SOON, || {
        ensure!(load.requests() > mark, "{} requests", load.requests());
        Ok(())
    });
    let report = load.stop()?;
    let took = went?;
    back?;
    after?;
    println!(
        "{ip} was taken over from {} after {took:?}; {} of {} requests failed on the way there and back",
        elected.name(),
        report.failed,
        report.requests
    );
    ensure!(took < TAKEOVER, "it took {took:?}");
    ensure!(report.failed <= 2, "{} of {} failed: {:?}", report.failed, report.requests, report.failures);
    Ok(())
}

/// The node's daemons are killed and its Node is taken out; how long, from the command on, the client sent
/// there still.
fn goes(world: &World, node: &Node, ip: IpAddr) -> Result<Duration> {
    world.with_cluster(|cluster| cluster.kill(node))?;
    let begun = Instant::now();
    world.type_in(&format!("delete node {}", node.name()))?;
    let heir = eventually("another node answers for the address", SOON, || {
        let now = announcer(world, ip)?;
        ensure!(now.name() != node.name(), "still {}", now.name());
        Ok(now)
    })?;
    ensure!(heir.name() != "master", "the excluded node has taken over");
    Ok(begun.elapsed())
}

fn comes_back(world: &World, node: &Node, ip: IpAddr) -> Result<()> {
    world.with_cluster(|cluster| cluster.restart(node).map(drop))?;
    world.kubectl().wait(&format!("node/{}", node.name()), "create", SOON)?;
    world.kubectl().wait(&format!("node/{}", node.name()), "condition=Ready", SOON)?;
    eventually("the node has its address again", SOON, || {
        let now = announcer(world, ip)?;
        ensure!(now.name() == node.name(), "still {}", now.name());
        Ok(())
    })
}

/// A cluster of its own with both families: an address of each, by ARP and by neighbour discovery.
pub fn both_families() -> Result<()> {
    let options = Options { workers: 1, families: Families::Dual, ..Options::default() };
    let cluster = Cluster::start(Lab::for_test()?, &options)?;
    let done = of_each_family(&cluster);
    if done.is_err() {
        eprintln!("{}", cluster.logs());
    }
    done
}

/// A pod `app=web` on each node that takes pods, which says its name and whom it takes for the client.
pub fn web_on_each_node(cluster: &Cluster) -> Result<()> {
    let echo = images::echo()?;
    for node in cluster.nodes() {
        node.import(std::slice::from_ref(&echo))?;
    }
    let pods = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "echo", "imagePullPolicy": "IfNotPresent"}]}}}});
    cluster.kubectl().feed("apply -f -", &pods.to_string())?;
    cluster.kubectl().run("rollout status daemonset web --timeout=40s").map(drop)
}

fn of_each_family(cluster: &Cluster) -> Result<()> {
    let (kubectl, subnet) = (cluster.kubectl(), cluster.lab().subnet());
    let ranges = [subnet.host(250).to_string(), format!("{}-{}", subnet.host6(250), subnet.host6(254))];
    let pools = json!([{"name": "lab", "ranges": ranges}]).to_string();
    let objects = [
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"pools": pools},
            "metadata": {"name": "skerry-load-balancer", "namespace": "kube-system"}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack", "selector": {"app": "web"},
                "ports": [{"port": 80, "targetPort": 8080}]}}),
    ];
    for object in objects {
        kubectl.feed("apply -f -", &object.to_string())?;
    }
    web_on_each_node(cluster)?;
    let ips: Vec<IpAddr> = eventually("an address of each family", SOON, || {
        let shown = kubectl.run("get service web -o jsonpath={.status.loadBalancer.ingress[*].ip}")?;
        let ips: Vec<IpAddr> = shown.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        ensure!(ips.len() == 2, "{shown}");
        Ok(ips)
    })?;
    ensure!(ips[0] == IpAddr::from(subnet.host(250)) && ips[1] == IpAddr::from(subnet.host6(250)), "{ips:?}");
    let client = cluster.lab().client();
    for policy in ["Cluster", "Local"] {
        let patch = json!({"spec": {"externalTrafficPolicy": policy}}).to_string();
        kubectl.run(&format!("patch service web -p {patch}"))?;
        for ip in &ips {
            client.ip("neigh flush dev eth0")?;
            let asked =
                || client.run(|| get(SocketAddr::new(*ip, 80))).context("enter the client's namespace")?;
            eventually(&format!("{ip} answers with policy {policy}"), SOON, asked)?;
            for number in 0..REQUESTS {
                asked().with_context(|| format!("request {number} to {ip} with policy {policy}"))?;
            }
        }
    }
    Ok(())
}
