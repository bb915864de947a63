//! What comes in from outside.

use proxy_abi::{Reason, proto};

use super::{
    Case, Hook, State, case,
    packet::{tcp, udp},
    quoting,
    state::{POD_A_MAC, SNAT_PORT},
};

pub fn cases() -> Vec<Case> {
    let (client, at) = ("203.0.113.9:5000", "192.168.50.1:30080");
    let (local, remote) = ("10.244.1.2:8080", "10.244.2.2:8080");
    let web = |backend: &str| State::standard().node_port(1, proto::TCP, 30_080, &[backend]);
    let router = format!("10.244.1.1:{SNAT_PORT}");
    let node = format!("192.168.50.1:{SNAT_PORT}");
    vec![
        case(
            "a NodePort's pod on this node sees the client, and answers straight out of the uplink",
            web(local),
        )
        .delivers(Hook::FromUplink, tcp(client, at, "S"), tcp(client, local, "S").hop().for_mac(POD_A_MAC))
        .sends_out(Hook::FromPod, tcp(local, client, "SA"), tcp(at, client, "SA").hop())
        .delivers(Hook::FromUplink, tcp(client, at, "A"), tcp(client, local, "A").hop().for_mac(POD_A_MAC))
        .leaves(&[
            "old 203.0.113.9:5000>192.168.50.1:30080/6 => 203.0.113.9:5000>10.244.1.2:8080 dnat",
            "old 10.244.1.2:8080>203.0.113.9:5000/6 => 192.168.50.1:30080>203.0.113.9:5000 dnat back",
        ]),
        case(
            "a NodePort's pod on another node sees the router address, its answer comes through the tunnel",
            web(remote),
        )
        .tunnels(Hook::FromUplink, tcp(client, at, "S"), tcp(&router, remote, "S").hop())
        .sends_out(
            Hook::FromOverlay("192.168.50.2", 1),
            tcp(remote, &router, "SA"),
            tcp(at, client, "SA").hop(),
        )
        .tunnels(Hook::FromUplink, tcp(client, at, "A"), tcp(&router, remote, "A").hop())
        .leaves(&[
            "old 203.0.113.9:5000>192.168.50.1:30080/6 => 10.244.1.1:61000>10.244.2.2:8080 dnat snat",
            "old 10.244.2.2:8080>10.244.1.1:61000/6 => 192.168.50.1:30080>203.0.113.9:5000 dnat snat back",
        ]),
        case(
            "what does not fit the tunnel is told so",
            State::standard().node_port(1, proto::UDP, 30_080, &[remote]),
        )
        .tells(
            Hook::FromUplink,
            udp(client, at).says(&[7; 1_423]),
            quoting("192.168.50.1", &udp(client, at).says(&[7; 1_423]), 3, 4).about(1_450),
        )
        .tunnels(
            Hook::FromUplink,
            udp(client, at).says(&[7; 1_422]),
            udp(&router, remote).says(&[7; 1_422]).hop(),
        ),
        case(
            "what does not fit the tunnel is told so, v6",
            State::standard().node_port(1, proto::UDP, 30_080, &["[fd00:2::2]:8080"]),
        )
        .tells(
            Hook::FromUplink,
            udp("[2001:db8:9::9]:5000", "[2001:db8::1]:30080").says(&[7; 1_403]),
            quoting(
                "2001:db8::1",
                &udp("[2001:db8:9::9]:5000", "[2001:db8::1]:30080").says(&[7; 1_403]),
                2,
                0,
            )
            .about(1_450),
        )
        .leaves(&[]),
        case(
            "a NodePort's pod on another node, v6",
            State::standard().node_port(1, proto::TCP, 30_080, &["[fd00:2::2]:8080"]),
        )
        .tunnels(
            Hook::FromUplink,
            tcp("[2001:db8:9::9]:5000", "[2001:db8::1]:30080", "S"),
            tcp(&format!("[fd00:1::1]:{SNAT_PORT}"), "[fd00:2::2]:8080", "S").hop(),
        )
        .sends_out(
            Hook::FromOverlay("192.168.50.2", 1),
            tcp("[fd00:2::2]:8080", &format!("[fd00:1::1]:{SNAT_PORT}"), "SA"),
            tcp("[2001:db8::1]:30080", "[2001:db8:9::9]:5000", "SA").hop(),
        ),
        case("a NodePort's backend in another node's own network", web("192.168.50.2:8080"))
            .sends_out(Hook::FromUplink, tcp(client, at, "S"), tcp(&node, "192.168.50.2:8080", "S").hop())
            .sends_out(Hook::FromUplink, tcp("192.168.50.2:8080", &node, "SA"), tcp(at, client, "SA").hop()),
        case("a NodePort's backend in this node's own network", web("192.168.50.1:8080"))
            .changes(Hook::FromUplink, tcp(client, at, "S"), tcp(client, "192.168.50.1:8080", "S"))
            .changes(Hook::ToUplink, tcp("192.168.50.1:8080", client, "SA"), tcp(at, client, "SA"))
            // What already has its final form is left alone on the same device.
            .passes(Hook::ToUplink, tcp(at, client, "SA")),
        case(
            "a service address from outside is served too",
            State::standard().service(1, proto::TCP, "10.96.0.10:80", &[remote]),
        )
        .tunnels(
            Hook::FromUplink,
            tcp(client, "10.96.0.10:80", "S"),
            tcp(&router, remote, "S").hop(),
        ),
        case(
            "two services with one backend and a client that uses one port for both",
            State::standard().node_port(1, proto::TCP, 30_080, &[local]).node_port(
                2,
                proto::TCP,
                30_081,
                &[local],
            ),
        )
        .delivers(Hook::FromUplink, tcp(client, at, "S"), tcp(client, local, "S").hop().for_mac(POD_A_MAC))
        .delivers(
            Hook::FromUplink,
            tcp(client, "192.168.50.1:30081", "S"),
            tcp(&format!("203.0.113.9:{SNAT_PORT}"), local, "S").hop().for_mac(POD_A_MAC),
        )
        .sends_out(
            Hook::FromPod,
            tcp(local, &format!("203.0.113.9:{SNAT_PORT}"), "SA"),
            tcp("192.168.50.1:30081", client, "SA").hop(),
        ),
        case("what is for no service is the stack's", web(remote))
            .passes(Hook::FromUplink, tcp(client, "192.168.50.1:22", "S"))
            .passes(Hook::FromUplink, tcp(client, "192.168.50.1:30081", "S"))
            .passes(Hook::FromUplink, udp(client, at))
            .passes(Hook::FromUplink, udp("192.168.50.2:40000", "192.168.50.1:4789"))
            .passes(Hook::FromUplink, tcp(client, "10.244.1.2:8080", "S"))
            .leaves(&[]),
        case("a connection from before we came is the stack's, which may know it", web(remote))
            .passes(Hook::FromUplink, tcp(client, at, "A"))
            .passes(Hook::FromUplink, tcp(client, at, "FA"))
            .tunnels(Hook::FromUplink, tcp(client, at, "S"), tcp(&router, remote, "S").hop()),
        case("a pod's address on the wire is made up", web(remote))
            .drops(Hook::FromUplink, tcp("10.244.2.9:1", at, "S"), Reason::SourceSpoofed)
            .drops(Hook::FromUplink, udp("10.244.2.9:1", "10.244.1.2:2"), Reason::SourceSpoofed)
            .drops(Hook::FromUplink, udp("10.244.1.3:1", "192.168.50.1:2"), Reason::SourceSpoofed),
    ]
}
