//! Two nodes with a pod each, an outside client and a wire between them; the maps are written by hand.
//!
//! ```text
//! pod0 10.244.1.2 ── node0 192.168.50.1 ──┐
//!                                         wire ── outside 192.168.50.100
//! pod1 10.244.2.2 ── node1 192.168.50.2 ──┘
//! ```

use std::net::Ipv4Addr;

use aya::programs::XdpMode;
use proxy_abi::{
    ABI_VERSION, Addr, Be16, Endpoint, Facts, Frontend, FrontendKey, Link, OVERLAY_DEV_MAC, PodCidr, Prefix,
    Seat, Slot, Uplink, Window, endpoint_flag, facts_flag, frontend_flag, frontend_kind, pod_cidr_flag, prog,
};
use skerry_lab::Netns;

use crate::{
    object::{Object, TABLE},
    talk::dial,
};

pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub const NODE_PORT: u16 = 30_080;

/// Slots a test's service takes; its number times this is its first slot.
const RUN: u32 = 16;

/// What a service sends to.
pub type Backend = (Ipv4Addr, u16);

/// A node: its namespace, its pod's, and the programs on its devices.
pub struct Node {
    pub netns: Netns,
    pub pod: Netns,
    pub object: Object,
    pub facts: Facts,
    pub address: Ipv4Addr,
    pub router: Ipv4Addr,
    pub pod_address: Ipv4Addr,
    /// Host side of the pod's veth pair.
    pub pod_ifindex: u32,
    /// Of the frontends that are served from now on.
    pub frontend_flags: u32,
}

/// The whole set-up; gone with its value.
pub struct World {
    pub nodes: [Node; 2],
    pub outside: Netns,
    /// The bridge in the middle: a stranger on the same wire.
    pub wire: Netns,
}

impl World {
    pub fn new() -> World {
        let wire = Netns::unique("wire").unwrap();
        wire.ip("link add br0 type bridge").unwrap();
        wire.ip("link set br0 up").unwrap();
        wire.ip("addr add 192.168.50.200/24 dev br0").unwrap();
        let outside = Netns::unique("outside").unwrap();
        plug(&wire, &outside, "out", "192.168.50.100/24");
        let mut nodes = [Node::new(&wire, 0), Node::new(&wire, 1)];
        let facts = nodes.each_ref().map(|node| (node.address, node.router));
        for (index, node) in nodes.iter_mut().enumerate() {
            for (other, (address, router)) in facts.iter().enumerate() {
                let flags = if other == index { pod_cidr_flag::LOCAL } else { 0 };
                node.object
                    .set_pod_cidr(120, Addr::from(*router), PodCidr { node: Addr::from(*address), flags })
                    .unwrap();
                if other != index {
                    node.object.set_tunnel_peer(Addr::from(*address)).unwrap();
                    node.netns
                        .ip(&format!("route add 10.244.{}.0/24 dev skerry0 src {}", other + 1, node.router))
                        .unwrap();
                }
            }
        }
        World { nodes, outside, wire }
    }

    /// Puts the program of a node's uplink on the first node's, before its stack. XDP sees a packet as it is
    /// on a wire, so the clients' side makes checksums whole; native XDP on a veth can send back only where
    /// the cable's other end has a program too: the one that is returned, without a configuration, which
    /// passes everything.
    pub fn with_xdp(&mut self, mode: XdpMode) -> Object {
        self.outside.sh("ethtool -K up0 tx off").unwrap();
        let mut idle = Object::load().unwrap();
        idle.attach_xdp(&self.wire, prog::UPLINK_XDP, "n0", mode).unwrap();
        // A neighbour that is not known yet is the stack's to ask for: make it known.
        let refused = dial(&self.nodes[0].netns, &format!("{}:1", self.nodes[1].address)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let node = &mut self.nodes[0];
        node.object
            .attach_xdp(&node.netns, prog::UPLINK_XDP, "up0", mode)
            .unwrap_or_else(|error| panic!("{error}: {error:?}"));
        idle
    }

    /// The first node's NodePort, as a client outside dials it.
    pub fn node_port(&self) -> String {
        format!("{}:{NODE_PORT}", self.nodes[0].address)
    }

    /// The address of the client outside.
    pub fn outside_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 50, 100)
    }

    /// The first node unwraps what this address sends inside other packets.
    pub fn unwrap_from(&mut self, balancer: Ipv4Addr) {
        let node = &mut self.nodes[0];
        node.facts.balancers = Prefix::list(&[Prefix { addr: balancer.into(), len: 128 }]);
        node.object.set_facts(node.facts).unwrap();
    }

    /// What is served from now on is answered by the backends' nodes.
    pub fn answer_directly(&mut self) {
        for node in &mut self.nodes {
            node.frontend_flags |= frontend_flag::DIRECT;
        }
    }

    /// Writes a service into both nodes' maps: a ClusterIP, and a NodePort if one is named.
    pub fn serve(&mut self, id: u32, proto: u8, vip_port: u16, node_port: Option<u16>, backends: &[Backend]) {
        for node in &mut self.nodes {
            node.serve(id, proto, vip_port, node_port, backends);
        }
    }
}

impl Default for World {
    fn default() -> World {
        World::new()
    }
}

impl Node {
    fn new(wire: &Netns, index: u8) -> Node {
        let number = index + 1;
        let netns = Netns::unique(&format!("node{index}")).unwrap();
        let pod = Netns::unique(&format!("pod{index}")).unwrap();
        let address = Ipv4Addr::new(192, 168, 50, number);
        let router = Ipv4Addr::new(10, 244, number, 1);
        let pod_address = Ipv4Addr::new(10, 244, number, 2);
        plug(wire, &netns, &format!("n{index}"), &format!("{address}/24"));
        netns.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap().unwrap();
        netns.ip("link add skerry0 type vxlan external dstport 4789").unwrap();
        netns
            .ip(&format!("link set skerry0 address {} mtu 1450 arp off up", colons(&OVERLAY_DEV_MAC)))
            .unwrap();
        netns.ip(&format!("addr add {router}/32 dev skerry0")).unwrap();
        netns
            .ip(&format!("link add sk0 mtu 1450 type veth peer name eth0 mtu 1450 netns {}", pod.name()))
            .unwrap();
        pod.ip(&format!("addr add {pod_address}/32 dev eth0")).unwrap();
        pod.ip("link set eth0 up").unwrap();
        netns.ip("link set sk0 up").unwrap();
        let (host_mac, pod_mac) = (mac(&netns, "sk0"), mac(&pod, "eth0"));
        pod.ip("route add default via 169.254.1.1 dev eth0 onlink").unwrap();
        pod.ip(&format!("neigh add 169.254.1.1 lladdr {} dev eth0 nud permanent", colons(&host_mac)))
            .unwrap();
        netns.ip(&format!("route add {pod_address}/32 dev sk0 src {router}")).unwrap();
        netns
            .ip(&format!("neigh add {pod_address} lladdr {} dev sk0 nud permanent", colons(&pod_mac)))
            .unwrap();

        let (uplink, overlay, pod_ifindex) =
            (ifindex(&netns, "up0"), ifindex(&netns, "skerry0"), ifindex(&netns, "sk0"));
        let facts = Facts {
            abi_version: ABI_VERSION,
            flags: facts_flag::MASQUERADE | facts_flag::TUNNEL,
            host_netns_cookie: netns_cookie(&netns),
            node_v4: address.into(),
            router_v4: router.into(),
            service_ranges: Prefix::list(&[Prefix {
                addr: Ipv4Addr::new(10, 96, 0, 0).into(),
                len: 96 + 12,
            }]),
            uplink_ifindex: uplink,
            overlay_ifindex: overlay,
            vni: 1,
            pod_mtu: 1450,
            nodeport_min: 30_000,
            nodeport_max: 32_767,
            snat_min: 1_024,
            snat_max: 29_999,
            tcp_syn_s: 60,
            tcp_established_s: 7_200,
            tcp_closing_s: 60,
            udp_s: 30,
            udp_stream_s: 120,
            icmp_s: 30,
            tunnel_port: 4_789,
            flow_queue: Seat::in_use(TABLE),
            ..Facts::default()
        };
        let mut object = Object::load().unwrap();
        object.set_facts(facts).unwrap();
        object.set_uplink(uplink, Uplink { v4: address.into(), v6: Addr::UNSPECIFIED }).unwrap();
        let own = |flags| Endpoint { flags, ..Endpoint::default() };
        object.set_endpoint(address.into(), own(endpoint_flag::NODE | endpoint_flag::NODE_PORT)).unwrap();
        object.set_endpoint(router.into(), own(endpoint_flag::ROUTER)).unwrap();
        let endpoint =
            Endpoint { ifindex: pod_ifindex, mac: pod_mac, flags: endpoint_flag::POD, reserved: 0 };
        object.set_endpoint(pod_address.into(), endpoint).unwrap();
        let link = Link { v4: pod_address.into(), v6: Addr::UNSPECIFIED, mac: pod_mac, flags: 0 };
        object.set_link(pod_ifindex, link).unwrap();
        for (program, device) in [
            (prog::FROM_POD, "sk0"),
            (prog::TO_POD, "sk0"),
            (prog::FROM_OVERLAY, "skerry0"),
            (prog::TO_OVERLAY, "skerry0"),
            (prog::FROM_UPLINK, "up0"),
            (prog::TO_UPLINK, "up0"),
        ] {
            object.attach(&netns, program, device).unwrap_or_else(|error| panic!("{error}: {error:?}"));
        }
        Node { netns, pod, object, facts, address, router, pod_address, pod_ifindex, frontend_flags: 0 }
    }

    /// See [`World::serve`].
    pub fn serve(&mut self, id: u32, proto: u8, vip_port: u16, node_port: Option<u16>, backends: &[Backend]) {
        let first = id * RUN;
        for (index, (addr, port)) in backends.iter().enumerate() {
            let slot = Slot {
                addr: (*addr).into(),
                port: Be16::new(*port),
                flags: 0,
                service_id: id,
                generation: 1,
            };
            self.object.set_slot(first + index as u32, slot).unwrap();
        }
        let all = Window { first, count: backends.len() as u32 };
        let flags = self.frontend_flags;
        let frontend =
            Frontend { service_id: id, generation: 1, outside: all, inside: all, flags, affinity_s: 0 };
        let key =
            |addr: Addr, port: u16, proto, kind| FrontendKey { addr, port: Be16::new(port), proto, kind };
        let vip = Addr::from(VIP);
        self.object.set_frontend(key(vip, 0, 0, frontend_kind::ADDRESS), Frontend::default()).unwrap();
        self.object.set_frontend(key(vip, vip_port, proto, frontend_kind::ADDRESS), frontend).unwrap();
        if let Some(port) = node_port {
            let key = key(Addr::UNSPECIFIED, port, proto, frontend_kind::NODE_PORT_V4);
            self.object.set_frontend(key, frontend).unwrap();
        }
    }
}

/// Packets that a node has sent through its VXLAN device.
pub fn tunnelled(node: &Node) -> u64 {
    let shown = node.netns.ip("-s -j link show dev skerry0").unwrap();
    let (_, sent) = shown.split_once("\"tx\":").unwrap();
    let (_, packets) = sent.split_once("\"packets\":").unwrap();
    let digits: String = packets.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// A cable from the bridge to a namespace's `up0`.
fn plug(wire: &Netns, to: &Netns, name: &str, address: &str) {
    wire.ip(&format!("link add {name} type veth peer name up0 netns {}", to.name())).unwrap();
    wire.ip(&format!("link set {name} master br0 up")).unwrap();
    to.ip("link set up0 up").unwrap();
    to.ip(&format!("addr add {address} dev up0")).unwrap();
}

fn ifindex(netns: &Netns, device: &str) -> u32 {
    netns.run(|| nix::net::if_::if_nametoindex(device)).unwrap().unwrap()
}

/// A device's Ethernet address.
pub fn mac(netns: &Netns, device: &str) -> [u8; 6] {
    let shown = netns.ip(&format!("-br link show {device}")).unwrap();
    let text = shown.split_whitespace().nth(2).unwrap();
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

fn colons(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// `SO_NETNS_COOKIE` of a namespace (Linux 5.14).
fn netns_cookie(netns: &Netns) -> u64 {
    use std::os::fd::AsRawFd;
    let socket = netns.run(|| std::net::UdpSocket::bind("127.0.0.1:0")).unwrap().unwrap();
    let (mut cookie, mut size) = (0_u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `size` bytes to `cookie`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    assert_eq!(done, 0, "getsockopt(SO_NETNS_COOKIE): {}", std::io::Error::last_os_error());
    cookie
}
