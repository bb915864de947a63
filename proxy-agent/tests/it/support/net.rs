//! Nodes as network namespaces on one bridge, and pods wired to them by hand, as the CNI plugin would.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use proxy_abi::{Addr, Endpoint, Link as PodLink, endpoint_flag, map, prog};
use proxy_agent::{Config, MapSizes};
use skerry_kernel::{
    Attachment, Direction, Filter, Link, Map, Program, Update, detach_filter, filter_program, has_tcx,
    tcx_attachments,
};
use skerry_lab::{Cgroup, Netns};

/// A bridge in a namespace of its own, and a client that belongs to no node.
pub struct Underlay {
    pub netns: Netns,
    pub client: Netns,
    ports: AtomicU32,
    /// Nodes and the client speak with this tag (802.1Q) only, by `eth0.TAG`.
    tag: Option<u16>,
}

impl Underlay {
    pub fn new() -> Underlay {
        Underlay::with(None)
    }

    pub fn tagged(tag: u16) -> Underlay {
        Underlay::with(Some(tag))
    }

    fn with(tag: Option<u16>) -> Underlay {
        let netns = Netns::unique("under").unwrap();
        netns.ip("link add br0 type bridge").unwrap();
        netns.ip("link set br0 up").unwrap();
        let client = Netns::unique("client").unwrap();
        let underlay = Underlay { netns, client, ports: AtomicU32::new(1), tag };
        underlay.plug(&underlay.client, "172.31.0.200/24");
        underlay
    }

    fn plug(&self, netns: &Netns, address: &str) {
        let port = format!("p{}", self.ports.fetch_add(1, Ordering::Relaxed));
        let name = netns.name();
        self.netns.ip(&format!("link add {port} type veth peer name eth0 netns {name}")).unwrap();
        self.netns.ip(&format!("link set {port} master br0 up")).unwrap();
        netns.ip("link set eth0 up").unwrap();
        let device = match self.tag {
            None => "eth0".to_owned(),
            Some(tag) => {
                netns.ip(&format!("link add link eth0 name eth0.{tag} type vlan id {tag}")).unwrap();
                netns.ip(&format!("link set eth0.{tag} up")).unwrap();
                format!("eth0.{tag}")
            }
        };
        netns.ip(&format!("addr add {address} dev {device}")).unwrap();
    }

    /// `number` 1–99: address 172.31.0.NUMBER, pods 10.244.NUMBER.0/24.
    pub fn node(&self, name: &str, number: u8) -> TestNode {
        let netns = Netns::unique(name).unwrap();
        self.plug(&netns, &format!("172.31.0.{number}/24"));
        netns.ip("route add default via 172.31.0.200").unwrap();
        let cgroup = Cgroup::create(netns.name()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        TestNode { name: name.to_owned(), number, netns, cgroup, dir }
    }
}

pub struct TestNode {
    pub name: String,
    pub number: u8,
    pub netns: Netns,
    pub cgroup: Cgroup,
    dir: tempfile::TempDir,
}

impl TestNode {
    pub fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 31, 0, self.number)
    }

    pub fn pod_cidr(&self) -> String {
        format!("10.244.{}.0/24", self.number)
    }

    pub fn router(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number, 1)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    pub fn pin(&self, folder: &str, name: &str) -> PathBuf {
        self.path("bpf").join(folder).join(name)
    }

    pub fn config(&self) -> Config {
        config(&self.name, self.dir.path(), &self.cgroup.dir())
    }

    /// Connects a namespace as the CNI plugin does: veth pair, link-local gateway, table entries, pinned
    /// programs.
    pub fn pod(&self, host: u8) -> Pod {
        let netns = Netns::unique("pod").unwrap();
        let ip = Ipv4Addr::new(10, 244, self.number, host);
        let device = format!("sk{host:08x}");
        let pod = netns.name();
        self.netns.ip(&format!("link add {device} type veth peer name eth0 netns {pod}")).unwrap();
        self.netns.ip(&format!("link set {device} up")).unwrap();
        netns.ip("link set eth0 up mtu 1450").unwrap();
        netns.ip(&format!("addr add {ip}/32 dev eth0")).unwrap();
        netns.ip("route add default via 169.254.1.1 dev eth0 onlink").unwrap();
        let (host_mac, pod_mac) = (mac(&self.netns, &device), mac(&netns, "eth0"));
        netns.ip(&format!("neigh add 169.254.1.1 lladdr {host_mac} dev eth0 nud permanent")).unwrap();
        self.netns.ip(&format!("route add {ip}/32 dev {device} src {}", self.router())).unwrap();
        self.netns.ip(&format!("neigh add {ip} lladdr {pod_mac} dev {device} nud permanent")).unwrap();
        self.netns.run(|| self.register(&device, ip, parse_mac(&pod_mac))).unwrap();
        Pod { netns, ip, device }
    }

    fn register(&self, device: &str, ip: Ipv4Addr, mac: [u8; 6]) {
        let ifindex = skerry_kernel::ifindex(device).unwrap();
        let endpoints = Map::<Addr, Endpoint>::open(&self.pin("maps", map::ENDPOINTS)).unwrap();
        let endpoint = Endpoint { ifindex, mac, flags: endpoint_flag::POD, reserved: 0 };
        endpoints.update(&ip.into(), &endpoint, Update::Any).unwrap();
        let links = Map::<u32, PodLink>::open(&self.pin("maps", map::LINKS)).unwrap();
        links
            .update(&ifindex, &PodLink { v4: ip.into(), v6: Addr::UNSPECIFIED, mac, flags: 0 }, Update::Any)
            .unwrap();
        let programs = [(prog::FROM_POD, Direction::Ingress), (prog::TO_POD, Direction::Egress)]
            .map(|(hook, direction)| (hook, direction, Program::open(&self.pin("progs", hook)).unwrap()));
        let filters = programs.each_ref().map(|(name, direction, program)| Filter {
            direction: *direction,
            program: program.fd(),
            name,
        });
        skerry_kernel::attach_filters(ifindex, &filters).unwrap();
    }

    /// Where the CNI plugin keeps this boot's records.
    pub fn records(&self) -> PathBuf {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        self.path("cni").join(boot_id.trim())
    }

    /// Writes down an attachment as the CNI plugin does.
    pub fn record(&self, id: &str, device: &str, ip: Ipv4Addr, mac: [u8; 6], ifindex: u32) {
        self.record_in(id, device, ip, mac, ifindex, "/run/netns/x".as_ref());
    }

    /// As [`TestNode::record`], with the pod's namespace.
    pub fn record_in(&self, id: &str, device: &str, ip: Ipv4Addr, mac: [u8; 6], ifindex: u32, netns: &Path) {
        let folder = self.records();
        for name in ["attachments", "addresses", "last"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let record = serde_json::json!({
            "containerId": id, "ifname": "eth0", "network": "skerry", "netns": netns, "hostIfname": device,
            "mac": mac.join(":"), "addresses": [ip],
        });
        let key = format!("{id}@eth0");
        std::fs::write(folder.join("attachments").join(&key), format!("{record}\n{ifindex}\n")).unwrap();
        let address = folder.join("addresses").join(ip.to_string());
        if !address.is_symlink() {
            std::os::unix::fs::symlink(key, address).unwrap();
        }
    }

    /// Our program on a side of one of the node's own devices and the link that keeps it there; link 0: a
    /// filter does, since the kernel has no TCX links.
    pub fn at_device(&self, device: &str, direction: Direction) -> Option<Attachment> {
        let look = || {
            let index = skerry_kernel::ifindex(device).ok()?;
            match has_tcx().unwrap() {
                true => tcx_attachments(index, direction).ok()?.first().copied(),
                false => {
                    let program_id = filter_program(index, direction).ok()??;
                    Some(Attachment { program_id, link_id: 0 })
                }
            }
        };
        self.netns.run(look).unwrap()
    }

    /// Takes it off, as a third party would.
    pub fn detach_from(&self, device: &str, direction: Direction) {
        let attached = self.at_device(device, direction).unwrap();
        let detach = || match attached.link_id {
            0 => assert!(detach_filter(skerry_kernel::ifindex(device).unwrap(), direction).unwrap()),
            id => Link::by_id(id).unwrap().detach().unwrap(),
        };
        self.netns.run(detach).unwrap();
    }

    /// A command in this node's namespace and cgroup, as one of the node's own processes.
    pub fn command(&self, line: &str) -> Command {
        in_cgroup(&self.netns, &self.cgroup, line)
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        drop(self.cgroup.kill());
        drop(self.cgroup.remove());
        // The mount would keep the folder from being removed.
        drop(skerry_kernel::unmount(&self.path("bpf")));
    }
}

/// Everything below one folder, small maps, quick timers.
pub fn config(name: &str, dir: &Path, cgroup: &Path) -> Config {
    Config {
        kubeconfig: Some(dir.join("kubeconfig")),
        pin_root: dir.join("bpf"),
        cgroup_root: Some(cgroup.to_owned()),
        cni_conf_dir: dir.join("net.d"),
        cni_state_dir: dir.join("cni"),
        run_dir: dir.join("run"),
        map_sizes: MapSizes {
            frontends: 1024,
            slots: 4096,
            flows: 65_536,
            sockets: 4096,
            ..Config::new(name).map_sizes
        },
        slot_grace: Duration::from_millis(200),
        ..Config::new(name)
    }
}

pub struct Pod {
    pub netns: Netns,
    pub ip: Ipv4Addr,
    pub device: String,
}

impl Pod {
    /// A command in the pod, below its node's cgroup.
    pub fn command(&self, node: &TestNode, line: &str) -> Command {
        in_cgroup(&self.netns, &node.cgroup, line)
    }
}

fn in_cgroup(netns: &Netns, cgroup: &Cgroup, line: &str) -> Command {
    let mut command = Command::new("sh");
    let procs = cgroup.dir().join("cgroup.procs");
    let enter =
        format!("echo $$ > {} && exec nsenter --net={} -- {line}", procs.display(), netns.path().display());
    command.arg("-c").arg(enter);
    command
}

fn mac(netns: &Netns, device: &str) -> String {
    let shown = netns.ip(&format!("-o link show dev {device}")).unwrap();
    let mut words = shown.split_whitespace();
    words.find(|word| *word == "link/ether").unwrap();
    words.next().unwrap().to_owned()
}

fn parse_mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}
