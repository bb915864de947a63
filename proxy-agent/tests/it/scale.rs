//! The agent as the largest clusters have it: 10,000 Services, 5,000 Nodes, 1,000 changes a second, 100,000
//! endpoints in one Service. Figures are printed; what is asserted is that nothing is lost, and that nothing
//! is grossly wrong.

use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use crate::support::{Api, Case, TestNode, Underlay, eventually, roles::Role, trial};
use proxy_abi::{Be16, Frontend, FrontendKey, PodCidr, PodCidrKey, Slot, map};
use serde_json::{Value, json};
use skerry_kernel::Map;

pub fn trials() -> Vec<Case> {
    vec![
        trial("a_thousand_changes_a_second_are_all_in_the_maps_of_ten_thousand_services", storm),
        trial("one_service_has_a_hundred_thousand_endpoints", huge),
    ]
}

const SERVICES: u32 = 10_000;
const NODES: u32 = 5_000;
const PORT: u16 = 8080;

fn cluster_ip(n: u32) -> Ipv4Addr {
    (u32::from(Ipv4Addr::new(10, 96, 4, 0)) + n).into()
}

fn slice(service: &str, number: u32, endpoints: &[Ipv4Addr]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|ip| json!({"addresses": [ip], "nodeName": "elsewhere", "conditions": {"ready": true, "serving": true}}))
        .collect();
    json!({"metadata": {"name": format!("{service}-{number}"), "namespace": "default",
                        "labels": {"kubernetes.io/service-name": service}},
           "addressType": "IPv4", "ports": [{"name": "", "port": PORT, "protocol": "TCP"}], "endpoints": endpoints})
}

/// The agent of the one node, with the maps of a real one.
struct Subject<'a> {
    node: &'a TestNode,
    agent: Role,
    frontends: Map<FrontendKey, Frontend>,
    slots: Map<u32, Slot>,
}

impl<'a> Subject<'a> {
    fn start(node: &'a TestNode) -> Subject<'a> {
        let started = Instant::now();
        let agent = Role::agent("big agent", node);
        let frontends = Map::open(&node.pin("maps", map::FRONTENDS)).unwrap();
        let subject =
            Subject { node, agent, frontends, slots: Map::open(&node.pin("maps", map::SLOTS)).unwrap() };
        println!(
            "start to first sync {:?}, {:?} of CPU; {}",
            started.elapsed(),
            subject.cpu(),
            subject.memory()
        );
        subject
    }

    /// User and system time of the process.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.agent.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        // USER_HZ is 100 on everything that Linux runs on.
        Duration::from_millis(ticks * 10)
    }

    fn memory(&self) -> String {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.agent.pid())).unwrap();
        let kib = |name: &str| -> u64 {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        format!("PSS {} MiB, {} anonymous", kib("Pss:") >> 10, kib("Pss_Anon:") >> 10)
    }

    fn frontend(&self, ip: Ipv4Addr) -> Option<Frontend> {
        let key = FrontendKey { addr: ip.into(), port: Be16::new(80), proto: 6, kind: 0 };
        self.frontends.lookup(&key).unwrap()
    }

    /// The backends of all services by ClusterIP: the whole maps are read, each slot is checked as a reader
    /// would. `None`: they changed meanwhile.
    fn backends(&self) -> Option<HashMap<Ipv4Addr, BTreeSet<Ipv4Addr>>> {
        let v4 = |addr: proxy_abi::Addr| match addr.to_ip() {
            std::net::IpAddr::V4(ip) => ip,
            other => panic!("{other}"),
        };
        let frontends = self.frontends.entries().unwrap();
        let slots: HashMap<u32, Slot> = self.slots.entries().unwrap().into_iter().collect();
        let mut found = HashMap::new();
        for (key, frontend) in frontends.into_iter().filter(|(key, _)| key.port.get() != 0) {
            let run = (frontend.inside.first..frontend.inside.end()).map(|index| {
                let slot = slots[&index];
                let is_its_own =
                    (slot.service_id, slot.generation) == (frontend.service_id, frontend.generation);
                is_its_own.then(|| v4(slot.addr))
            });
            found.insert(v4(key.addr), run.collect::<Option<_>>()?);
        }
        Some(found)
    }
}

/// Seconds of the storm: a minute where somebody wants to know.
fn storm_seconds() -> u32 {
    std::env::var("SKERRY_STORM_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

fn storm() {
    crate::support::log();
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("storm", 1);
    api.node(&node.name, &node.ip().to_string(), &node.pod_cidr());
    for n in 0..NODES {
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 20, 0, 1)) + n);
        let cidr = Ipv4Addr::from(u32::from(Ipv4Addr::new(11, 0, 0, 0)) + (n << 8));
        api.node(&format!("node-{n}"), &ip.to_string(), &format!("{cidr}/24"));
    }
    // Ten endpoints each, of which a change replaces one.
    let mut endpoints: Vec<Vec<Ipv4Addr>> = (0..SERVICES)
        .map(|n| {
            (0..10).map(|i| Ipv4Addr::from(u32::from(Ipv4Addr::new(11, 0, 0, 0)) + n * 16 + i)).collect()
        })
        .collect();
    for (n, list) in (0..).zip(&endpoints) {
        api.service(&format!("s{n}"), &cluster_ip(n).to_string(), "TCP", 80, 0);
        api.apply("endpointslices", slice(&format!("s{n}"), 1, list));
    }
    api.service("web", "10.96.0.10", "TCP", 80, 0);
    api.endpoints("web", "TCP", PORT, &[("10.244.1.5", "storm")]);
    api.listen_in(&node.netns, &node.kubeconfig());
    let subject = Subject::start(&node);
    let (pod, client) = (node.pod(5), node.pod(9));
    let server = Role::start("serve", &["here", &PORT.to_string()], |line| pod.command(&node, line));
    let dialling = Role::start("dial", &["10.96.0.10:80"], |line| client.command(&node, line));

    let (started, cpu_before) = (Instant::now(), subject.cpu());
    let changes = storm_seconds() * 1000;
    let mut late = Duration::ZERO;
    for change in 0..changes {
        // Spread over all of them, and over and over the same.
        let n = (change.wrapping_mul(2_654_435_761) >> 7) % SERVICES;
        let fresh = Ipv4Addr::from(u32::from(Ipv4Addr::new(12, 0, 0, 0)) + change);
        let list = &mut endpoints[n as usize];
        list[change as usize % 10] = fresh;
        api.apply("endpointslices", slice(&format!("s{n}"), 1, list));
        let due = started + Duration::from_millis(u64::from(change));
        match due.checked_duration_since(Instant::now()) {
            Some(early) => std::thread::sleep(early),
            None => late = late.max(due.elapsed()),
        }
    }
    let told = started.elapsed();
    let wanted: HashMap<Ipv4Addr, BTreeSet<Ipv4Addr>> = (0..)
        .zip(&endpoints)
        .map(|(n, list)| (cluster_ip(n), list.iter().copied().collect()))
        .chain([("10.96.0.10".parse().unwrap(), BTreeSet::from(["10.244.1.5".parse().unwrap()]))])
        .collect();
    eventually("every change is in the maps", || {
        let last = (changes - 1).wrapping_mul(2_654_435_761) >> 7;
        let (last_ip, list) = (cluster_ip(last % SERVICES), &endpoints[(last % SERVICES) as usize]);
        let frontend = subject.frontend(last_ip)?;
        let first = subject.slots.lookup(&frontend.inside.first).unwrap()?;
        let is_known = list.iter().any(|ip| first.addr == (*ip).into());
        (is_known && subject.backends()? == wanted).then_some(())
    });
    let settled = started.elapsed() - told;
    let spent = subject.cpu() - cpu_before;
    println!(
        "{changes} changes in {told:?} (at most {late:?} late), all in the maps {settled:?} later; {spent:?} of CPU, {:?} a \
         change; {}",
        spent / changes,
        subject.memory()
    );
    let tally = dialling.tally();
    println!("meanwhile {} connections, {:?} lost", tally.total(), tally.lost);
    assert!(tally.lost.is_empty() && tally.total() > 100, "{tally:?}");
    let cidrs = Map::<PodCidrKey, PodCidr>::open(&subject.node.pin("maps", map::POD_CIDRS)).unwrap();
    assert_eq!(cidrs.entries().unwrap().len(), NODES as usize + 1);
    assert!(spent / changes < Duration::from_millis(1), "{:?} a change", spent / changes);
    drop((server, subject));
}

fn huge() {
    const ENDPOINTS: u32 = 100_000;
    crate::support::log();
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("huge", 1);
    api.node(&node.name, &node.ip().to_string(), &node.pod_cidr());
    api.service("huge", &cluster_ip(0).to_string(), "TCP", 80, 0);
    let mut all: Vec<Ipv4Addr> =
        (0..ENDPOINTS).map(|n| Ipv4Addr::from(u32::from(Ipv4Addr::new(11, 0, 0, 0)) + n)).collect();
    let tell = |all: &[Ipv4Addr], number: usize| {
        let list = &all[number * 100..(number + 1) * 100];
        api.apply("endpointslices", slice("huge", number as u32, list));
    };
    (0..1000).for_each(|number| tell(&all, number));
    api.listen_in(&node.netns, &node.kubeconfig());
    let subject = Subject::start(&node);
    assert_eq!(subject.frontend(cluster_ip(0)).unwrap().inside.count, ENDPOINTS);
    let cpu_before = subject.cpu();
    let mut latencies = Vec::new();
    for change in 0..20_u32 {
        let index = change as usize * 4999;
        let fresh = Ipv4Addr::from(u32::from(Ipv4Addr::new(12, 0, 0, 0)) + change);
        all[index] = fresh;
        let before = subject.frontend(cluster_ip(0)).unwrap().generation;
        let changed = Instant::now();
        tell(&all, index / 100);
        eventually("the change", || {
            (subject.frontend(cluster_ip(0)).unwrap().generation != before).then_some(())
        });
        latencies.push(changed.elapsed());
    }
    latencies.sort();
    println!(
        "one of {ENDPOINTS} endpoints changed: {:?} to the maps (median, at most {:?}), {:?} of CPU; {}",
        latencies[latencies.len() / 2],
        latencies[latencies.len() - 1],
        (subject.cpu() - cpu_before) / 20,
        subject.memory()
    );
    let (started, cpu_before) = (Instant::now(), subject.cpu());
    for change in 0..5_000_u32 {
        let index = (change.wrapping_mul(2_654_435_761) % ENDPOINTS) as usize;
        all[index] = Ipv4Addr::from(u32::from(Ipv4Addr::new(13, 0, 0, 0)) + change);
        tell(&all, index / 100);
        if let Some(early) =
            (started + Duration::from_millis(u64::from(change))).checked_duration_since(Instant::now())
        {
            std::thread::sleep(early);
        }
    }
    let told = started.elapsed();
    let wanted: BTreeSet<Ipv4Addr> = all.iter().copied().collect();
    eventually("all of them", || (subject.backends()?[&cluster_ip(0)] == wanted).then_some(()));
    println!(
        "5,000 changes in {told:?}, all in the maps {:?} later, {:?} of CPU; {}",
        started.elapsed() - told,
        subject.cpu() - cpu_before,
        subject.memory()
    );
}
