//! The maps of a row: a standard node, and what the row adds.

use std::net::IpAddr;

use proxy_abi::{
    ABI_VERSION, Addr, Be16, Endpoint, Facts, Flow, Frontend, FrontendKey, Link, Member, PodCidr, Prefix,
    Slot, SourceRangeKey, Tuple, Uplink, Window, endpoint_flag, facts_flag, flow_flag, flow_state,
    frontend_flag, frontend_kind, member_of, pod_cidr_flag,
};

pub const POD_A_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
pub const POD_B_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Pod A's device is the loopback: a test run's packets come in by it unless told otherwise.
pub const POD_A_IFINDEX: u32 = 1;
pub const POD_B_IFINDEX: u32 = 99;
/// The one port that source translation hands out, so that rows can name it.
pub const SNAT_PORT: u16 = 61_000;

/// A flow that is there before the first packet.
#[derive(Clone, Debug)]
pub struct FlowRow {
    pub key: Tuple,
    pub flow: Flow,
    /// Seconds since its last packet.
    pub age_s: u32,
}

/// Contents of all maps.
#[derive(Clone, Debug)]
pub struct State {
    pub facts: Facts,
    pub frontends: Vec<(FrontendKey, Frontend)>,
    pub slots: Vec<(u32, Slot)>,
    pub source_ranges: Vec<SourceRangeKey>,
    pub members: Vec<(Member, u32)>,
    pub endpoints: Vec<(Addr, Endpoint)>,
    pub links: Vec<(u32, Link)>,
    /// Prefix length in the 128-bit form, prefix, owner.
    pub pod_cidrs: Vec<(u32, Addr, PodCidr)>,
    pub tunnel_peers: Vec<Addr>,
    pub flows: Vec<FlowRow>,
}

pub fn addr(text: &str) -> Addr {
    Addr::from(text.parse::<IpAddr>().unwrap_or_else(|error| panic!("{text}: {error}")))
}

/// `ADDR:PORT`.
pub fn endpoint(text: &str) -> (Addr, Be16) {
    let socket: std::net::SocketAddr = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    (Addr::from(socket.ip()), Be16::new(socket.port()))
}

pub fn tuple(from: &str, to: &str, proto: u8) -> Tuple {
    let ((src, sport), (dst, dport)) = (endpoint(from), endpoint(to));
    Tuple::new(src, sport, dst, dport, proto)
}

/// Ranges by first address and length in the 128-bit form.
pub fn service_ranges(ranges: &[(&str, u32)]) -> [Prefix; Facts::SERVICE_RANGES] {
    let ranges: Vec<_> = ranges.iter().map(|(text, len)| Prefix { addr: addr(text), len: *len }).collect();
    Prefix::list(&ranges)
}

impl State {
    /// The standard node. `uplink`: its device's number.
    pub fn standard() -> State {
        let facts = Facts {
            abi_version: ABI_VERSION,
            flow_queue: 65_536,
            flags: facts_flag::MASQUERADE | facts_flag::TUNNEL,
            host_netns_cookie: 1,
            node_v4: addr("192.168.50.1"),
            node_v6: addr("2001:db8::1"),
            router_v4: addr("10.244.1.1"),
            router_v6: addr("fd00:1::1"),
            service_ranges: service_ranges(&[("10.96.0.0", 96 + 12), ("fd00:96::", 112)]),
            uplink_ifindex: 7,
            overlay_ifindex: 8,
            vni: 1,
            pod_mtu: 1_450,
            nodeport_min: 30_000,
            nodeport_max: 32_767,
            snat_min: SNAT_PORT,
            snat_max: SNAT_PORT,
            tcp_syn_s: 60,
            tcp_established_s: 7_200,
            // Each of its own, so that none can pass for another.
            tcp_closing_s: 45,
            udp_s: 30,
            udp_stream_s: 120,
            icmp_s: 20,
            tunnel_port: 4_789,
            ..Facts::default()
        };
        let own = |flags| Endpoint { flags, ..Endpoint::default() };
        let pod = |ifindex, mac| Endpoint { ifindex, mac, flags: endpoint_flag::POD, reserved: 0 };
        let local = |node| PodCidr { node: addr(node), flags: pod_cidr_flag::LOCAL };
        let remote = |node| PodCidr { node: addr(node), flags: 0 };
        let link = |v4: &str, v6: &str, mac| Link { v4: addr(v4), v6: addr(v6), mac, flags: 0 };
        State {
            facts,
            frontends: Vec::new(),
            slots: Vec::new(),
            source_ranges: Vec::new(),
            members: Vec::new(),
            endpoints: vec![
                (addr("192.168.50.1"), own(endpoint_flag::NODE | endpoint_flag::NODE_PORT)),
                (addr("2001:db8::1"), own(endpoint_flag::NODE | endpoint_flag::NODE_PORT)),
                (addr("10.244.1.1"), own(endpoint_flag::ROUTER)),
                (addr("fd00:1::1"), own(endpoint_flag::ROUTER)),
                (addr("10.244.1.2"), pod(POD_A_IFINDEX, POD_A_MAC)),
                (addr("fd00:1::2"), pod(POD_A_IFINDEX, POD_A_MAC)),
                (addr("10.244.1.3"), pod(POD_B_IFINDEX, POD_B_MAC)),
                (addr("fd00:1::3"), pod(POD_B_IFINDEX, POD_B_MAC)),
            ],
            links: vec![(POD_A_IFINDEX, link("10.244.1.2", "fd00:1::2", POD_A_MAC))],
            pod_cidrs: vec![
                (120, addr("10.244.1.0"), local("192.168.50.1")),
                (120, addr("10.244.2.0"), remote("192.168.50.2")),
                (120, addr("10.244.3.0"), remote("192.168.50.3")),
                (64, addr("fd00:1::"), local("192.168.50.1")),
                (64, addr("fd00:2::"), remote("192.168.50.2")),
            ],
            tunnel_peers: vec![addr("192.168.50.2"), addr("192.168.50.3")],
            flows: Vec::new(),
        }
    }

    /// A service port with its backends, and the marker of its address.
    pub fn service(self, id: u32, proto: u8, at: &str, backends: &[&str]) -> State {
        let (vip, port) = endpoint(at);
        let mut state =
            self.frontend(id, FrontendKey { addr: vip, port, proto, kind: frontend_kind::ADDRESS }, backends);
        let marker = FrontendKey { addr: vip, port: Be16::ZERO, proto: 0, kind: frontend_kind::ADDRESS };
        state.frontends.push((marker, Frontend::default()));
        state
    }

    pub fn node_port(self, id: u32, proto: u8, port: u16, backends: &[&str]) -> State {
        let kind = match backends.first() {
            Some(backend) if backend.starts_with('[') => frontend_kind::NODE_PORT_V6,
            _ => frontend_kind::NODE_PORT_V4,
        };
        let key = FrontendKey { addr: Addr::UNSPECIFIED, port: Be16::new(port), proto, kind };
        self.frontend(id, key, backends)
    }

    pub fn frontend(mut self, id: u32, key: FrontendKey, backends: &[&str]) -> State {
        let first = id * 16;
        for (index, backend) in backends.iter().enumerate() {
            let (addr, port) = endpoint(backend);
            let slot = Slot { addr, port, flags: 0, service_id: id, generation: 1 };
            self.slots.push((first + index as u32, slot));
            self.members.push((Member::new(id, addr, port), member_of::INSIDE | member_of::OUTSIDE));
        }
        let all = Window { first, count: backends.len() as u32 };
        let frontend =
            Frontend { service_id: id, generation: 1, outside: all, inside: all, flags: 0, affinity_s: 0 };
        self.frontends.push((key, frontend));
        self
    }

    /// Changes all frontends that have a service id.
    pub fn frontends(mut self, change: impl Fn(&mut Frontend)) -> State {
        self.frontends
            .iter_mut()
            .map(|(_, frontend)| frontend)
            .filter(|f| f.service_id != 0)
            .for_each(change);
        self
    }

    /// Only sources of this range may use the service's load-balancer addresses. `len`: of the address's own
    /// family.
    pub fn source_range(mut self, service_id: u32, prefix: &str, len: u32) -> State {
        let addr = addr(prefix);
        let len = len + if addr.is_v4() { 96 } else { 0 };
        self.source_ranges.push(SourceRangeKey::new(service_id, addr, len));
        self.frontends(|frontend| frontend.flags |= frontend_flag::SOURCE_RANGES)
    }

    /// All frontends drop instead of reject where they are empty.
    pub fn drop_if_empty(mut self) -> State {
        for (_, frontend) in &mut self.frontends {
            frontend.flags |= frontend_flag::DROP_IF_EMPTY;
        }
        self
    }

    /// The slots have moved on to another generation.
    pub fn recycled(mut self) -> State {
        for (_, slot) in &mut self.slots {
            slot.generation = 2;
        }
        self
    }

    pub fn facts(mut self, change: impl FnOnce(&mut Facts)) -> State {
        change(&mut self.facts);
        self
    }

    /// The one device that leads out, by its number.
    pub fn uplinks(&self, ifindex: u32) -> impl Iterator<Item = (u32, Uplink)> + use<> {
        let Facts { node_v4: v4, node_v6: v6, .. } = self.facts;
        [(ifindex, Uplink { v4, v6 })].into_iter()
    }

    /// Both entries of a flow `key` → `to`.
    pub fn flow(mut self, key: Tuple, to: Tuple, change: impl Fn(&mut Flow), age_s: u32) -> State {
        let mut forward = Flow { to, service_id: 1, packets: 1, ..Flow::default() };
        change(&mut forward);
        if forward.state != flow_state::EMBRYONIC {
            forward.flags |= flow_flag::SETTLED;
        }
        let reverse = Flow { to: key.flip(), flags: forward.flags | flow_flag::REVERSE, ..forward };
        self.flows.push(FlowRow { key: to.flip(), flow: reverse, age_s });
        self.flows.push(FlowRow { key, flow: forward, age_s });
        self
    }
}

/// A flow as a row names it, `old` if it is or was established: `new 10.0.0.1:1>10.0.0.2:2/17 =>
/// 10.0.0.1:1>10.0.0.3:3 dnat`.
pub fn line(key: &Tuple, flow: &Flow) -> String {
    let end = |addr: &Addr, port: Be16| std::net::SocketAddr::new(addr.to_ip(), port.get());
    let way = |tuple: &Tuple| format!("{}>{}", end(&tuple.src, tuple.sport), end(&tuple.dst, tuple.dport));
    let age = if flow.flags & flow_flag::SETTLED == 0 { "new" } else { "old" };
    let mut text = format!("{age} {}/{} => {}", way(key), key.proto, way(&flow.to));
    for (flag, word) in [
        (flow_flag::DNAT, " dnat"),
        (flow_flag::SNAT, " snat"),
        (flow_flag::REVERSE, " back"),
        (flow_flag::FIN, " fin"),
        (flow_flag::DIRECT, " direct"),
    ] {
        if flow.flags & flag != 0 {
            text.push_str(word);
        }
    }
    if flow.state == flow_state::CLOSING {
        text.push_str(" closing");
    }
    text
}
