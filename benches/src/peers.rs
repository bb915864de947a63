//! What kube-proxy would have written for the same services: nftables and iptables rules in its structure.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
};

use anyhow::{Context, Result};
use skerry_lab::Node;

/// A service and where it leads.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    pub address: SocketAddrV4,
    pub endpoints: Vec<SocketAddrV4>,
}

/// A port of every node that leads to one backend.
#[derive(Clone, Debug)]
pub struct NodePort {
    /// `tcp` or `udp`.
    pub proto: &'static str,
    pub port: u16,
    pub backend: SocketAddrV4,
}

const PODS: &str = "10.244.0.0/16";
/// Replaces the node's rules by nftables' for `services`.
///
/// # Errors
/// When `nft` refuses them.
pub fn load_nftables(node: &Node, services: &[Service], node_ports: &[NodePort]) -> Result<()> {
    let rules = nftables(services, node_ports, node.ip());
    load(node, "rules.nft", &rules, "nft -f /opt/rules.nft")
}

/// Replaces the node's rules by iptables' (the legacy kind) for `services`.
///
/// # Errors
/// When `iptables-legacy-restore` refuses them.
pub fn load_iptables(node: &Node, services: &[Service]) -> Result<()> {
    load(node, "rules.ipt", &iptables(services), "iptables-legacy-restore < /opt/rules.ipt")
}

/// Forgets every connection that the node's rules have translated: what is tracked grows with each run, and
/// slows the next.
///
/// # Errors
/// When `conntrack` fails.
pub fn forget_tracked(node: &Node) -> Result<()> {
    node.sh("conntrack -F 2> /dev/null").map(drop)
}

fn load(node: &Node, name: &str, rules: &str, line: &str) -> Result<()> {
    let path = node.dir().join("opt").join(name);
    std::fs::write(&path, rules).with_context(|| format!("write {}", path.display()))?;
    node.sh(line).map(drop)
}

/// One verdict map for all services, one chain a service with a random choice, one chain an endpoint.
fn nftables(services: &[Service], node_ports: &[NodePort], node: Ipv4Addr) -> String {
    let mut text = String::from("table ip kube-proxy\ndelete table ip kube-proxy\ntable ip kube-proxy {\n");
    for service in services {
        for (number, endpoint) in written(service).iter().enumerate() {
            let (name, ip, port) = (&service.name, endpoint.ip(), endpoint.port());
            let _ = writeln!(
                text,
                "chain endpoint-{name}-{number} {{ ip saddr {ip} jump mark-for-masquerade; \
                 meta l4proto tcp dnat to {ip}:{port}; }}"
            );
        }
        let Service { name, address, .. } = service;
        let choice = if service.endpoints.len() == 1 {
            format!("numgen random mod 1 vmap {{ 0 : goto endpoint-{name}-0 }}")
        } else {
            format!("goto endpoint-{name}-0")
        };
        let _ = writeln!(
            text,
            "chain service-{name} {{ ip daddr {} tcp dport {} ip saddr != {PODS} jump mark-for-masquerade; \
             {choice}; }}",
            address.ip(),
            address.port(),
        );
    }
    let mut ports = Vec::new();
    for NodePort { proto, port, backend } in node_ports {
        let _ = writeln!(
            text,
            "chain endpoint-{proto}-{port} {{ ip saddr {} jump mark-for-masquerade; \
             meta l4proto {proto} dnat to {backend}; }}\n\
             chain service-{proto}-{port} {{ numgen random mod 1 vmap {{ 0 : goto endpoint-{proto}-{port} }}; }}\n\
             chain external-{proto}-{port} {{ jump mark-for-masquerade; goto service-{proto}-{port}; }}",
            backend.ip(),
        );
        ports.push(format!("{proto} . {port} : goto external-{proto}-{port}"));
    }
    // An empty list is no list to nft.
    let ports =
        if ports.is_empty() { String::new() } else { format!("elements = {{ {} }};", ports.join(", ")) };
    let elements: Vec<String> = services
        .iter()
        .map(|s| format!("{} . tcp . {} : goto service-{}", s.address.ip(), s.address.port(), s.name))
        .collect();
    let ips: Vec<String> = services.iter().map(|s| s.address.ip().to_string()).collect();
    let _ = write!(
        text,
        "map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }}; }}\n\
         map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}\n\
         set cluster-ips {{ type ipv4_addr; elements = {{ {} }}; }}\n\
         chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}\n\
         set nodeport-ips {{ type ipv4_addr; elements = {{ {node} }}; }}\n\
         map service-nodeports {{ type inet_proto . inet_service : verdict; {ports} }}\n\
         chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips; \
         ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports; }}\n\
         chain masquerading {{ meta mark and 0x4000 == 0 return; meta mark set meta mark xor 0x4000; \
         masquerade fully-random; }}\n\
         chain endpoint-check {{ ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }}\n\
         chain cluster-ips-check {{ ip daddr @cluster-ips reject; ip daddr 10.96.0.0/12 drop; }}\n\
         chain nat-output {{ type nat hook output priority -100; jump services; }}\n\
         chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}\n\
         chain nat-postrouting {{ type nat hook postrouting priority 100; jump masquerading; }}\n\
         chain filter-output-pre-dnat {{ type filter hook output priority -110; ct state new jump endpoint-check; }}\n\
         chain filter-prerouting-pre-dnat {{ type filter hook prerouting priority -110; \
         ct state new jump endpoint-check; }}\n\
         chain filter-output {{ type filter hook output priority 0; ct state new jump cluster-ips-check; }}\n\
         chain filter-forward {{ type filter hook forward priority 0; ct state new jump cluster-ips-check; }}\n}}\n",
        elements.join(", "),
        ips.join(", ")
    );
    text
}

/// One rule a service in `KUBE-SERVICES`, walked in order; a chain a service, a chain an endpoint.
fn iptables(services: &[Service]) -> String {
    let (mut chains, mut rules) = (String::new(), String::new());
    for service in services {
        let Service { name, address, .. } = service;
        let endpoints = written(service);
        let (ip, port) = (address.ip(), address.port());
        let _ = writeln!(chains, ":KUBE-SVC-{name} - [0:0]");
        let _ = writeln!(
            rules,
            "-A KUBE-SERVICES -d {ip}/32 -p tcp -m comment --comment \"bench/{name} cluster IP\" \
             -m tcp --dport {port} -j KUBE-SVC-{name}\n\
             -A KUBE-SVC-{name} ! -s {PODS} -d {ip}/32 -p tcp -m tcp --dport {port} -j KUBE-MARK-MASQ"
        );
        for (number, endpoint) in endpoints.iter().enumerate() {
            let left = endpoints.len() - number;
            let chance = if left > 1 {
                format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64)
            } else {
                String::new()
            };
            let _ = writeln!(chains, ":KUBE-SEP-{name}-{number} - [0:0]");
            let _ = writeln!(
                rules,
                "-A KUBE-SVC-{name} {chance}-j KUBE-SEP-{name}-{number}\n\
                 -A KUBE-SEP-{name}-{number} -s {}/32 -j KUBE-MARK-MASQ\n\
                 -A KUBE-SEP-{name}-{number} -p tcp -m tcp -j DNAT --to-destination {endpoint}",
                endpoint.ip()
            );
        }
    }
    format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n\
         :KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n{chains}\
         -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n{rules}COMMIT\n"
    )
}

/// One endpoint of each is written, and only the services that are dialled, which have just one, get the
/// random choice: a connection's path stays what it is, and the kernel takes minutes for 10,000 unnamed maps.
fn written(service: &Service) -> &[SocketAddrV4] {
    service.endpoints.get(..1).unwrap_or_default()
}

/// Endpoints that nobody dials: as many as clusters have, 2 to 10 a service.
pub fn idle_endpoints(number: usize) -> Vec<SocketAddrV4> {
    (0..2 + number % 9)
        .map(|endpoint| {
            let host = u32::try_from(number * 10 + endpoint).unwrap_or(0);
            // 198.18.0.0/15 is for benchmarks (RFC 2544): no route of a node leads there.
            SocketAddrV4::new(Ipv4Addr::from(0xC612_0000 + host), 8080)
        })
        .collect()
}
