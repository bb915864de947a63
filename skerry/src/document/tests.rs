use std::{collections::BTreeMap, os::unix::fs::PermissionsExt};

use clap::{CommandFactory, Parser};
use serde_json::Value;

use super::*;
use crate::{
    args::{Cli, Command, UpArgs},
    up,
};

/// A value that is not the default one, for every flag that server or node have.
fn sample(flag: &str) -> &'static str {
    match flag {
        "data-dir" => "/d",
        "run-dir" => "/r",
        "pod-cidr" => "10.1.0.0/16,fd00:1::/56",
        "service-cidr" => "10.2.0.0/16",
        "nodeport-range" => "20000-20999",
        "bind" => "10.0.0.1:7443",
        "advertise" => "10.0.0.9",
        "tls-san" => "a,b",
        "server-uid" => "1234",
        "node-monitor-grace-period" => "60s",
        "node-name" => "n1",
        "node-ip" => "10.0.0.1,fd00::1",
        "label" => "disk=ssd",
        "taint" => "x=y:NoExecute",
        "allowed-unsafe-sysctls" => "net.core.somaxconn,kernel.msg*",
        "containerd-socket" => "/c.sock",
        "cgroup-root" => "/c",
        "cgroup-parent" => "/lab",
        "cni-conf-dir" => "/net.d",
        "cni-bin-dir" => "/bin",
        "pod-log-dir" => "/log",
        "container-log-max-size" => "64Ki",
        "container-log-max-files" => "3",
        "uplink" => "eth7",
        "other-uplinks" => "eth1,eth2",
        "vxlan-port" => "8472",
        "vxlan-vni" => "7",
        "nodeport-addresses" => "192.168.0.0/16,2001:db8::/32",
        "external-ips" => "192.0.2.0/24",
        "pin-root" => "/p",
        "metrics-bind" => "127.0.0.1:9100",
        "tools-bind" => "127.0.0.1:0",
        "healthz-bind" => "[::1]:0",
        "announce" => "false",
        "uplink-xdp" => "generic",
        "unwrap-from" => "10.0.0.5/32,2001:db8::5/128",
        "socket-lb" => "host",
        "load-balancer-mode" => "dsr",
        "balancing" => "maglev",
        "maglev-table-size" => "4093",
        "cluster-domain" => "edge.example",
        "dns-port" => "5353",
        "dns-metrics-port" => "9154",
        "dns-uid" => "64054",
        "resolv-conf" => "/etc/resolv.edge",
        other => panic!("--{other} is new: give it a value here that is not its default"),
    }
}

fn flags(subcommand: &str) -> Vec<String> {
    let command = Cli::command();
    let found = command.find_subcommand(subcommand).unwrap();
    let flags = found.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned);
    flags.filter(|flag| flag != "help").collect()
}

fn parse(words: &[&str]) -> Command {
    Cli::try_parse_from([&["skerry"], words].concat()).unwrap().command
}

fn typed_up(words: &[&str]) -> UpArgs {
    let Command::Up(args) = parse(&[&["up"], words].concat()) else { panic!("up") };
    args
}

/// The documents for server and node, as read back.
fn by_up(words: &[&str]) -> [Value; 2] {
    let args = typed_up(words);
    let advertise = args.server.advertise.unwrap_or([10, 0, 0, 1].into());
    let (server, node) = up::children(&args, advertise, &[advertise]);
    [Document::from(server), Document::from(node)].map(|document| {
        let text = serde_json::to_string(&document).unwrap();
        let read = Document::parse(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text, "it reads as it was written");
        serde_json::to_value(read).unwrap()["for"].take()
    })
}

/// What the flags of `skerry server` and `skerry node` themselves make.
fn by_hand(subcommand: &str, words: &[&str]) -> Value {
    let way: &[&str] = if subcommand == "node" { &["--server", "https://127.0.0.1:6443"] } else { &[] };
    let document = match parse(&[&[subcommand], words, way].concat()) {
        Command::Server(Given::Typed(args)) => Document::from(args),
        Command::Node(Given::Typed(args)) => Document::from(args),
        other => panic!("{other:?}"),
    };
    serde_json::to_value(document).unwrap()["for"].take()
}

/// The fields, by their path, whose values are others than before.
fn changes(before: &Value, after: &Value, path: &str, found: &mut BTreeMap<String, Value>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in after {
                changes(before.get(name).unwrap_or(&Value::Null), value, &format!("{path}.{name}"), found);
            }
        }
        _ if before != after => drop(found.insert(path.to_owned(), after.clone())),
        _ => {}
    }
}

fn changed(before: &Value, after: &Value) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    changes(before, after, "", &mut found);
    found
}

/// Said to a node alone: `up` knows the way to its own server.
const WAY_TO_THE_SERVER: [&str; 3] = ["server", "token", "token-file"];

#[test]
fn every_option_of_up_reaches_the_children_that_have_it() {
    let mut reached: Vec<String> = vec!["taint-server".to_owned()];
    for (index, child) in ["server", "node"].into_iter().enumerate() {
        for flag in flags(child) {
            if flag == FLAG || child == "node" && WAY_TO_THE_SERVER.contains(&&*flag) {
                continue;
            }
            let words = [&*format!("--{flag}"), sample(&flag)];
            let by_hand = changed(&by_hand(child, &[]), &self::by_hand(child, &words));
            let by_up = changed(&self::by_up(&[])[index], &self::by_up(&words)[index]);
            assert!(!by_hand.is_empty(), "--{flag} has its default value");
            // A node's addresses are its server's names, too; and it has the way to the token from the
            // folders.
            let by_up: BTreeMap<_, _> =
                by_up.into_iter().filter(|(path, _)| !path.ends_with(".token-file")).collect();
            let is_server_address = |path: &str| path == ".node.server" && flag == "bind";
            let by_up: BTreeMap<_, _> =
                by_up.into_iter().filter(|(path, _)| !is_server_address(path)).collect();
            assert_eq!(by_up, by_hand, "--{flag} on its way to the {child}");
            reached.push(flag);
        }
    }
    for flag in flags("up") {
        assert!(reached.contains(&flag), "--{flag} reaches neither server nor node");
    }
}

#[test]
fn every_option_of_the_dns_process_is_in_its_document() {
    let told = |words: &[&str]| {
        let Command::Dns(args) = parse(&[&["dns"], words].concat()) else { panic!("dns") };
        let Given::Typed(args) = args.serve else { panic!("typed") };
        let text = serde_json::to_string(&Document::from(args)).unwrap();
        assert_eq!(serde_json::to_string(&Document::parse(&text).unwrap()).unwrap(), text);
        text
    };
    for flag in flags("dns").iter().filter(|flag| *flag != FLAG) {
        assert_ne!(told(&[&format!("--{flag}"), sample(flag)]), told(&[]), "--{flag}");
    }
}

#[test]
fn a_document_is_for_root_alone_and_is_taken_instead_of_flags() {
    let folder = std::env::temp_dir().join(format!("skerry-document-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (server, _) = up::children(&typed_up(&["--server-uid", "77"]), [10, 0, 0, 1].into(), &[]);
    let words = Document::from(server).hand_over(&folder).unwrap();
    let mode = std::fs::metadata(&words[2]).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Command::Server(given) = parse(&words) else { panic!("server") };
    assert_eq!(given.read().unwrap().server_uid, 77);
    // `--server` is asked for only of who types.
    let Command::Node(given) = parse(&["node", words[1], words[2]]) else { panic!("node") };
    let error = given.read().unwrap_err().to_string();
    assert!(error.contains("is for `skerry server`"), "{error}");
    assert!(Cli::try_parse_from(["skerry", "server", words[1], words[2], "--server-uid", "1"]).is_err());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn what_a_document_should_not_have_is_refused_by_name() {
    let (_, node) = up::children(&typed_up(&[]), [10, 0, 0, 1].into(), &[]);
    let good = serde_json::to_value(Document::from(node)).unwrap();
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut bad = good.clone();
        change(&mut bad);
        format!("{:#}", Document::parse(&bad.to_string()).unwrap_err())
    };
    let error = refused(&|bad| bad["for"]["node"]["node"]["tunnel"]["vxlan-prot"] = 1.into());
    assert!(error.contains("`vxlan-prot`"), "{error}");
    let error =
        refused(&|bad| drop(bad["for"]["node"]["cluster"].as_object_mut().unwrap().remove("pod-cidrs")));
    assert!(error.contains("`pod-cidrs`"), "{error}");
    let error = refused(&|bad| bad["for"]["node"]["node"]["tunnel"]["external-ips"] = "everywhere".into());
    assert!(error.contains("everywhere"), "{error}");
    let error = refused(&|bad| bad["version"] = 2.into());
    assert!(error.contains("version is 2"), "{error}");
}
