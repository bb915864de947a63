//! Traffic policies and source ranges: who is served by which backends.

use proxy_abi::{Frontend, Reason, Window, frontend_flag, proto};

use super::{
    Case, Hook, State, case,
    packet::tcp,
    state::{POD_B_MAC, SNAT_PORT},
};

pub fn cases() -> Vec<Case> {
    let (client, at) = ("203.0.113.9:5000", "192.168.50.1:30080");
    let (pod, local, remote) = ("10.244.1.2:6000", "10.244.1.3:8080", "10.244.2.2:8080");
    let lb = "198.51.101.1:80";
    // As the agent writes it: remote ones first, then those on this node.
    let external_local = |backends: &[&str], inside: u32, outside: (u32, u32)| {
        State::standard().node_port(1, proto::TCP, 30_080, backends).frontends(|frontend: &mut Frontend| {
            let first = frontend.inside.first;
            frontend.inside = Window { first, count: inside };
            frontend.outside = Window { first: first + outside.0, count: outside.1 };
            frontend.flags |= frontend_flag::LOCAL_ONLY | frontend_flag::DROP_IF_EMPTY;
        })
    };
    let ranged = || {
        State::standard().service(1, proto::TCP, lb, &["10.244.1.3:8080"]).source_range(1, "203.0.113.0", 24)
    };
    let stranger = "203.0.114.9:5000";
    vec![
        case(
            "eTP Local: an outsider gets this node's endpoint and keeps its address",
            external_local(&[remote, local], 2, (1, 1)),
        )
        .delivers(
            Hook::FromUplink,
            tcp(client, at, "S"),
            tcp(client, local, "S").hop().for_mac(POD_B_MAC),
        ),
        case("eTP Local: a pod gets endpoints of other nodes", external_local(&[remote], 1, (1, 0))).tunnels(
            Hook::FromPod,
            tcp(pod, at, "S"),
            tcp(pod, remote, "S").hop(),
        ),
        case(
            "eTP Local: without an endpoint here outsiders meet silence",
            external_local(&[remote], 1, (1, 0)),
        )
        .drops(Hook::FromUplink, tcp(client, at, "S"), Reason::NoLocalEndpoint)
        .leaves(&[]),
        case(
            "eTP Local: without any endpoint everyone is refused",
            State::standard().node_port(1, proto::TCP, 30_080, &[]),
        )
        .answers(Hook::FromUplink, tcp(client, at, "S"), tcp(at, client, "RA").seq(0, Some(1_001))),
        case(
            "eTP Local: outsiders may use a terminating endpoint here while pods use ready ones elsewhere",
            external_local(&[remote, local], 1, (1, 1)),
        )
        .delivers(Hook::FromUplink, tcp(client, at, "S"), tcp(client, local, "S").hop().for_mac(POD_B_MAC))
        .tunnels(Hook::FromPod, tcp(pod, at, "S"), tcp(pod, remote, "S").hop()),
        case("source ranges: a client inside is served", ranged()).delivers(
            Hook::FromUplink,
            tcp(client, lb, "S"),
            tcp(client, local, "S").hop().for_mac(POD_B_MAC),
        ),
        case("source ranges: a client outside is dropped", ranged())
            .drops(Hook::FromUplink, tcp(stranger, lb, "S"), Reason::SourceRange)
            .leaves(&[]),
        case("source ranges: so is a pod that is in none", ranged()).drops(
            Hook::FromPod,
            tcp(pod, lb, "S"),
            Reason::SourceRange,
        ),
        case(
            "source ranges: a pod whose range is listed is served",
            ranged().source_range(1, "10.244.0.0", 16),
        )
        .delivers(Hook::FromPod, tcp(pod, lb, "S"), tcp(pod, local, "S").hop().for_mac(POD_B_MAC)),
        case(
            "source ranges: another service's are not this one's",
            State::standard().service(2, proto::TCP, lb, &["10.244.1.3:8080"]).source_range(1, "0.0.0.0", 0),
        )
        .drops(Hook::FromUplink, tcp(client, lb, "S"), Reason::SourceRange),
        case(
            "source ranges, v6",
            State::standard()
                .service(1, proto::TCP, "[2001:db8:1b::1]:80", &["[fd00:2::2]:8080"])
                .source_range(1, "2001:db8:9::", 48),
        )
        .drops(Hook::FromUplink, tcp("[2001:db8:a::9]:5000", "[2001:db8:1b::1]:80", "S"), Reason::SourceRange)
        .tunnels(
            Hook::FromUplink,
            tcp("[2001:db8:9::9]:5000", "[2001:db8:1b::1]:80", "S"),
            tcp(&format!("[fd00:1::1]:{SNAT_PORT}"), "[fd00:2::2]:8080", "S").hop(),
        ),
        case("a NodePort on an address that does not serve them is the node's own", {
            let mut state = State::standard().node_port(1, proto::TCP, 30_080, &[local]);
            for (_, endpoint) in &mut state.endpoints {
                endpoint.flags &= !proxy_abi::endpoint_flag::NODE_PORT;
            }
            state
        })
        .passes(Hook::FromUplink, tcp(client, at, "S")),
    ]
}
