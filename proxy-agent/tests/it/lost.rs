//! What is pinned goes, under traffic and between two agents.

use std::net::Ipv4Addr;

use crate::support::{Agent, Case, TestNode, Underlay, eventually, named, scene::Scene};
use proxy_abi::{Addr, Endpoint, Link as PodLink, MAPS, endpoint_flag, map};
use skerry_kernel::{Direction, Map, filter_program, ifindex, unmount};

pub fn trials() -> Vec<Case> {
    named![
        pins_that_go_under_traffic_are_made_again_and_nothing_is_lost,
        pods_come_back_from_their_records_where_everything_pinned_was_lost,
        a_set_up_that_cannot_be_made_whole_is_told,
    ]
}

fn links(node: &TestNode) -> Vec<String> {
    let entries = std::fs::read_dir(node.path("bpf").join("links")).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn pins_that_go_under_traffic_are_made_again_and_nothing_is_lost() {
    let scene = Scene::new("TCP");
    let before = links(&scene.near);
    let id = |name: &str| skerry_kernel::pinned_map_info(&scene.near.pin("maps", name)).map(|info| info.id);
    let flows = id(map::FLOWS).unwrap();
    let clients = [scene.in_pod("dial"), scene.on_node("dial"), scene.outside("dial"), scene.outside("keep")];
    unmount(&scene.near.path("bpf")).unwrap();
    assert!(links(&scene.near).is_empty());
    eventually("all pins", || {
        let are_there = MAPS.iter().all(|spec| scene.near.pin("maps", spec.name).exists());
        (are_there && links(&scene.near) == before).then_some(())
    });
    assert_eq!(id(map::FLOWS).unwrap(), flows, "the very same maps");
    for client in clients {
        let tally = client.for_a_moment();
        assert!(tally.lost.is_empty() && tally.total() > 0, "{tally:?}");
    }
}

/// What the maps hold of pods: who is where, and who may speak on which device.
type PodEntries = (Vec<(Addr, Endpoint)>, Vec<(u32, PodLink)>);

fn pod_entries(node: &TestNode) -> PodEntries {
    let endpoints = Map::<Addr, Endpoint>::open(&node.pin("maps", map::ENDPOINTS)).unwrap();
    let mut endpoints = endpoints.entries().unwrap();
    endpoints.retain(|(_, endpoint)| endpoint.flags & endpoint_flag::POD != 0);
    (endpoints, Map::<u32, PodLink>::open(&node.pin("maps", map::LINKS)).unwrap().entries().unwrap())
}

fn pods_come_back_from_their_records_where_everything_pinned_was_lost() {
    let (underlay, api) = (Underlay::new(), crate::support::Api::new());
    let node = underlay.node("lost", 1);
    crate::node::ready(&node, &api).stop().unwrap();
    let pod = node.pod(5);
    let before = pod_entries(&node);
    let (ifindex_of_pod, link) = before.1[0];
    node.record("a", &pod.device, pod.ip, link.mac, ifindex_of_pod);
    // One that names the pod's address and is not its owner, one whose device is gone, and what is no record.
    node.record("b", &pod.device, pod.ip, [2, 0, 0, 0, 0, 9], ifindex_of_pod + 1000);
    node.record("c", "sk0123456789", Ipv4Addr::new(10, 244, 1, 77), [2, 0, 0, 0, 0, 7], 9999);
    let attachments = node.records().join("attachments");
    std::fs::write(attachments.join("d@eth0"), "{\"cont").unwrap();
    let old = filter(&node, &pod.device).unwrap();

    unmount(&node.path("bpf")).unwrap();
    let config =
        proxy_agent::Config { verify_interval: std::time::Duration::from_millis(100), ..node.config() };
    let mut agent = Agent::start(&node, config);
    agent.wait_ready();
    assert_eq!(pod_entries(&node), before);
    assert_ne!(filter(&node, &pod.device), Some(old), "the pod's program reads the new maps");

    // And while it runs, whoever takes them.
    Map::<u32, PodLink>::open(&node.pin("maps", map::LINKS)).unwrap().delete(&ifindex_of_pod).unwrap();
    Map::<Addr, Endpoint>::open(&node.pin("maps", map::ENDPOINTS)).unwrap().delete(&pod.ip.into()).unwrap();
    eventually("the pod's entries", || (pod_entries(&node) == before).then_some(()));
    // A call is at work on it: its own affair.
    let held = std::fs::File::open(attachments.join("a@eth0")).unwrap();
    held.lock().unwrap();
    Map::<u32, PodLink>::open(&node.pin("maps", map::LINKS)).unwrap().delete(&ifindex_of_pod).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(pod_entries(&node).1.is_empty());
    drop(held);
    eventually("then it is", || (pod_entries(&node) == before).then_some(()));
    agent.stop().unwrap();
}

fn filter(node: &TestNode, device: &str) -> Option<u32> {
    node.netns.run(|| filter_program(ifindex(device).unwrap(), Direction::Ingress).unwrap()).unwrap()
}

/// A node whose way out is gone: not ready, and unhealthy, until it is there again.
fn a_set_up_that_cannot_be_made_whole_is_told() {
    let (underlay, api) = (Underlay::new(), crate::support::Api::new());
    let node = underlay.node("broken", 1);
    api.node(&node.name, &node.ip().to_string(), &node.pod_cidr());
    api.listen_in(&node.netns, &node.kubeconfig());
    let config = proxy_agent::Config { node_ips: vec![node.ip().into()], ..node.config() };
    let mut agent = Agent::start(&node, config);
    agent.wait_ready();
    let ask = |path: &str| {
        let tools = std::net::SocketAddr::from(([127, 0, 0, 1], 10249));
        node.netns.run(|| crate::node::get(tools, path).unwrap()).unwrap()
    };
    assert!(ask("/healthz").starts_with("HTTP/1.1 200"));
    node.netns.ip("addr del 172.31.0.1/24 dev eth0").unwrap();
    agent.wait("broken", |progress| progress.is_broken && !progress.is_ready);
    assert!(ask("/healthz").starts_with("HTTP/1.1 503") && ask("/livez").starts_with("HTTP/1.1 200"));
    node.netns.ip("addr add 172.31.0.1/24 dev eth0").unwrap();
    agent.wait("whole again", |progress| !progress.is_broken && progress.is_ready);
    assert!(ask("/healthz").starts_with("HTTP/1.1 200"));
    agent.stop().unwrap();
}
