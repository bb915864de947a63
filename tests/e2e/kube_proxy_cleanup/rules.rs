//! What kube-proxy leaves for one Service with a NodePort and one endpoint, in each of its modes that the
//! kernel here has.

use std::net::Ipv4Addr;

/// One Service.
pub struct Service {
    pub cluster_ip: Ipv4Addr,
    pub port: u16,
    pub node_port: u16,
    pub endpoint: Ipv4Addr,
    pub target: u16,
}

/// For `iptables-restore --noflush`, of either flavour.
pub fn iptables(service: &Service) -> String {
    let Service { cluster_ip, port, node_port, endpoint, target } = service;
    format!(
        "*mangle\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n\
         *filter\n:KUBE-FORWARD - [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n\
         -A INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS\n\
         -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n\
         *nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
         :KUBE-SVC-4SW47YFZTEDKD3PK - [0:0]\n:KUBE-EXT-4SW47YFZTEDKD3PK - [0:0]\n:KUBE-SEP-6E7XQMQ4RAYOWTTM - [0:0]\n\
         -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-SERVICES -d {cluster_ip}/32 -p tcp -m comment --comment \"default/kept:http cluster IP\" -m tcp --dport {port} \
         -j KUBE-SVC-4SW47YFZTEDKD3PK\n\
         -A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
         -A KUBE-NODEPORTS -p tcp -m comment --comment \"default/kept:http\" -m tcp --dport {node_port} \
         -j KUBE-EXT-4SW47YFZTEDKD3PK\n\
         -A KUBE-EXT-4SW47YFZTEDKD3PK -j KUBE-MARK-MASQ\n\
         -A KUBE-EXT-4SW47YFZTEDKD3PK -j KUBE-SVC-4SW47YFZTEDKD3PK\n\
         -A KUBE-SVC-4SW47YFZTEDKD3PK -m comment --comment \"default/kept:http -> {endpoint}:{target}\" \
         -j KUBE-SEP-6E7XQMQ4RAYOWTTM\n\
         -A KUBE-SEP-6E7XQMQ4RAYOWTTM -s {endpoint}/32 -j KUBE-MARK-MASQ\n\
         -A KUBE-SEP-6E7XQMQ4RAYOWTTM -p tcp -m tcp -j DNAT --to-destination {endpoint}:{target}\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\nCOMMIT\n"
    )
}

/// For `nft -f`.
pub fn nftables(service: &Service) -> String {
    let Service { cluster_ip, port, node_port, endpoint, target } = service;
    format!(
        "table ip kube-proxy {{
            chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
            chain endpoint-one {{ ip saddr {endpoint} jump mark-for-masquerade; meta l4proto tcp dnat to {endpoint}:{target}; }}
            chain service-kept {{ goto endpoint-one; }}
            chain external-kept {{ jump mark-for-masquerade; goto service-kept; }}
            map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict;
                elements = {{ {cluster_ip} . tcp . {port} : goto service-kept }}; }}
            map service-nodeports {{ type inet_proto . inet_service : verdict;
                elements = {{ tcp . {node_port} : goto external-kept }}; }}
            chain services {{
                ip daddr . meta l4proto . th dport vmap @service-ips;
                fib daddr type local meta l4proto . th dport vmap @service-nodeports;
            }}
            chain masquerading {{ meta mark and 0x4000 == 0 return; meta mark set meta mark xor 0x4000; masquerade fully-random; }}
            chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
            chain nat-output {{ type nat hook output priority -100; jump services; }}
            chain nat-postrouting {{ type nat hook postrouting priority 100; jump masquerading; }}
        }}\n"
    )
}

/// Rules of others, some of whose names look alike. For `iptables-restore --noflush`. The built-in chains are
/// named because the nft flavour makes them when they are first used, and nobody takes them away again.
pub const OTHERS: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
    :DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
    -A DOCKER -p tcp -m tcp --dport 4444 -j DNAT --to-destination 192.0.2.7:80\nCOMMIT\n\
    *filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
    :KUBE-FIREWALL - [0:0]\n:KUBE-ROUTER-FORWARD - [0:0]\n-A INPUT -j KUBE-FIREWALL\n\
    -A FORWARD -m comment --comment \"as good as -j KUBE-FORWARD\" -j KUBE-ROUTER-FORWARD\n\
    -A INPUT -p tcp -m tcp --dport 4445 -j DROP\n\
    -A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\nCOMMIT\n\
    *mangle\n:PREROUTING ACCEPT [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n";

/// For `nft -f`.
pub const OTHERS_NFT: &str = "table inet firewall {
        set blocked { type ipv4_addr; elements = { 192.0.2.66 }; }
        chain input { type filter hook input priority 10; ip saddr @blocked drop; }
    }
    table ip kube-proxy-exporter {
        chain keep { counter; }
    }\n";
