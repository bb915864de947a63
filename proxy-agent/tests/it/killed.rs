//! The agent is killed after each of its bpf(2) calls, one start after the other: maps, links and programs
//! half-way in every place. What it left must serve, and the next one must make it whole.

use std::{collections::BTreeSet, net::Ipv4Addr};

use crate::support::{Case, TestNode, eventually, roles::Role, scene::Scene, trial, witness::Witness};
use proxy_abi::{Be16, Frontend, FrontendKey, Member, Slot, SourceRangeKey, map};
use serde_json::json;
use skerry_kernel::Map;

pub fn trials() -> Vec<Case> {
    let name = "killed_after_any_map_operation_the_node_serves_and_the_next_agent_makes_it_whole";
    vec![trial(name, killed_everywhere)]
}

/// Every how many calls: 1 where somebody has the time.
fn stride() -> usize {
    std::env::var("SKERRY_KILL_STRIDE").ok().and_then(|text| text.parse().ok()).unwrap_or(9)
}

const OTHER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);

fn killed_everywhere() {
    let mut scene = Scene::new("TCP");
    scene.agents.remove(0).stop().unwrap();
    let load = [
        ("new, ClusterIP from a pod", scene.in_pod("dial")),
        ("new, ClusterIP from the node", scene.on_node("dial")),
        ("new, NodePort from outside", scene.outside("dial")),
        ("kept, ClusterIP from a pod", scene.in_pod("keep")),
        ("kept, NodePort from outside", scene.outside("keep")),
    ];
    let look = || Witness::of(&scene.near, &[("client", &scene.underlay.client)]);
    let counters_before = look();
    let (mut kills, mut at) = (0, 1);
    loop {
        // Something to do for every start: another run, members, source ranges, frontends, pod CIDRs.
        change(&scene, at);
        let strace =
            format!("strace -f -qq -o /dev/null -e trace=bpf -e inject=bpf:signal=SIGKILL:when={at}");
        let agent = start(&scene.near, &strace);
        let survived = agent.is_some_and(|agent| {
            for more in 1..=4 {
                change(&scene, at + more);
            }
            agent.ends_well()
        });
        assert_whole(&scene.near, at);
        if survived {
            break;
        }
        kills += 1;
        at += stride();
    }
    assert!(kills * stride() > 100, "only {kills} kills");
    change(&scene, 1);
    let agent = start(&scene.near, "").unwrap();
    eventually("the maps are as they should be", || as_wanted(&scene.near).then_some(()));
    println!("{kills} kills, after each of the first {at} calls by steps of {}", stride());
    drop(agent);
    let tallies = load.map(|(what, role)| (what, role.tally()));
    for (what, tally) in &tallies {
        println!("{what}: {} answers, {:?} lost", tally.total(), tally.lost);
    }
    if !tallies.iter().all(|(_, tally)| tally.lost.is_empty() && tally.total() > 100) {
        look().report(&counters_before, &scene.near);
        panic!("connections were lost: {tallies:?}");
    }
}

fn start(node: &TestNode, before: &str) -> Option<Role> {
    let (dir, cgroup) = (node.dir().display().to_string(), node.cgroup.dir().display().to_string());
    Role::try_start("agent", &[&node.name, &dir, &cgroup], |line| node.command(&format!("{before} {line}")))
}

/// The service with affinity and source ranges as it is in this step, and a node that comes and goes.
fn change(scene: &Scene, step: usize) {
    let last = step % 200 + 1;
    scene.api.node("third", "172.31.0.77", &format!("10.245.{last}.0/24"));
    if step % 5 == 4 {
        scene.api.delete("services", "default/other");
        return;
    }
    scene.api.apply(
        "services",
        json!({"metadata": {"name": "other", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"},
               "spec": {"type": "LoadBalancer", "clusterIP": OTHER_IP, "sessionAffinity": "ClientIP",
                        "loadBalancerSourceRanges": [format!("198.51.{last}.0/24")],
                        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 31000 + step % 3}]},
               "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.20"}]}}}),
    );
    let endpoints = [format!("10.0.0.{last}"), "10.0.1.1".to_owned()];
    let endpoints: Vec<(&str, &str)> = endpoints.iter().map(|ip| (ip.as_str(), "elsewhere")).collect();
    scene.api.endpoints("other", "TCP", 8080, &endpoints);
}

struct Maps {
    frontends: Vec<(FrontendKey, Frontend)>,
    slots: Vec<(u32, Slot)>,
    members: BTreeSet<Ipv4Addr>,
    ranges: Vec<SourceRangeKey>,
}

fn read(node: &TestNode) -> Maps {
    let v4 = |addr: proxy_abi::Addr| match addr.to_ip() {
        std::net::IpAddr::V4(ip) => ip,
        other => panic!("{other}"),
    };
    let slots: Vec<(u32, Slot)> = Map::open(&node.pin("maps", map::SLOTS)).unwrap().entries().unwrap();
    let members = Map::<Member, u32>::open(&node.pin("maps", map::MEMBERS)).unwrap().entries().unwrap();
    let ranges =
        Map::<SourceRangeKey, u32>::open(&node.pin("maps", map::SOURCE_RANGES)).unwrap().entries().unwrap();
    Maps {
        frontends: Map::open(&node.pin("maps", map::FRONTENDS)).unwrap().entries().unwrap(),
        slots,
        members: members.into_iter().map(|(member, _)| v4(member.addr)).collect(),
        ranges: ranges.into_iter().map(|(range, _)| range).collect(),
    }
}

/// Every reader's check passes; who has affinity finds its backends among the members.
fn assert_whole(node: &TestNode, at: usize) {
    let maps = read(node);
    for (key, frontend) in maps.frontends.iter().filter(|(key, _)| key.port.get() != 0) {
        for (_, slot) in run(&maps, frontend) {
            assert_eq!(
                (slot.service_id, slot.generation),
                (frontend.service_id, frontend.generation),
                "killed after call {at}: {key:?} {frontend:?}"
            );
            let is_member = maps.members.iter().any(|ip| slot.addr == (*ip).into());
            assert!(frontend.affinity_s == 0 || is_member, "killed after call {at}: {slot:?}");
        }
    }
}

fn run<'a>(maps: &'a Maps, frontend: &Frontend) -> &'a [(u32, Slot)] {
    &maps.slots[frontend.inside.first as usize..frontend.inside.end() as usize]
}

/// After the last change: nothing missing, nothing left over.
fn as_wanted(node: &TestNode) -> bool {
    let maps = read(node);
    let key = FrontendKey { addr: OTHER_IP.into(), port: Be16::new(80), proto: 6, kind: 0 };
    let Some((_, frontend)) = maps.frontends.iter().find(|(found, _)| *found == key) else { return false };
    let wanted: BTreeSet<Ipv4Addr> = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 1, 1)].into();
    let backends: Vec<_> = run(&maps, frontend).iter().map(|(_, slot)| slot.addr).collect();
    let used = maps.slots.iter().filter(|(_, slot)| slot.service_id != 0).count();
    backends.len() == 2
        && wanted.iter().all(|ip| backends.contains(&(*ip).into()))
        && maps.members == wanted
        && maps.ranges.len() == 1
        // web: ClusterIP, mark, NodePort; other: two addresses with their marks, NodePort. Two runs of two.
        && (maps.frontends.len(), used) == (8, 4)
}
