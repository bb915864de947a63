//! A namespace that stands for a node, with maps and programs pinned in a BPF file system of its own.

use std::{
    collections::BTreeSet,
    io::Write,
    net::{IpAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use proxy_abi::{ABI_VERSION, Addr, Endpoint, Facts, Link as LinkEntry};
use serde_json::{Value, json};
use skerry_kernel::{
    Map, MapSpec, Program, Update, instruction, map_type, mount_bpffs, program_type, unmount,
};
use skerry_lab::Netns;

pub const PLUGIN: &str = env!("CARGO_BIN_EXE_skerry-cni");

pub struct Node {
    pub netns: Netns,
    folder: tempfile::TempDir,
    pub endpoints: Map<Addr, Endpoint>,
    pub links: Map<u32, LinkEntry>,
    pub left_out: Map<u64, u32>,
    config: Map<u32, Facts>,
    /// The configuration that calls get; a test may change it.
    pub conf: Value,
}

/// What a call gave back.
#[derive(Debug)]
pub struct Answer {
    pub ok: bool,
    pub json: Value,
    pub text: String,
}

impl Answer {
    #[track_caller]
    pub fn expect_ok(self, what: &str) -> Value {
        assert!(self.ok, "{what}: {}", self.text);
        self.json
    }

    /// The error's code and details.
    #[track_caller]
    pub fn expect_error(self, what: &str) -> (u64, String) {
        assert!(!self.ok, "{what} should fail: {}", self.text);
        let details = self.json["details"].as_str().unwrap_or_default().to_owned();
        assert!(self.json["msg"].is_string(), "{}", self.text);
        (self.json["code"].as_u64().unwrap(), details)
    }
}

fn spec(name: &str, map_type: u32, max_entries: u32) -> MapSpec<'_> {
    MapSpec { name, map_type, max_entries, flags: 0 }
}

impl Node {
    /// Pods get addresses of 10.9.0.0/24; programs hand everything on to the kernel.
    pub fn new(hint: &str) -> Node {
        let netns = Netns::unique(hint).unwrap();
        netns.ip("addr add 10.9.0.1/32 dev lo").unwrap();
        netns.ip("addr add fd09::1/128 dev lo").unwrap();
        netns
            .sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let pins = folder.path().join("bpf");
        mount_bpffs(&pins).unwrap();
        for name in ["maps", "progs", "links"] {
            std::fs::create_dir(pins.join(name)).unwrap();
        }
        std::fs::write(folder.path().join("boot_id"), "00000000-1111-2222-3333-444444444444\n").unwrap();
        let config = Map::create(&spec("CONFIG", map_type::ARRAY, 1)).unwrap();
        let endpoints = Map::create(&spec("ENDPOINTS", map_type::HASH, 4_096)).unwrap();
        let links = Map::create(&spec("LINKS", map_type::HASH, 2_048)).unwrap();
        let left_out = Map::create(&spec("LEFT_OUT", map_type::LRU_HASH, 8_192)).unwrap();
        left_out.pin(&pins.join("maps/LEFT_OUT")).unwrap();
        config.pin(&pins.join("maps/CONFIG")).unwrap();
        endpoints.pin(&pins.join("maps/ENDPOINTS")).unwrap();
        links.pin(&pins.join("maps/LINKS")).unwrap();
        // TCX_NEXT (-1): on to the next program, then to the stack.
        let next = [instruction(0xb7, 0, 0, 0, -1), instruction(0x95, 0, 0, 0, 0)];
        for name in ["from_pod", "to_pod"] {
            let program = Program::load(name, program_type::SCHED_CLS, 0, &next).unwrap();
            program.pin(&pins.join("progs").join(name)).unwrap();
        }
        let conf = json!({
            "cniVersion": "1.0.0", "name": "skerry", "type": "skerry-cni", "mtu": 1400, "ranges": ["10.9.0.0/24"],
            "pinRoot": pins, "stateDir": folder.path().join("state"), "bootIdFile": folder.path().join("boot_id"),
        });
        let node = Node { netns, folder, endpoints, links, left_out, config, conf };
        node.set_abi(ABI_VERSION);
        node
    }

    pub fn set_abi(&self, abi_version: u32) {
        self.config
            .update(&0, &Facts { abi_version, pod_mtu: 1390, ..Facts::default() }, Update::Any)
            .unwrap();
    }

    pub fn pins(&self) -> PathBuf {
        self.folder.path().join("bpf")
    }

    /// This boot's state.
    pub fn state(&self) -> PathBuf {
        let boot_id = std::fs::read_to_string(self.folder.path().join("boot_id")).unwrap();
        self.folder.path().join("state").join(boot_id.trim())
    }

    pub fn with(&self, changes: Value) -> Value {
        let mut conf = self.conf.clone();
        for (name, value) in changes.as_object().unwrap() {
            conf[name] = value.clone();
        }
        conf
    }

    pub fn command(&self, command: &str, id: &str, netns: Option<&Path>) -> Command {
        let mut process = self.netns.command(PLUGIN);
        process
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", id)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web")
            .env("CNI_NETNS", netns.unwrap_or(Path::new("")));
        process
    }

    pub fn call_with(&self, command: &str, id: &str, netns: Option<&Path>, conf: &Value) -> Answer {
        finish(start(&mut self.command(command, id, netns), conf.to_string().as_bytes()))
    }

    pub fn call(&self, command: &str, id: &str, netns: Option<&Path>) -> Answer {
        self.call_with(command, id, netns, &self.conf)
    }

    pub fn add(&self, id: &str, pod: &Netns) -> Answer {
        self.call("ADD", id, Some(&pod.path()))
    }

    pub fn del(&self, id: &str, pod: &Netns) -> Answer {
        self.call("DEL", id, Some(&pod.path()))
    }

    /// Names below a folder of this boot's state, without what was not finished when its writer was killed:
    /// the next one starts it anew.
    pub fn names(&self, folder: &str) -> BTreeSet<String> {
        let mut names = names(&self.state().join(folder));
        names.remove(".new");
        names
    }

    /// Devices named `sk…` on the node.
    pub fn pairs(&self) -> BTreeSet<String> {
        let text = self.netns.ip("-o link").unwrap();
        let names = text.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
        names.filter(|name| name.starts_with("sk")).map(str::to_owned).collect()
    }

    #[track_caller]
    pub fn expect_nothing_left(&self) {
        assert_eq!(self.pairs(), BTreeSet::new(), "devices");
        assert_eq!(self.names("attachments"), BTreeSet::new(), "records");
        assert_eq!(self.names("addresses"), BTreeSet::new(), "addresses");
        assert_eq!(names(&self.pins().join("links")), BTreeSet::new(), "pins");
        assert_eq!(self.endpoints.entries().unwrap(), [], "ENDPOINTS");
        assert_eq!(self.links.entries().unwrap(), [], "LINKS");
        assert_eq!(self.left_out.entries().unwrap(), [], "LEFT_OUT");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.pins()) {
            eprintln!("{error}");
        }
    }
}

pub fn names(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeSet::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

pub fn start(command: &mut Command, input: &[u8]) -> Child {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A plugin that fails early does not read all of it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child
}

pub fn finish(child: Child) -> Answer {
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    let json = serde_json::from_slice(&stdout).unwrap_or(Value::Null);
    assert_ne!(status.code(), Some(101), "panicked: {text}");
    Answer { ok: status.success(), json, text }
}

/// The first address of a result, without its length.
pub fn address(result: &Value) -> String {
    result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned()
}

/// Opens a TCP connection to `address`, which `to` must have. Less than the second after which a lost SYN is
/// sent again: the first packet must have come through. Returns the address that the server saw.
#[track_caller]
pub fn reach(from: &Netns, to: &Netns, address: &str) -> String {
    let address: IpAddr = address.parse().unwrap();
    let listener = to.run(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
    let server = listener.local_addr().unwrap();
    let connect = || TcpStream::connect_timeout(&server, Duration::from_millis(900));
    let client = from.run(connect).unwrap();
    assert!(client.is_ok(), "{} to {server}: {:?}", from.name(), client.err());
    listener.accept().unwrap().1.ip().to_string()
}
