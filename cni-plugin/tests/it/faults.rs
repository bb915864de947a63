//! Kills, crowds, tampering, full pools, absent agents. Needs root.

use std::{
    collections::BTreeSet,
    process::Child,
    time::{Duration, Instant},
};

use crate::support::{Answer, Node, address, finish, names, reach, start};
use serde_json::{Value, json};
use skerry_lab::Netns;

#[test]
fn fifty_at_once_get_fifty_addresses() {
    let node = Node::new("crowd");
    let pods: Vec<Netns> = (0..50).map(|i| Netns::unique(&format!("p{i}")).unwrap()).collect();
    let all = |command: &str| -> Vec<Answer> {
        let children: Vec<Child> = pods
            .iter()
            .enumerate()
            .map(|(i, pod)| {
                let input = node.conf.to_string();
                start(&mut node.command(command, &format!("pod{i}"), Some(&pod.path())), input.as_bytes())
            })
            .collect();
        children.into_iter().map(finish).collect()
    };
    let given: BTreeSet<String> = all("ADD").into_iter().map(|a| address(&a.expect_ok("ADD"))).collect();
    assert_eq!(given.len(), 50);
    assert_eq!(node.names("addresses"), given);
    assert_eq!((node.pairs().len(), node.endpoints.entries().unwrap().len()), (50, 50));
    reach(&pods[0], &pods[49], &address_of(&pods[49]));
    for answer in all("DEL") {
        answer.expect_ok("DEL");
    }
    node.expect_nothing_left();
}

fn address_of(pod: &Netns) -> String {
    let text = pod.ip("-o -4 addr show eth0").unwrap();
    text.split_whitespace().find_map(|word| word.strip_suffix("/32")).unwrap().to_owned()
}

/// An ADD takes this long here; kills fall anywhere in it.
fn length_of_an_add(node: &Node) -> Duration {
    let pod = Netns::unique("len").unwrap();
    let begin = Instant::now();
    node.add("length", &pod).expect_ok("ADD");
    let length = begin.elapsed();
    node.del("length", &pod).expect_ok("DEL");
    length
}

#[test]
fn an_add_killed_at_any_point_leaves_nothing_that_del_does_not_find() {
    let node = Node::new("kill");
    let length = length_of_an_add(&node);
    let pod = Netns::unique("pod").unwrap();
    const ROUNDS: u32 = 60;
    let mut finished = 0;
    for round in 0..ROUNDS {
        let id = format!("k{round}");
        let mut child =
            start(&mut node.command("ADD", &id, Some(&pod.path())), node.conf.to_string().as_bytes());
        // Waiting is the point here: the kill comes at a chosen moment.
        std::thread::sleep(length * round / ROUNDS);
        child.kill().unwrap();
        finished += u32::from(child.wait().unwrap().success());
        node.del(&id, &pod).expect_ok("DEL after a kill");
        node.expect_nothing_left();
    }
    assert!(finished < ROUNDS, "some were killed");
    node.add("after", &pod).expect_ok("ADD after all that");
}

#[test]
fn adds_killed_and_never_deleted_are_collected_by_gc() {
    let mut node = Node::new("killgc");
    let length = length_of_an_add(&node);
    for round in 0..12 {
        let pod = Netns::unique(&format!("g{round}")).unwrap();
        let id = format!("g{round}");
        let mut child =
            start(&mut node.command("ADD", &id, Some(&pod.path())), node.conf.to_string().as_bytes());
        std::thread::sleep(length * round / 12);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let keep = Netns::unique("keep").unwrap();
    node.add("keep", &keep).expect_ok("ADD");
    node.conf["cniVersion"] = json!("1.1.0");
    let valid = json!({"cni.dev/valid-attachments": [{"containerID": "keep", "ifname": "eth0"}]});
    node.call_with("GC", "", None, &node.with(valid)).expect_ok("GC");
    assert_eq!(node.names("attachments"), BTreeSet::from(["keep@eth0".to_owned()]));
    assert_eq!((node.names("addresses").len(), node.pairs().len()), (1, 1));
    assert_eq!(node.endpoints.entries().unwrap().len(), 1);
    assert_eq!(names(&node.pins().join("links")).len(), 2);
    node.call_with("GC", "", None, &node.conf).expect_ok("GC without a list touches nothing");
    assert_eq!(node.names("attachments").len(), 1);
    let other = node.with(json!({"name": "other", "cni.dev/valid-attachments": []}));
    node.call_with("GC", "", None, &other).expect_ok("GC of another network");
    assert_eq!(node.names("attachments").len(), 1);
}

#[test]
fn a_full_pool_says_so_and_makes_room_from_the_dead() {
    let mut node = Node::new("full");
    node.conf = node.with(json!({"ranges": ["10.9.0.0/29"], "cniVersion": "1.1.0"}));
    let pods: Vec<Netns> = (0..6).map(|i| Netns::unique(&format!("f{i}")).unwrap()).collect();
    for (i, pod) in pods.iter().take(5).enumerate() {
        node.add(&format!("f{i}"), pod).expect_ok("ADD");
    }
    let (code, details) = node.add("f5", &pods[5]).expect_error("ADD to a full pool");
    assert_eq!(code, 100);
    assert!(details.contains("no free IPv4 address in 10.9.0.0/29 (5 in all)"), "{details}");
    let (code, details) = node.call("STATUS", "", None).expect_error("STATUS of a full pool");
    assert_eq!(code, 50);
    assert!(details.contains("no free IPv4 address"), "{details}");
    assert_eq!(node.names("attachments").len(), 5, "the failed one left nothing");

    // A pod whose runtime forgot it: its namespace goes, and the device with it.
    let mut pods = pods;
    drop(pods.remove(2));
    let deadline = Instant::now() + Duration::from_secs(10);
    while node.pairs().len() > 4 {
        assert!(Instant::now() < deadline, "the pair does not go");
        std::thread::yield_now();
    }
    let result = node.add("f5", pods.last().unwrap()).expect_ok("ADD");
    assert_eq!(address(&result), "10.9.0.4");
    node.call("STATUS", "", None).expect_error("full again");
    node.del("f5", pods.last().unwrap()).expect_ok("DEL");
    node.call("STATUS", "", None).expect_ok("STATUS");
}

#[test]
fn del_works_whatever_is_gone() {
    let node = Node::new("del");
    node.call("DEL", "never", None).expect_ok("DEL of what was never added, without a namespace");
    let pod = Netns::unique("pod").unwrap();
    node.add("c", &pod).expect_ok("ADD");
    node.call("DEL", "c", None).expect_ok("DEL without a namespace");
    node.expect_nothing_left();
    node.call("DEL", "c", None).expect_ok("DEL again");

    node.add("d", &pod).expect_ok("ADD");
    let path = pod.path();
    drop(pod);
    node.call("DEL", "d", Some(&path)).expect_ok("DEL with a namespace that is gone");
    node.expect_nothing_left();

    let pod = Netns::unique("pod").unwrap();
    node.add("e", &pod).expect_ok("ADD");
    for map in ["CONFIG", "ENDPOINTS", "LINKS"] {
        std::fs::remove_file(node.pins().join("maps").join(map)).unwrap();
    }
    let bad = node.with(json!({"ranges": 7, "mtu": "x", "prevResult": {}}));
    node.call_with("DEL", "e", Some(&pod.path()), &bad)
        .expect_ok("DEL without maps, with a spoilt configuration");
    assert!(node.pairs().is_empty() && node.names("addresses").is_empty());

    let node = Node::new("del2");
    node.add("f", &pod).expect_ok("ADD");
    std::fs::remove_dir_all(node.state()).unwrap();
    node.del("f", &pod).expect_ok("DEL after the state was lost");
    assert!(node.pairs().is_empty());
    assert!(names(&node.pins().join("links")).is_empty());
}

#[test]
fn a_late_del_leaves_the_new_owner_alone() {
    let mut node = Node::new("stale");
    node.conf = node.with(json!({"ranges": ["10.9.0.0/30"]}));
    let (old, new) = (Netns::unique("old").unwrap(), Netns::unique("new").unwrap());
    assert_eq!(address(&node.add("old", &old).expect_ok("ADD")), "10.9.0.2");
    node.del("old", &old).expect_ok("DEL");
    assert_eq!(address(&node.add("new", &new).expect_ok("ADD")), "10.9.0.2");
    node.del("old", &old).expect_ok("the old one's second DEL");
    node.call("DEL", "old", None).expect_ok("and its third");
    reach(&node.netns, &new, "10.9.0.2");
    assert_eq!(node.endpoints.entries().unwrap().len(), 1);
    assert_eq!(node.names("addresses").len(), 1);
}

#[test]
fn what_stands_in_the_way_is_named_and_left_alone() {
    let node = Node::new("way");
    let pod = Netns::unique("pod").unwrap();
    let first = node.add("c", &pod).expect_ok("ADD");
    let (code, details) = node.add("c", &pod).expect_error("ADD twice");
    assert_eq!(code, 105);
    assert!(details.contains("DEL it first"), "{details}");
    let (code, details) = node.add("d", &pod).expect_error("ADD of another container to the same namespace");
    assert_eq!(code, 105);
    assert!(details.contains("the pod has a device eth0 already"), "{details}");
    assert_eq!(node.names("attachments").len(), 1, "the second left nothing");
    reach(&node.netns, &pod, &address(&first));

    let own = node.netns.path();
    let (code, details) = node.call("ADD", "e", Some(&own)).expect_error("ADD to the node's own namespace");
    assert_eq!(code, 8);
    assert!(details.contains("the node's own"), "{details}");
    let absent = std::path::Path::new("/run/netns/skt-absent");
    assert_eq!(node.call("ADD", "e", Some(absent)).expect_error("no namespace").0, 8);
    let file = std::path::Path::new("/etc/hostname");
    let (_, details) = node.call("ADD", "e", Some(file)).expect_error("no namespace but a file");
    assert!(
        details.contains("enter network namespace") || details.contains("make the veth pair"),
        "{details}"
    );
    assert_eq!((node.names("attachments").len(), node.pairs().len()), (1, 1));
}

#[test]
fn without_the_agents_tables_the_runtime_is_told_to_try_again() {
    let mut node = Node::new("noagent");
    node.conf["cniVersion"] = json!("1.1.0");
    let pod = Netns::unique("pod").unwrap();
    for (abi, part) in [(0, "still starting"), (999, "install the skerry-cni that belongs to the agent")] {
        node.set_abi(abi);
        let (code, details) = node.add("c", &pod).expect_error("ADD with another ABI");
        assert_eq!(code, 11);
        assert!(details.contains(part), "{details}");
        assert_eq!(node.call("STATUS", "", None).expect_error("STATUS").0, 50);
    }
    for root in ["/run/skt-no-such-folder".into(), node.pins().join("elsewhere"), "/run".into()] {
        let conf = node.with(json!({"pinRoot": root}));
        let (code, details) = node.call_with("ADD", "c", Some(&pod.path()), &conf).expect_error("ADD");
        assert_eq!(code, 11, "{details}");
        assert!(details.contains("maps/CONFIG is not there: the Skerry agent has not started"), "{details}");
    }
    assert!(!node.state().exists(), "nothing was begun");
}

#[test]
fn a_reboot_forgets_everything() {
    let node = Node::new("boot");
    let (before, after) = (Netns::unique("before").unwrap(), Netns::unique("after").unwrap());
    node.add("c", &before).expect_ok("ADD");
    let old = node.state();
    // What a reboot does: devices go, the pins go, the folder may stay.
    drop(before);
    let boot_id = old.parent().unwrap().parent().unwrap().join("boot_id");
    std::fs::write(boot_id, "99999999-1111-2222-3333-444444444444\n").unwrap();
    node.call("DEL", "c", None).expect_ok("DEL of a container of the last boot");
    assert_eq!(address(&node.add("c", &after).expect_ok("ADD")), "10.9.0.2");
    assert!(!old.exists());
}

#[test]
fn a_full_table_fails_the_add_and_leaves_nothing() {
    let node = Node::new("tables");
    let pod = Netns::unique("pod").unwrap();
    let key = |n: u32| proxy_abi::Addr::from_v4(n.to_be_bytes());
    let keys: Vec<_> = (0..node.endpoints.info().max_entries).map(key).collect();
    node.endpoints.update_batch(&keys, &vec![Default::default(); keys.len()]).unwrap();
    let (code, details) = node.add("c", &pod).expect_error("ADD with a full ENDPOINTS");
    assert_eq!(code, 103);
    assert!(details.contains("maps/ENDPOINTS"), "{details}");
    node.endpoints.delete_batch(&keys).unwrap();
    node.expect_nothing_left();
    node.add("c", &pod).expect_ok("ADD once there is room");
}

#[test]
fn check_notices_what_was_tampered_with() {
    let node = Node::new("check");
    let pod = Netns::unique("pod").unwrap();
    let result = node.add("c", &pod).expect_ok("ADD");
    let conf = node.with(json!({"prevResult": result}));
    let check = || node.call_with("CHECK", "c", Some(&pod.path()), &conf);
    check().expect_ok("CHECK right after ADD");
    let host = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let tamper = |what: &str, expected: &str| {
        let (code, details) = check().expect_error(what);
        assert_eq!(code, 104, "{what}");
        assert!(details.contains(expected), "{what}: {details}");
    };

    pod.ip("route add 192.0.2.0/24 dev eth0").unwrap();
    check().expect_ok("another plugin's route does not matter");
    pod.ip("route del default").unwrap();
    tamper("no default route", "no default route to 169.254.1.1");
    pod.ip("route add default via 169.254.1.1 dev eth0 onlink").unwrap();

    pod.ip("addr del 10.9.0.2/32 dev eth0").unwrap();
    tamper("no address", "lost the address 10.9.0.2");
    pod.ip("addr add 10.9.0.2/32 dev eth0").unwrap();
    // It went with the last address.
    pod.ip("route add default via 169.254.1.1 dev eth0 onlink").unwrap();

    node.netns.ip(&format!("route del 10.9.0.2 dev {host}")).unwrap();
    tamper("no route on the node", "no route for 10.9.0.2");
    node.netns.ip(&format!("route add 10.9.0.2 dev {host} src 10.9.0.1")).unwrap();
    check().expect_ok("all put back");

    let entries = node.endpoints.entries().unwrap();
    node.endpoints.delete(&entries[0].0).unwrap();
    tamper("no endpoint", "ENDPOINTS does not lead 10.9.0.2");
    node.endpoints.update(&entries[0].0, &entries[0].1, skerry_kernel::Update::Any).unwrap();

    let links = node.links.entries().unwrap();
    node.links.delete(&links[0].0).unwrap();
    tamper("no link", "LINKS does not say who may speak");
    node.links.update(&links[0].0, &links[0].1, skerry_kernel::Update::Any).unwrap();

    let pin = node.pins().join(format!("links/from_pod-{host}"));
    skerry_kernel::Link::open(&pin).unwrap().detach().unwrap();
    tamper("detached", "program from_pod is not attached");

    let other = node.with(json!({"prevResult": {"ips": [{"address": "10.9.0.9/32"}], "interfaces": []}}));
    let (_, details) = node.call_with("CHECK", "c", Some(&pod.path()), &other).expect_error("another result");
    assert!(details.contains("prevResult does not hold the address 10.9.0.2"), "{details}");

    node.netns.ip(&format!("link del {host}")).unwrap();
    tamper("no device", "eth0 is not in the pod");
    assert_eq!(node.call_with("CHECK", "x", Some(&pod.path()), &conf).expect_error("unknown").0, 3);
    assert_eq!(node.call("CHECK", "c", Some(&pod.path())).expect_error("no prevResult").0, 7);
    node.del("c", &pod).expect_ok("DEL");
    node.expect_nothing_left();
}

#[test]
fn every_version_is_answered_in_its_own_layout() {
    let node = Node::new("versions");
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let pod = Netns::unique("pod").unwrap();
        let id = version.replace('.', "-");
        let conf = node.with(json!({"cniVersion": version}));
        let result = node.call_with("ADD", &id, Some(&pod.path()), &conf).expect_ok(version);
        assert_eq!(result["cniVersion"], version);
        let legacy = version.starts_with('0');
        assert_eq!(result["ips"][0].get("version"), legacy.then(|| json!("4")).as_ref(), "{version}");
        assert_eq!(result["interfaces"][1].get("mtu").is_some(), version == "1.1.0", "{version}");
        let mut checked = conf.clone();
        checked["prevResult"] = result;
        let check = node.call_with("CHECK", &id, Some(&pod.path()), &checked);
        assert_eq!(check.ok, version >= "0.4.0", "{version}: {}", check.text);
        let del = node.call_with("DEL", &id, Some(&pod.path()), &checked);
        assert_eq!(del.expect_ok(version), Value::Null);
        let info = node.call_with("VERSION", "", None, &json!({"cniVersion": version})).expect_ok("VERSION");
        assert_eq!(info["cniVersion"], version);
        assert_eq!(info["supportedVersions"].as_array().unwrap().len(), 5);
    }
    node.expect_nothing_left();
    let pod = Netns::unique("pod").unwrap();
    for (version, code) in [("0.2.0", 1), ("2.0.0", 1), ("x", 6), ("", 1)] {
        let conf = node.with(json!({"cniVersion": version}));
        assert_eq!(
            node.call_with("ADD", "c", Some(&pod.path()), &conf).expect_error(version).0,
            code,
            "{version}"
        );
    }
}

#[test]
fn nonsense_is_answered_with_an_error_object() {
    let node = Node::new("nonsense");
    let pod = Netns::unique("pod").unwrap();
    let run = |command: &mut std::process::Command, input: &[u8]| finish(start(command, input));
    for (input, code) in [
        (b"".to_vec(), 6),
        (b"{".to_vec(), 6),
        (b"\xff\xfe".to_vec(), 6),
        (b"[]".to_vec(), 6),
        (vec![b'['; 100_000], 6),
        (vec![b' '; 10 << 20], 7),
    ] {
        let mut command = node.command("ADD", "c", Some(&pod.path()));
        assert_eq!(run(&mut command, &input).expect_error("garbage").0, code, "{} bytes", input.len());
    }
    let mut unset = node.command("ADD", "c", Some(&pod.path()));
    unset.env_remove("CNI_COMMAND");
    let (code, details) = run(&mut unset, b"{}").expect_error("started by hand");
    assert!(code == 4 && details.contains("started by container runtimes"), "{details}");
    let mut odd = node.command("EXPLODE", "c", Some(&pod.path()));
    assert_eq!(run(&mut odd, b"{}").expect_error("unknown command").0, 4);
    for (changes, field) in [
        (json!({"ranges": []}), "ranges"),
        (json!({"ranges": ["10.9.0.1/24"]}), "10.9.0.0/24"),
        (json!({"mtu": -1}), "mtu"),
        (json!({"name": ""}), "name"),
        (json!({"stateDir": "x"}), "stateDir"),
    ] {
        let (code, details) =
            node.call_with("ADD", "c", Some(&pod.path()), &node.with(changes)).expect_error(field);
        assert!(code == 7 && details.contains(field), "{field}: {details}");
    }
    assert!(node.pairs().is_empty() && !node.state().exists());
}

/// The folder of addresses is gone while pods run, and then their entries in the tables, too: the kernel
/// still knows them.
#[test]
fn a_lost_state_gives_no_address_that_a_pod_has() {
    let node = Node::new("ipam");
    let pods: Vec<Netns> = (0..4).map(|i| Netns::unique(&format!("p{i}")).unwrap()).collect();
    let mut given: BTreeSet<String> = BTreeSet::new();
    for (i, pod) in pods.iter().enumerate() {
        given.insert(address(&node.add(&format!("pod{i}"), pod).expect_ok("ADD")));
        assert_eq!(given.len(), i + 1, "{given:?}");
        match i {
            0 | 1 => std::fs::remove_dir_all(node.state()).unwrap(),
            _ => {
                std::fs::remove_dir_all(node.state()).unwrap();
                for (addr, _) in node.endpoints.entries().unwrap() {
                    node.endpoints.delete(&addr).unwrap();
                }
            }
        }
    }
    reach(&pods[0], &pods[1], &address_of(&pods[1]));
    for (i, pod) in pods.iter().enumerate() {
        node.del(&format!("pod{i}"), pod).expect_ok("DEL");
    }
    assert!(node.endpoints.entries().unwrap().is_empty() && node.links.entries().unwrap().is_empty());
    assert!(node.pairs().is_empty());
    // Freed, they are given again.
    let again = Netns::unique("again").unwrap();
    assert!(given.contains(&address(&node.add("again", &again).expect_ok("ADD"))));
}
