//! The plugin as `loopback`. Needs root.

mod support;

use serde_json::json;
use skerry_lab::Netns;
use support::Node;

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
