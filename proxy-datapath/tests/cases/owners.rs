//! Addresses and ports that more than one could claim.

use proxy_abi::{Reason, endpoint_flag, proto};

use super::{
    Case, Hook, State, case, echo,
    packet::{tcp, udp},
    quoting,
    state::{POD_A_MAC, POD_B_MAC, SNAT_PORT, service_ranges},
};

const CLIENT: &str = "203.0.113.9:5000";
const A: &str = "10.244.1.2:6000";
const LOCAL: &str = "10.244.1.3:8080";
const REMOTE: &str = "10.244.2.2:8080";

pub fn cases() -> Vec<Case> {
    let mut cases = external_addresses();
    cases.extend(node_port_numbers());
    cases.extend(other_ranges());
    cases.extend(pods_unknown());
    cases
}

/// An externalIP that the node itself has, or a process of it listens on.
fn external_addresses() -> Vec<Case> {
    let at = "192.168.50.1:80";
    let owned = || State::standard().service(1, proto::TCP, at, &[LOCAL]);
    let on_node_two = State::standard().service(1, proto::TCP, "192.168.50.2:80", &[LOCAL]);
    vec![
        case(
            "an externalIP that is the node's own address serves its port before any process of the node",
            owned(),
        )
        .delivers(Hook::FromUplink, tcp(CLIENT, at, "S"), tcp(CLIENT, LOCAL, "S").hop().for_mac(POD_B_MAC))
        .delivers(Hook::FromPod, tcp(A, at, "S"), tcp(A, LOCAL, "S").hop().for_mac(POD_B_MAC)),
        case("an externalIP that is the node's own address takes none of its other ports", owned())
            .passes(Hook::FromUplink, tcp(CLIENT, "192.168.50.1:22", "S"))
            .passes(Hook::FromUplink, udp(CLIENT, at))
            .passes(Hook::FromUplink, echo("203.0.113.9", "192.168.50.1", 1, false))
            .passes(Hook::FromPod, tcp(A, "192.168.50.1:22", "S"))
            .leaves(&[]),
        case("an externalIP that is another node's address is served from here too", on_node_two)
            .delivers(
                Hook::FromPod,
                tcp(A, "192.168.50.2:80", "S"),
                tcp(A, LOCAL, "S").hop().for_mac(POD_B_MAC),
            )
            .sends_out(
                Hook::FromPod,
                tcp(A, "192.168.50.2:22", "S"),
                tcp(&format!("192.168.50.1:{SNAT_PORT}"), "192.168.50.2:22", "S").hop(),
            ),
        case(
            "an externalIP without endpoints refuses, though a process of the node listens there",
            State::standard().service(1, proto::TCP, at, &[]),
        )
        .answers(Hook::FromUplink, tcp(CLIENT, at, "S"), tcp(at, CLIENT, "RA").seq(0, Some(1_001)))
        .answers(Hook::FromPod, tcp(A, at, "S"), tcp(at, A, "RA").seq(0, Some(1_001))),
    ]
}

/// A port number that is a NodePort's and somebody else's.
fn node_port_numbers() -> Vec<Case> {
    let at = "192.168.50.1:30080";
    let client = "203.0.113.9:30080";
    let router = format!("10.244.1.1:{SNAT_PORT}");
    let node = format!("192.168.50.1:{SNAT_PORT}");
    let web = |backend: &str| State::standard().node_port(1, proto::TCP, 30_080, &[backend]);
    let dns = |backend: &str| State::standard().node_port(1, proto::UDP, 30_080, &[backend]);
    let own = "10.244.1.2:30080";
    vec![
        case("a client whose source port is the NodePort's number, backend here", web("10.244.1.2:8080"))
            .delivers(
                Hook::FromUplink,
                tcp(client, at, "S"),
                tcp(client, "10.244.1.2:8080", "S").hop().for_mac(POD_A_MAC),
            )
            .sends_out(Hook::FromPod, tcp("10.244.1.2:8080", client, "SA"), tcp(at, client, "SA").hop())
            .delivers(
                Hook::FromUplink,
                tcp(client, at, "A"),
                tcp(client, "10.244.1.2:8080", "A").hop().for_mac(POD_A_MAC),
            ),
        case("a client whose source port is the NodePort's number, backend elsewhere", dns(REMOTE))
            .tunnels(Hook::FromUplink, udp(client, at), udp(&router, REMOTE).hop())
            .sends_out(Hook::FromOverlay("192.168.50.2", 1), udp(REMOTE, &router), udp(at, client).hop())
            .tunnels(Hook::FromUplink, udp(client, at), udp(&router, REMOTE).hop()),
        case(
            "a pod whose source port is a NodePort's number reaches the outside and hears the answer",
            web(LOCAL),
        )
        .sends_out(Hook::FromPod, tcp(own, "203.0.113.9:443", "S"), tcp(&node, "203.0.113.9:443", "S").hop())
        .delivers(
            Hook::FromUplink,
            tcp("203.0.113.9:443", &node, "SA"),
            tcp("203.0.113.9:443", own, "SA").hop().for_mac(POD_A_MAC),
        ),
        case("the node's own connection from a port with a NodePort's number hears its answer", web(LOCAL))
            .passes(Hook::ToUplink, tcp(at, "203.0.113.9:443", "S"))
            .passes(Hook::FromUplink, tcp("203.0.113.9:443", at, "SA"))
            .passes(Hook::FromUplink, tcp("203.0.113.9:443", at, "A"))
            .leaves(&[
                "new 192.168.50.1:30080>203.0.113.9:443/6 => 192.168.50.1:30080>203.0.113.9:443",
                "new 203.0.113.9:443>192.168.50.1:30080/6 => 203.0.113.9:443>192.168.50.1:30080 back",
            ]),
        case("a NodePort goes before a process of the node that listens on its number", web(LOCAL)).delivers(
            Hook::FromUplink,
            tcp(CLIENT, at, "S"),
            tcp(CLIENT, LOCAL, "S").hop().for_mac(POD_B_MAC),
        ),
        case("the number of a TCP NodePort is free for a process that listens by UDP", web(LOCAL))
            .passes(Hook::FromUplink, udp(CLIENT, at))
            .passes(Hook::FromPod, udp(A, at))
            .leaves(&[]),
    ]
}

/// Service ranges were changed (ServiceCIDR): old services are still there.
fn other_ranges() -> Vec<Case> {
    let (old, new) = ("10.96.0.10:80", "10.112.0.10:80");
    let node = format!("192.168.50.1:{SNAT_PORT}");
    let moved = || {
        State::standard()
            .service(1, proto::TCP, old, &[LOCAL])
            .service(2, proto::TCP, new, &[REMOTE])
            .facts(|facts| facts.service_ranges = service_ranges(&[("10.112.0.0", 96 + 12)]))
    };
    let ranges = (0..8).map(|n| format!("10.{}.0.0", 100 + n)).collect::<Vec<_>>();
    let ranges: Vec<(&str, u32)> = ranges.iter().map(|first| (first.as_str(), 96 + 16)).collect();
    let eight = || State::standard().facts(|facts| facts.service_ranges = service_ranges(&ranges));
    vec![
        case("after a change of the service range services of the old one go on", moved())
            .delivers(Hook::FromPod, tcp(A, old, "S"), tcp(A, LOCAL, "S").hop().for_mac(POD_B_MAC))
            .tunnels(Hook::FromPod, tcp(A, new, "S"), tcp(A, REMOTE, "S").hop()),
        case("after a change of the service range its addresses without a service are dropped, the old one's are not", moved())
            .drops(Hook::FromPod, tcp(A, "10.112.0.99:80", "S"), Reason::UnallocatedService)
            .answers(
                Hook::FromPod,
                tcp(A, "10.112.0.10:81", "S"),
                tcp("10.112.0.10:81", A, "RA").seq(0, Some(1_001)),
            )
            .sends_out(Hook::FromPod, tcp(A, "10.96.0.99:80", "S"), tcp(&node, "10.96.0.99:80", "S").hop()),
        case("the last address of a narrow range belongs to it, the one behind does not", {
            State::standard().facts(|facts| facts.service_ranges = service_ranges(&[("10.96.0.0", 96 + 29)]))
        })
        .drops(Hook::FromPod, tcp(A, "10.96.0.7:80", "S"), Reason::UnallocatedService)
        .sends_out(Hook::FromPod, tcp(A, "10.96.0.8:80", "S"), tcp(&node, "10.96.0.8:80", "S").hop()),
        case("of eight ranges each one's addresses without a service are dropped, and none between them", eight())
            .drops(Hook::FromPod, tcp(A, "10.100.0.99:80", "S"), Reason::UnallocatedService)
            .drops(Hook::FromPod, tcp(A, "10.104.0.99:80", "S"), Reason::UnallocatedService)
            .drops(Hook::FromPod, tcp(A, "10.107.255.255:80", "S"), Reason::UnallocatedService)
            .sends_out(Hook::FromPod, tcp(A, "10.108.0.0:80", "S"), tcp(&node, "10.108.0.0:80", "S").hop()),
    ]
}

/// The service is known, its pod is not yet: endpoint slices and the plugin's entries come by different ways.
fn pods_unknown() -> Vec<Case> {
    let vip = "10.96.0.10:80";
    let without_b = |mut state: State| {
        state
            .endpoints
            .retain(|(_, endpoint)| endpoint.flags & endpoint_flag::POD == 0 || endpoint.mac != POD_B_MAC);
        state
    };
    let web = || without_b(State::standard().service(1, proto::TCP, vip, &[LOCAL]));
    vec![
        case("a service whose pod is not known here yet keeps its clients waiting, and refuses none", web())
            .drops(Hook::FromPod, tcp(A, vip, "S"), Reason::UnknownEndpoint)
            .drops(Hook::FromUplink, tcp(CLIENT, vip, "S"), Reason::UnknownEndpoint),
        case("a pod that is not known yet is not reached past its isolation", without_b(State::standard()))
            .drops(Hook::FromPod, tcp(A, LOCAL, "S"), Reason::UnknownEndpoint)
            .drops(Hook::FromOverlay("192.168.50.2", 1), tcp(REMOTE, LOCAL, "S"), Reason::UnknownEndpoint)
            .leaves(&[]),
        case("a complaint about a pod that is not known yet goes nowhere", without_b(State::standard()))
            .drops(
                Hook::FromOverlay("192.168.50.2", 1),
                quoting("10.244.2.2", &tcp(LOCAL, REMOTE, "A"), 3, 3),
                Reason::UnknownEndpoint,
            ),
    ]
}
