//! What a pod and its node get, and that packets pass. Needs root.

use std::net::IpAddr;

use crate::support::{Node, address, reach};
use proxy_abi::{Addr, endpoint_flag};
use serde_json::{Value, json};
use skerry_kernel::{Direction, Update, detach_filter, filter_program, ifindex, tcx_attachments};
use skerry_lab::Netns;

#[test]
fn two_pods_of_a_node_reach_each_other_and_their_node() {
    let node = Node::new("ping");
    let (a, b) = (Netns::unique("poda").unwrap(), Netns::unique("podb").unwrap());
    let first = node.add("aaaa", &a).expect_ok("ADD a");
    let second = node.add("bbbb", &b).expect_ok("ADD b");
    assert_eq!((address(&first).as_str(), address(&second).as_str()), ("10.9.0.2", "10.9.0.3"));
    // At once: the result is the promise that the wire works.
    reach(&a, &b, "10.9.0.3");
    reach(&b, &a, "10.9.0.2");
    reach(&a, &node.netns, "10.9.0.1");
    assert_eq!(reach(&node.netns, &b, "10.9.0.3"), "10.9.0.1", "the node speaks as the router");

    assert_eq!(node.del("aaaa", &a).expect_ok("DEL a"), serde_json::Value::Null);
    node.del("bbbb", &b).expect_ok("DEL b");
    node.expect_nothing_left();
    assert!(!a.ip("-o link").unwrap().contains("eth0"));
}

#[test]
fn the_wire_is_as_the_contract_says() {
    let node = Node::new("contract");
    let pod = Netns::unique("pod").unwrap();
    let result = node.add("cafe", &pod).expect_ok("ADD");
    let (host, eth0) = (&result["interfaces"][0], &result["interfaces"][1]);
    assert_eq!(eth0["name"], "eth0");
    assert_eq!(eth0["sandbox"], json!(pod.path()));
    assert_eq!(result["ips"], json!([{"interface": 1, "address": "10.9.0.2/32", "gateway": "169.254.1.1"}]));
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]));
    let (host_name, host_mac) = (host["name"].as_str().unwrap(), host["mac"].as_str().unwrap());
    let pod_mac = eth0["mac"].as_str().unwrap();

    let link = pod.ip("-o link show eth0").unwrap();
    assert!(link.contains(pod_mac) && link.contains("mtu 1400") && link.contains("state UP"), "{link}");
    assert!(!pod.ip("-o -6 addr show eth0").unwrap().contains("inet6"), "IPv6 is quiet");
    assert!(pod.ip("route").unwrap().contains("default via 169.254.1.1 dev eth0 onlink"));
    let neighbours = pod.ip("neigh").unwrap();
    assert!(
        neighbours.contains(&format!("169.254.1.1 dev eth0 lladdr {host_mac} PERMANENT")),
        "{neighbours}"
    );
    let routes = node.netns.ip("route").unwrap();
    assert!(routes.contains(&format!("10.9.0.2 dev {host_name} scope link src 10.9.0.1")), "{routes}");
    let neighbours = node.netns.ip("neigh").unwrap();
    assert!(
        neighbours.contains(&format!("10.9.0.2 dev {host_name} lladdr {pod_mac} PERMANENT")),
        "{neighbours}"
    );
    assert!(!node.netns.ip(&format!("-o -6 addr show {host_name}")).unwrap().contains("inet6"));

    let index = node.netns.run(|| ifindex(host_name).unwrap()).unwrap();
    let mac_text = |mac: [u8; 6]| mac.map(|b| format!("{b:02x}")).join(":");
    let ip: IpAddr = "10.9.0.2".parse().unwrap();
    let endpoint = node.endpoints.lookup(&Addr::from(ip)).unwrap().unwrap();
    assert_eq!((endpoint.ifindex, endpoint.flags), (index, endpoint_flag::POD));
    let entry = node.links.lookup(&index).unwrap().unwrap();
    assert_eq!((entry.v4, entry.v6), (Addr::from(ip), Addr::UNSPECIFIED));
    assert_eq!((mac_text(endpoint.mac).as_str(), mac_text(entry.mac).as_str()), (pod_mac, pod_mac));
    for (direction, program) in [(Direction::Ingress, "from_pod"), (Direction::Egress, "to_pod")] {
        let attached = node.netns.run(|| tcx_attachments(index, direction).unwrap()).unwrap();
        let pinned =
            skerry_kernel::Link::open(&node.pins().join(format!("links/{program}-{host_name}"))).unwrap();
        assert_eq!(attached.iter().map(|a| a.link_id).collect::<Vec<_>>(), [pinned.info().unwrap().id]);
        let program = skerry_kernel::Program::open(&node.pins().join("progs").join(program)).unwrap();
        assert_eq!(attached[0].program_id, program.info().unwrap().id);
    }
    let record = std::fs::read_to_string(node.state().join("attachments/cafe@eth0")).unwrap();
    assert!(record.contains(r#""K8S_POD_NAME":"web""#), "{record}");
}

#[test]
fn dual_stack_pods_reach_each_other_by_both_families() {
    let mut node = Node::new("dual");
    node.conf = node.with(json!({"ranges": ["10.9.0.0/24", "fd09::/64"]}));
    let (a, b) = (Netns::unique("d1").unwrap(), Netns::unique("d2").unwrap());
    // As some runtimes leave it.
    a.sh("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6").unwrap();
    let first = node.add("aaaa", &a).expect_ok("ADD a");
    node.add("bbbb", &b).expect_ok("ADD b");
    assert_eq!(first["ips"][1], json!({"interface": 1, "address": "fd09::2/128", "gateway": "fe80::1"}));
    reach(&a, &b, "10.9.0.3");
    reach(&a, &b, "fd09::3");
    reach(&node.netns, &a, "fd09::2");
    reach(&a, &node.netns, "fd09::1");
    assert_eq!(node.endpoints.entries().unwrap().len(), 4);
    node.del("aaaa", &a).expect_ok("DEL");
    node.del("bbbb", &b).expect_ok("DEL");
    node.expect_nothing_left();
}

#[test]
fn a_pod_without_a_router_address_on_the_node_still_gets_its_route() {
    let node = Node::new("norouter");
    node.netns.ip("addr del 10.9.0.1/32 dev lo").unwrap();
    node.netns.ip("addr add 192.0.2.1/32 dev lo").unwrap();
    let pod = Netns::unique("pod").unwrap();
    node.add("c", &pod).expect_ok("ADD");
    assert_eq!(reach(&node.netns, &pod, "10.9.0.2"), "192.0.2.1");
}

#[test]
fn a_pod_with_a_sidecar_is_left_out_of_the_socket_hooks() {
    let (node, pod) = (Node::new("sidecar"), Netns::unique("pod").unwrap());
    let cookie = pod.run(skerry_kernel::netns_cookie).unwrap().unwrap();
    let left_out = || node.left_out.lookup(&cookie).unwrap().is_some();
    let with = |annotations: Value| {
        node.with(json!({"runtimeConfig": {"io.kubernetes.cri.pod-annotations": annotations}}))
    };
    for (annotations, expected) in [
        (json!({"sidecar.istio.io/status": "{}"}), true),
        (json!({"linkerd.io/proxy-version": "stable-2.14"}), true),
        (json!({"skerry.io/socket-lb": "false"}), true),
        (json!({"skerry.io/socket-lb": "true", "sidecar.istio.io/status": "{}"}), false),
        (json!({"team": "shop"}), false),
        (json!(null), false),
    ] {
        let conf = with(annotations.clone());
        let result = node.call_with("ADD", "c1", Some(&pod.path()), &conf).expect_ok("ADD");
        assert_eq!(left_out(), expected, "{annotations}");
        let mut check = conf.clone();
        check["prevResult"] = result;
        node.call_with("CHECK", "c1", Some(&pod.path()), &check).expect_ok("CHECK");
        if expected {
            node.left_out.delete(&cookie).unwrap();
            let (_, text) = node.call_with("CHECK", "c1", Some(&pod.path()), &check).expect_error("CHECK");
            assert!(text.contains("LEFT_OUT"), "{text}");
            node.left_out.update(&cookie, &0, Update::Any).unwrap();
        }
        node.call_with("DEL", "c1", Some(&pod.path()), &conf).expect_ok("DEL");
        assert!(!left_out(), "gone with the pod: {annotations}");
    }
    let conf = with(json!({"skerry.io/socket-lb": "no"}));
    let (_, text) = node.call_with("ADD", "c1", Some(&pod.path()), &conf).expect_error("ADD");
    assert!(text.contains("skerry.io/socket-lb") && text.contains("\"true\" or \"false\""), "{text}");
    node.expect_nothing_left();
}

#[test]
fn requested_addresses_are_honoured() {
    let node = Node::new("asked");
    let pod = Netns::unique("pod").unwrap();
    let conf = node.with(
        json!({"runtimeConfig": {"ips": ["10.9.0.77/24"], "mac": "0a:00:00:00:00:07", "portMappings": []}}),
    );
    let result = node.call_with("ADD", "c", Some(&pod.path()), &conf).expect_ok("ADD");
    assert_eq!(address(&result), "10.9.0.77");
    assert_eq!(result["interfaces"][1]["mac"], "0a:00:00:00:00:07");
    assert!(pod.ip("-o link show eth0").unwrap().contains("0a:00:00:00:00:07"));
    let other = Netns::unique("other").unwrap();
    let (code, details) = node.call_with("ADD", "d", Some(&other.path()), &conf).expect_error("a second one");
    assert_eq!(code, 7);
    assert!(details.contains("10.9.0.77 was asked for and another pod has it"), "{details}");
    node.del("c", &pod).expect_ok("DEL");
    node.expect_nothing_left();
}

#[test]
fn the_mtu_is_the_configurations_then_the_agents() {
    let node = Node::new("mtu");
    let pod = Netns::unique("pod").unwrap();
    let conf = node.with(json!({"mtu": null, "cniVersion": "1.1.0"}));
    let result = node.call_with("ADD", "c", Some(&pod.path()), &conf).expect_ok("ADD");
    assert_eq!(result["interfaces"][1]["mtu"], 1390);
    assert!(pod.ip("-o link show eth0").unwrap().contains("mtu 1390"));
}

#[test]
fn filters_do_what_links_do() {
    let mut node = Node::new("clsact");
    node.conf = node.with(json!({"attach": "clsact"}));
    let (a, b) = (Netns::unique("f1").unwrap(), Netns::unique("f2").unwrap());
    let first = node.add("aaaa", &a).expect_ok("ADD a");
    node.add("bbbb", &b).expect_ok("ADD b");
    reach(&a, &b, "10.9.0.3");
    let conf = node.with(json!({"prevResult": first}));
    node.call_with("CHECK", "aaaa", Some(&a.path()), &conf).expect_ok("CHECK");
    let index =
        node.netns.run(|| ifindex(first["interfaces"][0]["name"].as_str().unwrap()).unwrap()).unwrap();
    for (direction, program) in [(Direction::Ingress, "from_pod"), (Direction::Egress, "to_pod")] {
        let program = skerry_kernel::Program::open(&node.pins().join("progs").join(program)).unwrap();
        let at = node.netns.run(|| filter_program(index, direction).unwrap()).unwrap();
        assert_eq!(at, Some(program.info().unwrap().id));
    }
    assert!(node.netns.run(|| detach_filter(index, Direction::Ingress).unwrap()).unwrap());
    let (code, details) = node.call_with("CHECK", "aaaa", Some(&a.path()), &conf).expect_error("detached");
    assert!(code == 104 && details.contains("from_pod is not attached"), "{details}");
    node.del("aaaa", &a).expect_ok("DEL");
    node.del("bbbb", &b).expect_ok("DEL");
    node.expect_nothing_left();
}

/// As `loopback`, which containerd before 2.0 asks for beside the network's plugin.
#[test]
fn lo_is_set_up_and_told_in_every_version() {
    let node = Node::new("lonode");
    let pod = Netns::unique("lopod").unwrap();
    let path = pod.path();
    pod.ip("link set lo down").unwrap();
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let conf = json!({"cniVersion": version, "name": "cni-loopback", "type": "loopback"});
        let result = node.call_with("ADD", "aaaa", Some(&path), &conf).expect_ok("ADD");
        assert_eq!(result["cniVersion"], version);
        assert_eq!(
            (&result["interfaces"][0]["name"], &result["ips"][0]["address"], &result["ips"][1]["address"]),
            (&json!("lo"), &json!("127.0.0.1/8"), &json!("::1/128"))
        );
        assert!(pod.ip("-o link show lo").unwrap().contains("LOOPBACK,UP"));
    }
    let checked =
        json!({"cniVersion": "1.0.0", "name": "cni-loopback", "type": "loopback", "prevResult": {}});
    node.call_with("CHECK", "aaaa", Some(&path), &checked).expect_ok("CHECK");
    pod.ip("link set lo down").unwrap();
    let (code, details) =
        node.call_with("CHECK", "aaaa", Some(&path), &checked).expect_error("CHECK of a lo that is down");
    assert!(code == 104 && details.contains("lo"), "{details}");
    node.call_with("DEL", "aaaa", Some(&path), &checked).expect_ok("DEL");
    node.call_with("DEL", "aaaa", None, &checked).expect_ok("DEL without a namespace");
    node.expect_nothing_left();
}

#[test]
fn a_result_before_it_is_passed_on() {
    let node = Node::new("lonode");
    let pod = Netns::unique("lopod").unwrap();
    let previous = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}], "ips": [], "extra": 1});
    let conf = json!({"cniVersion": "1.0.0", "name": "n", "type": "loopback", "prevResult": previous});
    assert_eq!(node.call_with("ADD", "aaaa", Some(&pod.path()), &conf).expect_ok("ADD"), previous);
}
