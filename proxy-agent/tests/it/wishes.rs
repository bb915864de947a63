//! What a Service asks for by annotations, seen by its clients.

use crate::support::{
    Agent, Case, eventually,
    roles::Role,
    scene::{NODE_PORT, Scene},
    trial,
};
use proxy_abi::{
    Addr, Be16, Flow, Frontend, FrontendKey, Tuple, flow_flag, frontend_flag, frontend_kind, map,
};
use serde_json::json;
use skerry_kernel::Map;

const SERVICE: &str = "default/web";

pub fn trials() -> Vec<Case> {
    vec![
        trial("connections_to_a_removed_backend_end_only_where_the_service_asks_for_it", resets),
        trial("weights_share_out_what_is_dialled", weights),
        trial("a_service_changes_between_snat_and_direct_return_under_load", || changes_forwarding("TCP")),
        trial("datagrams_change_between_snat_and_direct_return_under_load", || changes_forwarding("UDP")),
        trial("affinity_gives_way_to_policy_local_and_keeps_to_its_endpoints", affinity_and_local),
        trial("localhost_serves_node_ports_to_the_nodes_own_where_it_was_asked_for", localhost),
    ]
}

/// A backend that is gone for Kubernetes and still answers: whoever is not cut off goes on talking to it.
fn resets() {
    const ANNOTATION: &str = "service.skerry.io/reset-on-endpoint-removal";
    let scene = Scene::new("TCP");
    let pod = &scene.client;
    scene.near.record_in("client", &pod.device, pod.ip, [2, 0, 0, 0, 0, 1], 0, &pod.netns.path());
    scene.backends("TCP", &["near"]);
    eventually("only the near one answers", || {
        let tally = scene.in_pod("dial").for_a_moment();
        (tally.lost.is_empty() && tally.answers.keys().eq(["near"])).then_some(())
    });
    let mut keeping =
        [("pod", scene.in_pod("keep")), ("node", scene.on_node("keep")), ("outside", scene.outside("keep"))];
    let mut direct =
        Role::start("keep", &["10.244.1.5:8080"], |line| scene.client.command(&scene.near, line));
    scene.in_pod("dial").for_a_moment();
    scene.backends("TCP", &["far"]);
    eventually("only the far one answers", || {
        let tally = scene.in_pod("dial").for_a_moment();
        (tally.lost.is_empty() && tally.answers.keys().eq(["far"])).then_some(())
    });
    // Longer than an endpoint must be gone.
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    for (who, role) in &mut keeping {
        assert!(!role.has_ended(), "{who}: nobody asked for its end");
    }
    let later = scene.in_pod("keep");
    scene.api.annotate("services", SERVICE, ANNOTATION, "true");
    for (who, mut role) in keeping {
        eventually(&format!("{who}: cut off"), || role.has_ended().then_some(()));
        let tally = role.tally();
        println!("{who}: {tally:?}");
        assert!(tally.answers.keys().eq(["near"]) && tally.lost.len() == 1, "{who}: {tally:?}");
        let how = tally.lost.keys().next().unwrap();
        let wanted = if who == "outside" { "reset" } else { "abort" };
        assert!(how.contains(wanted), "{who}: {how}");
    }
    let tally = later.tally();
    assert!(tally.lost.is_empty() && tally.answers.keys().eq(["far"]), "to another backend: {tally:?}");
    assert!(!direct.has_ended(), "it dialled the pod itself");
    assert!(direct.tally().lost.is_empty());
}

/// Random draws and Maglev, at the socket and on the uplink.
fn weights() {
    let scene = Scene::new("TCP");
    let slice = |name: &str, ip: &str, weight: &str| {
        json!({"metadata": {"name": name, "namespace": "default",
                   "labels": {"kubernetes.io/service-name": "web"},
                   "annotations": {"service.skerry.io/weight": weight}},
               "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
               "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}]})
    };
    scene.api.apply("endpointslices", slice("web-1", "10.244.1.5", "3"));
    scene.api.apply("endpointslices", slice("web-2", "10.244.2.6", "1"));
    let table: Map<FrontendKey, Frontend> = Map::open(&scene.near.pin("maps", map::FRONTENDS)).unwrap();
    let elements =
        || table.entries().unwrap().iter().map(|(_, frontend)| frontend.outside.count).max().unwrap();
    eventually("three shares and one", || (elements() == 4).then_some(()));
    for balancing in ["random", "maglev"] {
        scene.api.annotate("services", SERVICE, "service.skerry.io/balancing", balancing);
        eventually(balancing, || ((elements() > 4) == (balancing == "maglev")).then_some(()));
        for (who, role) in [("pod", scene.in_pod("dial")), ("outside", scene.outside("dial"))] {
            std::thread::sleep(std::time::Duration::from_millis(700));
            let tally = role.tally();
            let (near, all) = (tally.answers["near"] as f64, tally.total() as f64);
            println!("{balancing}, {who}: {near} of {all}");
            // 5 standard deviations.
            let off = 5.0 * (0.75 * 0.25 / all).sqrt() + 0.01;
            assert!(tally.lost.is_empty() && all > 100.0, "{tally:?}");
            assert!((near / all - 0.75).abs() < off, "{balancing}, {who}: {near} of {all}, {off} allowed");
        }
    }
}

/// New connections, and those that were begun in either mode, go on through all changes.
fn changes_forwarding(protocol: &str) {
    const ANNOTATION: &str = "service.skerry.io/forwarding-mode";
    let role = if protocol == "TCP" { "dial" } else { "ask" };
    let scene = Scene::new(protocol);
    if protocol == "UDP" {
        // Few sockets, which by chance could all get the backend that is here.
        scene.backends(protocol, &["far"]);
    }
    eventually("it answers", || {
        let tally = scene.outside(role).for_a_moment();
        (tally.lost.is_empty() && tally.total() > 0).then_some(())
    });
    let mut clients = vec![scene.outside(role), scene.outside(role)];
    let table: Map<FrontendKey, Frontend> = Map::open(&scene.near.pin("maps", map::FRONTENDS)).unwrap();
    let proto = if protocol == "TCP" { proxy_abi::proto::TCP } else { proxy_abi::proto::UDP };
    let key = FrontendKey {
        addr: Addr::UNSPECIFIED,
        port: Be16::new(NODE_PORT),
        proto,
        kind: frontend_kind::NODE_PORT_V4,
    };
    let is_direct =
        || table.lookup(&key).unwrap().is_some_and(|frontend| frontend.flags & frontend_flag::DIRECT != 0);
    for mode in ["dsr", "snat", "dsr", "snat", "dsr"] {
        scene.api.annotate("services", SERVICE, ANNOTATION, mode);
        eventually(mode, || (is_direct() == (mode == "dsr")).then_some(()));
        if protocol == "TCP" {
            clients.push(scene.outside("keep"));
        }
        let tally = scene.outside(role).for_a_moment();
        assert!(tally.lost.is_empty() && !tally.answers.is_empty(), "{mode}: {tally:?}");
    }
    let flows: Map<Tuple, Flow> = Map::open(&scene.near.pin("maps", map::FLOWS)).unwrap();
    let flows = flows.entries().unwrap();
    let count = |flag: u16| flows.iter().filter(|(_, flow)| flow.flags & flag != 0).count();
    println!("{} direct flows, {} translated entries", count(flow_flag::DIRECT), count(flow_flag::SNAT));
    assert!(count(flow_flag::DIRECT) > 0 && count(flow_flag::SNAT) > 0);
    for client in clients {
        let tally = client.tally();
        println!("{tally:?}");
        assert!(tally.lost.is_empty() && tally.total() > 100, "{tally:?}");
    }
}

fn localhost() {
    let mut scene = Scene::new("TCP");
    let here = format!("127.0.0.1:{NODE_PORT}");
    let (on_node, in_pod) = (
        |scene: &Scene| Role::start("dial", &[&here], |line| scene.near.command(line)).for_a_moment(),
        |scene: &Scene| {
            Role::start("dial", &[&here], |line| scene.client.command(&scene.near, line)).for_a_moment()
        },
    );
    let tally = on_node(&scene);
    assert!(tally.total() == 0, "nobody asked for it: {tally:?}");
    scene.agents.remove(0).stop().unwrap();
    let mut config = scene.near.config();
    let own = format!("{}/32", scene.near.ip());
    config.node_port_addresses = ["127.0.0.0/8", &own].map(|cidr| cidr.parse().unwrap()).into();
    let mut agent = Agent::start(&scene.near, config);
    agent.wait_ready();
    scene.agents.insert(0, agent);
    eventually("localhost serves the NodePort", || {
        let tally = on_node(&scene);
        (tally.lost.is_empty() && tally.answers.len() == 2).then_some(())
    });
    // A pod's localhost is its own.
    let tally = in_pod(&scene);
    assert!(tally.total() == 0 && tally.lost.keys().all(|how| how.contains("refused")), "{tally:?}");
    let tally = scene.outside("dial").for_a_moment();
    assert!(tally.lost.is_empty() && tally.answers.len() == 2, "{tally:?}");
}

fn affinity_and_local() {
    let scene = Scene::new("TCP");
    let policy = |policy: &str| {
        let mut service = scene.api.get("services", SERVICE).unwrap();
        service["spec"]["sessionAffinity"] = json!("ClientIP");
        service["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 600}});
        service["spec"]["externalTrafficPolicy"] = json!(policy);
        scene.api.apply("services", service);
    };
    let sees = |who: &str, dial: &dyn Fn() -> Role, name: &str| {
        eventually(&format!("{who} sees {name}"), || {
            let tally = dial().for_a_moment();
            (tally.lost.is_empty() && tally.answers.keys().eq([name])).then_some(())
        });
    };
    // Endpoints that the NodePort leads to.
    let count = |wanted: u32| {
        let all: Map<FrontendKey, Frontend> = Map::open(&scene.near.pin("maps", map::FRONTENDS)).unwrap();
        let entries = all.entries().unwrap();
        entries.iter().any(|(key, frontend)| key.port.get() == NODE_PORT && frontend.outside.count == wanted)
    };
    let (outside, inside) = (|| scene.outside("dial"), || scene.in_pod("dial"));
    policy("Cluster");
    scene.backends("TCP", &["far"]);
    sees("outside", &outside, "far");
    sees("inside", &inside, "far");
    // Both stick to it when there is a choice.
    scene.backends("TCP", &["near", "far"]);
    eventually("the second endpoint is known", || count(2).then_some(()));
    sees("outside", &outside, "far");
    sees("inside", &inside, "far");
    // The policy binds who comes from outside, whatever it was given before, and nobody else.
    policy("Local");
    sees("outside", &outside, "near");
    sees("inside", &inside, "far");
    // Without it one is kept to, as ever.
    policy("Cluster");
    eventually("the policy is gone", || count(2).then_some(()));
    let tally = outside().for_a_moment();
    assert!(tally.lost.is_empty() && tally.answers.len() == 1, "{tally:?}");
    sees("inside", &inside, "far");
}
