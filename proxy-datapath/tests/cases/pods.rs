//! What pods send, and what the stack sends to them.

use proxy_abi::{Reason, facts_flag, proto};

use super::{
    Case, Hook, Packet, State, case, echo,
    packet::{quoting, tcp, udp},
    state::{HOST_MAC, POD_A_MAC, POD_B_MAC, SNAT_PORT},
};

const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xee];

pub fn cases() -> Vec<Case> {
    let mut cases = reach();
    cases.extend(services());
    cases.extend(outside());
    cases.extend(spoofs());
    cases.extend(stack());
    cases
}

fn reach() -> Vec<Case> {
    let (b, remote) = ("10.244.1.3:7000", "10.244.2.2:7000");
    let (a, out) = ("10.244.1.2:6000", "203.0.113.9:53");
    let (a6, out6) = ("[fd00:1::2]:6000", "[2001:db8:9::9]:53");
    vec![
        case("a pod of the same node is reached past the stack", State::standard())
            .delivers(Hook::FromPod, udp(a, b), udp(a, b).hop().for_mac(POD_B_MAC))
            .leaves(&[]),
        case("a remote pod is reached through the tunnel", State::standard())
            .tunnels(Hook::FromPod, tcp(a, remote, "S"), tcp(a, remote, "S").hop())
            .leaves(&[]),
        case("a remote pod is reached through the tunnel, v6", State::standard()).tunnels(
            Hook::FromPod,
            udp("[fd00:1::2]:6000", "[fd00:2::2]:7000"),
            udp("[fd00:1::2]:6000", "[fd00:2::2]:7000").hop(),
        ),
        case("the node itself is reached through the stack", State::standard())
            .passes(Hook::FromPod, udp(a, "192.168.50.1:7000"))
            .passes(Hook::FromPod, udp(a, "10.244.1.1:7000")),
        case("an address of the pod range that no pod has", State::standard()).drops(
            Hook::FromPod,
            udp(a, "10.244.1.77:7000"),
            Reason::UnknownEndpoint,
        ),
        case("a remote pod while the tunnel is down", State::standard().facts(|c| c.overlay_ifindex = 0))
            .drops(Hook::FromPod, udp(a, remote), Reason::TunnelDown),
        case("a remote pod without the tunnel is the kernel's", State::standard().facts(|c| c.flags = 0))
            .passes(Hook::FromPod, udp(a, remote)),
        case("a packet on its last hop ends at the router, as traceroute sees it", State::standard())
            .ends(Hook::FromPod, udp(a, b).ttl(1), quoting("10.244.1.1", &udp(a, b).ttl(1), 11, 0))
            .ends(Hook::FromPod, udp(a, remote).ttl(1), quoting("10.244.1.1", &udp(a, remote).ttl(1), 11, 0))
            .ends(Hook::FromPod, udp(a, out).ttl(1), quoting("10.244.1.1", &udp(a, out).ttl(1), 11, 0))
            .ends(Hook::FromPod, udp(a6, out6).ttl(1), quoting("fd00:1::1", &udp(a6, out6).ttl(1), 3, 0))
            .drops(Hook::FromPod, quoting("10.244.1.2", &udp(b, a), 3, 3).ttl(1), Reason::TtlExpired)
            .leaves(&[]),
        case(
            "without a configuration everything is the stack's",
            State::standard().facts(|c| c.abi_version = 0),
        )
        .passes(Hook::FromPod, udp("10.9.9.9:1", b))
        .passes(Hook::FromUplink, udp("10.9.9.9:1", b))
        .passes(Hook::ToUplink, udp("10.9.9.9:1", b)),
    ]
}

fn services() -> Vec<Case> {
    let (a, vip, remote) = ("10.244.1.2:6000", "10.96.0.10:53", "10.244.2.2:7000");
    let dns = || State::standard().service(1, proto::UDP, vip, &[remote]);
    let snat = format!("10.244.1.1:{SNAT_PORT}");
    let node = format!("192.168.50.1:{SNAT_PORT}");
    vec![
        case("a datagram to a service goes to its backend, and its answer comes from the service", dns())
            .tunnels(Hook::FromPod, udp(a, vip), udp(a, remote).hop())
            .delivers(
                Hook::FromOverlay("192.168.50.2", 1),
                udp(remote, a),
                udp(vip, a).hop().for_mac(POD_A_MAC),
            )
            .leaves(&[
                "new 10.244.1.2:6000>10.96.0.10:53/17 => 10.244.1.2:6000>10.244.2.2:7000 dnat",
                "new 10.244.2.2:7000>10.244.1.2:6000/17 => 10.96.0.10:53>10.244.1.2:6000 dnat back",
            ]),
        case(
            "a datagram to a service, v6",
            State::standard().service(1, proto::UDP, "[fd00:96::10]:53", &["[fd00:2::2]:7000"]),
        )
        .tunnels(
            Hook::FromPod,
            udp("[fd00:1::2]:6000", "[fd00:96::10]:53"),
            udp("[fd00:1::2]:6000", "[fd00:2::2]:7000").hop(),
        )
        .delivers(
            Hook::FromOverlay("192.168.50.2", 1),
            udp("[fd00:2::2]:7000", "[fd00:1::2]:6000"),
            udp("[fd00:96::10]:53", "[fd00:1::2]:6000").hop().for_mac(POD_A_MAC),
        ),
        case("a datagram without a checksum stays without one", dns()).tunnels(
            Hook::FromPod,
            udp(a, vip).without_checksum(),
            udp(a, remote).hop().without_checksum(),
        ),
        case(
            "a connection whose socket was not hooked is balanced by its packets",
            State::standard().service(1, proto::TCP, "10.96.0.10:80", &["10.244.1.3:8080"]),
        )
        .delivers(
            Hook::FromPod,
            tcp(a, "10.96.0.10:80", "S"),
            tcp(a, "10.244.1.3:8080", "S").hop().for_mac(POD_B_MAC),
        ),
        case(
            "a pod that is its own backend meets itself as the router address",
            State::standard().service(1, proto::UDP, vip, &["10.244.1.2:7000"]),
        )
        .delivers(Hook::FromPod, udp(a, vip), udp(&snat, "10.244.1.2:7000").hop().for_mac(POD_A_MAC))
        .delivers(Hook::FromPod, udp("10.244.1.2:7000", &snat), udp(vip, a).hop().for_mac(POD_A_MAC))
        .leaves(&[
            "new 10.244.1.2:6000>10.96.0.10:53/17 => 10.244.1.1:61000>10.244.1.2:7000 dnat snat",
            "new 10.244.1.2:7000>10.244.1.1:61000/17 => 10.96.0.10:53>10.244.1.2:6000 dnat snat back",
        ]),
        case(
            "a backend in another node's own network sees this node's address",
            State::standard().service(1, proto::UDP, vip, &["192.168.50.2:7000"]),
        )
        .sends_out(Hook::FromPod, udp(a, vip), udp(&node, "192.168.50.2:7000").hop())
        .delivers(Hook::FromUplink, udp("192.168.50.2:7000", &node), udp(vip, a).hop().for_mac(POD_A_MAC)),
        case(
            "a backend in this node's own network is the stack's, its answer is translated on the way to the pod",
            State::standard().service(1, proto::UDP, vip, &["192.168.50.1:7000"]),
        )
        .changes(Hook::FromPod, udp(a, vip), udp(a, "192.168.50.1:7000"))
        .changes(Hook::ToPod, udp("192.168.50.1:7000", a), udp(vip, a))
        // A server on the wildcard address answers from the route's source.
        .changes(Hook::ToPod, udp("10.244.1.1:7000", a), udp(vip, a)),
        case(
            "a NodePort of its own node serves a pod",
            State::standard().node_port(1, proto::UDP, 30_080, &[remote]),
        )
        .tunnels(Hook::FromPod, udp(a, "192.168.50.1:30080"), udp(a, remote).hop())
        .passes(Hook::FromPod, udp(a, "192.168.50.1:30081")),
    ]
}

fn outside() -> Vec<Case> {
    let (a, outside) = ("10.244.1.2:6000", "203.0.113.9:443");
    let node = format!("192.168.50.1:{SNAT_PORT}");
    let no_masquerade = State::standard().facts(|c| c.flags = facts_flag::TUNNEL);
    vec![
        case("the outside sees the node's address", State::standard())
            .sends_out(Hook::FromPod, tcp(a, outside, "S"), tcp(&node, outside, "S").hop())
            .delivers(
                Hook::FromUplink,
                tcp(outside, &node, "SA"),
                tcp(outside, a, "SA").hop().for_mac(POD_A_MAC),
            )
            .sends_out(Hook::FromPod, tcp(a, outside, "A"), tcp(&node, outside, "A").hop())
            .leaves(&[
                "old 10.244.1.2:6000>203.0.113.9:443/6 => 192.168.50.1:61000>203.0.113.9:443 snat",
                "old 203.0.113.9:443>192.168.50.1:61000/6 => 203.0.113.9:443>10.244.1.2:6000 snat back",
            ]),
        case("the outside sees the node's address, v6", State::standard()).sends_out(
            Hook::FromPod,
            tcp("[fd00:1::2]:6000", "[2001:db8:9::9]:443", "S"),
            tcp(&format!("[2001:db8::1]:{SNAT_PORT}"), "[2001:db8:9::9]:443", "S").hop(),
        ),
        case("a ping to the outside has its identifier translated, and back", State::standard())
            .sends_out(
                Hook::FromPod,
                echo("10.244.1.2", "203.0.113.9", 77, false),
                echo("192.168.50.1", "203.0.113.9", SNAT_PORT, false).hop(),
            )
            .delivers(
                Hook::FromUplink,
                echo("203.0.113.9", "192.168.50.1", SNAT_PORT, true),
                echo("203.0.113.9", "10.244.1.2", 77, true).hop().for_mac(POD_A_MAC),
            ),
        case("a protocol without ports is masqueraded by address, once a destination", State::standard())
            .sends_out(Hook::FromPod, udp(a, outside).protocol(47), udp(&node, outside).protocol(47).hop())
            .delivers(
                Hook::FromUplink,
                udp(outside, &node).protocol(47),
                udp(outside, a).protocol(47).hop().for_mac(POD_A_MAC),
            ),
        case("without a route the stack is left to say so", State::standard())
            .passes(Hook::FromPod, tcp(a, "198.51.100.1:80", "S"))
            .leaves(&[]),
        case("without masquerade the outside is the stack's", no_masquerade)
            .passes(Hook::FromPod, tcp(a, outside, "S")),
        case("what went through the stack is masqueraded on its way out", State::standard())
            .changes(Hook::ToUplink, tcp(a, outside, "S"), tcp(&node, outside, "S"))
            .passes(Hook::ToUplink, tcp(&node, outside, "S"))
            .passes(Hook::ToUplink, udp("192.168.50.1:4000", "192.168.50.2:4789")),
        case("one source port can serve many destinations, and one destination only once", State::standard())
            .sends_out(Hook::FromPod, tcp(a, outside, "S"), tcp(&node, outside, "S").hop())
            .delivers(
                Hook::FromUplink,
                tcp(outside, &node, "SA"),
                tcp(outside, a, "SA").hop().for_mac(POD_A_MAC),
            )
            .sends_out(Hook::FromPod, tcp(a, outside, "A"), tcp(&node, outside, "A").hop())
            .sends_out(Hook::FromPod, tcp(a, "203.0.113.9:80", "S"), tcp(&node, "203.0.113.9:80", "S").hop())
            .drops(Hook::FromPod, tcp("10.244.1.2:6001", outside, "S"), Reason::SnatExhausted),
    ]
}

fn spoofs() -> Vec<Case> {
    let to = "10.244.1.3:7000";
    let arp = |mac: [u8; 6], ip: [u8; 4]| {
        let mut frame = [&HOST_MAC[..], &POD_A_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &mac, &ip].concat();
        frame.extend([0; 10]);
        Packet::frame(&frame)
    };
    let link_local = |kind: u8| {
        let mut packet = echo("fe80::2", "ff02::2", 0, false);
        packet.transport = super::packet::Transport::Error { kind, code: 0, mtu: 0 };
        packet
    };
    // A neighbour solicitation, as the kernel sends it from a link-local address only.
    let solicits = |from: &str| {
        let mut packet = echo(from, "ff02::2", 0, false);
        packet.transport = super::packet::Transport::Error { kind: 135, code: 0, mtu: 0 };
        packet
    };
    let mut foreign = udp("10.244.1.2:1", to).bytes();
    (foreign[12], foreign[13]) = (0x88, 0xcc);
    let mapped = {
        let mut bytes = udp("[fd00:1::2]:1", "[fd00:2::2]:2").bytes();
        bytes[22..38].copy_from_slice(&"::ffff:10.244.1.2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        Packet::frame(&bytes)
    };
    vec![
        case("a source address that is not the pod's", State::standard())
            .drops(Hook::FromPod, udp("10.244.1.3:1", to), Reason::SourceSpoofed)
            .drops(Hook::FromPod, udp("192.168.50.1:1", to), Reason::SourceSpoofed)
            .drops(Hook::FromPod, udp("0.0.0.0:1", to), Reason::SourceSpoofed)
            .drops(Hook::FromPod, udp("[fd00:1::3]:1", "[fd00:1::3]:2"), Reason::SourceSpoofed)
            .leaves(&[]),
        case("only link-local addresses speak for a link", State::standard())
            .passes(Hook::FromPod, solicits("fe80::2"))
            .passes(Hook::FromPod, solicits("febf::2"))
            .drops(Hook::FromPod, solicits("fec0::2"), Reason::SourceSpoofed)
            .drops(Hook::FromPod, solicits("2080::2"), Reason::SourceSpoofed)
            .drops(Hook::FromPod, solicits("fd00:1::3"), Reason::SourceSpoofed),
        case("a source MAC that is not the pod's", State::standard()).drops(
            Hook::FromPod,
            udp("10.244.1.2:1", to).by_mac(OTHER_MAC),
            Reason::MacSpoofed,
        ),
        case("a device that no pod was given", {
            let mut state = State::standard();
            state.links.clear();
            state
        })
        .drops(Hook::FromPod, udp("10.244.1.2:1", to), Reason::UnknownLink),
        case("a pod may answer for its own address by ARP and for no other", State::standard())
            .passes(Hook::FromPod, arp(POD_A_MAC, [10, 244, 1, 2]))
            .passes(Hook::FromPod, arp(POD_A_MAC, [0, 0, 0, 0]))
            .drops(Hook::FromPod, arp(POD_A_MAC, [10, 244, 1, 3]), Reason::SourceSpoofed)
            .drops(Hook::FromPod, arp(OTHER_MAC, [10, 244, 1, 2]), Reason::MacSpoofed),
        case("the loopback's addresses never come from a device", State::standard())
            .drops(Hook::FromPod, udp("127.0.0.1:1", to), Reason::LoopbackSource)
            .drops(Hook::FromPod, udp("10.244.1.2:1", "127.0.0.1:2"), Reason::LoopbackSource)
            .drops(Hook::FromUplink, udp("203.0.113.9:1", "127.0.0.1:2"), Reason::LoopbackSource)
            .drops(Hook::FromUplink, udp("127.0.0.1:1", "192.168.50.1:2"), Reason::LoopbackSource)
            .drops(Hook::FromUplink, udp("[::1]:1", "[2001:db8::1]:2"), Reason::LoopbackSource),
        case("a mapped address on the wire", State::standard())
            .drops(Hook::FromPod, mapped.clone(), Reason::MappedOnWire)
            .drops(Hook::FromUplink, mapped, Reason::MappedOnWire),
        case("neighbour discovery passes, a router advertisement does not", State::standard())
            .passes(Hook::FromPod, link_local(133))
            .passes(Hook::FromPod, link_local(135))
            .passes(Hook::FromPod, link_local(143))
            .drops(Hook::FromPod, link_local(134), Reason::SourceSpoofed)
            .drops(Hook::FromPod, link_local(137), Reason::SourceSpoofed)
            .drops(Hook::FromPod, link_local(128), Reason::SourceSpoofed),
        case("multicast stays with the stack", State::standard())
            .passes(Hook::FromPod, udp("10.244.1.2:1", "224.0.0.251:5353"))
            .passes(Hook::FromPod, udp("10.244.1.2:1", "255.255.255.255:67")),
        case("a frame that is neither IP nor ARP", State::standard())
            .drops(Hook::FromPod, Packet::frame(&foreign), Reason::UnknownProtocol)
            .passes(Hook::FromUplink, Packet::frame(&foreign)),
    ]
}

fn stack() -> Vec<Case> {
    vec![
        case("the node's probes reach a pod unchanged", State::standard())
            .passes(Hook::ToPod, tcp("10.244.1.1:40000", "10.244.1.2:8080", "S"))
            .passes(Hook::ToPod, tcp("192.168.50.1:40000", "10.244.1.2:8080", "S")),
    ]
}
