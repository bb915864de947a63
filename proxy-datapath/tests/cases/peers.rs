//! What only nodes may say to nodes: the tunnel's datagrams, and packets inside packets.

use proxy_abi::{Endpoint, Reason, endpoint_flag, facts_flag, flow_flag, proto};

use super::{
    Case, Hook, Packet, State, case,
    packet::udp,
    state::{SNAT_PORT, addr, tuple},
};

const A: &str = "10.244.1.2:6000";
const A6: &str = "[fd00:1::2]:6000";
const TWO: &str = "192.168.50.2:4789";
const TWO6: &str = "[2001:db8::2]:4789";
const VIP: &str = "10.96.0.10:53";
const CLIENT: &str = "203.0.113.9:5000";
const NODE_PORT: &str = "192.168.50.1:30080";

pub fn cases() -> Vec<Case> {
    let mut cases = tunnel();
    cases.extend(through_services());
    cases.extend(by_other_hooks());
    cases.extend(inside_packets());
    cases
}

fn forged(hook: Hook, name: &'static str, state: State, packets: &[Packet]) -> Case {
    packets
        .iter()
        .fold(case(name, state), |case, packet| case.drops(hook, packet.clone(), Reason::SpokeAsNode))
}

/// Node two by both of its addresses.
fn nodes() -> State {
    let mut state = State::standard();
    state.tunnel_peers.push(addr("2001:db8::2"));
    state
}

fn tunnel() -> Vec<Case> {
    let first = udp(A, TWO).says(&[1; 40]).piece(9, 0, true);
    let later = udp(A, TWO).says(&[2; 30]).rest(proto::UDP).piece(9, 48, false);
    let first6 = udp(A6, TWO6).says(&[1; 40]).piece6(9, 0, true);
    let later6 = udp(A6, TWO6).says(&[2; 30]).rest(proto::UDP).piece6(9, 48, false);
    let outside = "203.0.113.9:4789";
    let node = format!("192.168.50.1:{SNAT_PORT}");
    let before_it_was_a_node = nodes().flow(
        tuple(A, TWO, proto::UDP),
        tuple(&node, TWO, proto::UDP),
        |flow| flow.flags |= flow_flag::SNAT,
        0,
    );
    vec![
        forged(
            Hook::FromPod,
            "a pod can not speak to the tunnel's port of a node",
            nodes(),
            &[udp(A, TWO), udp(A, "192.168.50.1:4789"), udp(A, "10.244.1.1:4789")],
        )
        .leaves(&[]),
        forged(
            Hook::FromPod,
            "a pod can not speak to the tunnel's port of a node, v6",
            nodes(),
            &[udp(A6, TWO6), udp(A6, "[2001:db8::1]:4789"), udp(A6, "[fd00:1::1]:4789")],
        )
        .leaves(&[]),
        forged(Hook::FromPod, "nor in fragments", nodes(), &[first, later]),
        forged(Hook::FromPod, "nor in fragments, v6", nodes(), &[first6, later6]),
        forged(
            Hook::FromPod,
            "nor behind an extension header",
            nodes(),
            &[udp(A6, TWO6).extension(60, &[0, 1, 4, 0, 0, 0, 0])],
        ),
        forged(
            Hook::FromPod,
            "nor where pods are not masqueraded",
            nodes().facts(|facts| facts.flags &= !facts_flag::MASQUERADE),
            &[udp(A, TWO)],
        ),
        forged(
            Hook::FromPod,
            "nor by a flow that is older than its receiver is a node",
            before_it_was_a_node,
            &[udp(A, TWO)],
        ),
        case("a pod may speak to anybody else's port of that number, and to a node's other ports", nodes())
            .sends_out(Hook::FromPod, udp(A, outside), udp(&node, outside).hop())
            .sends_out(Hook::FromPod, udp(A, "192.168.50.2:4790"), udp(&node, "192.168.50.2:4790").hop())
            .tunnels(Hook::FromPod, udp(A, "10.244.2.2:4789"), udp(A, "10.244.2.2:4789").hop()),
    ]
}

/// A slice written by hand may name any address.
fn through_services() -> Vec<Case> {
    let by_address = |backend: &str| nodes().service(1, proto::UDP, VIP, &[backend]);
    let by_port = |backend: &str| nodes().node_port(1, proto::UDP, 30_080, &[backend]);
    let both = [udp(A, VIP), udp(A, NODE_PORT)];
    let mut cases = Vec::new();
    for (name, backend) in [
        ("nor through a service whose endpoint is another node's tunnel", TWO),
        ("nor through a service whose endpoint is its own node's tunnel", "192.168.50.1:4789"),
    ] {
        cases.push(forged(Hook::FromPod, name, by_address(backend), &both[..1]).leaves(&[]));
        cases.push(forged(Hook::FromPod, name, by_port(backend), &both[1..]).leaves(&[]));
        let outside = [udp(CLIENT, NODE_PORT), udp("192.168.50.2:5000", NODE_PORT)];
        let name = "a client outside does not speak as the node that balances it";
        cases.push(forged(Hook::FromUplink, name, by_port(backend), &outside).leaves(&[]));
    }
    cases.push(
        forged(
            Hook::FromPod,
            "nor through a service whose endpoint is another node's tunnel, v6",
            nodes().service(1, proto::UDP, "[fd00:96::10]:53", &[TWO6]),
            &[udp(A6, "[fd00:96::10]:53")],
        )
        .leaves(&[]),
    );
    cases
}

fn by_other_hooks() -> Vec<Case> {
    let mut two_addresses = nodes();
    let own = Endpoint { flags: endpoint_flag::NODE, ..Endpoint::default() };
    two_addresses.endpoints.push((addr("192.168.60.1"), own));
    vec![
        forged(Hook::ToUplink, "nor by the node's stack", nodes(), &[udp(A, TWO)]).leaves(&[]),
        case("the node itself may speak to another's tunnel", nodes())
            .passes(Hook::ToUplink, udp("192.168.50.1:40000", TWO))
            .passes(Hook::FromUplink, udp("192.168.50.2:40000", "192.168.50.1:4789"))
            .leaves(&[]),
        forged(
            Hook::FromOverlay("192.168.50.2", 1),
            "a remote pod can not speak to the tunnel's port of this node",
            nodes(),
            &[udp("10.244.2.2:6000", "10.244.1.1:4789"), udp("10.244.2.2:6000", "192.168.50.1:4789")],
        ),
        case("a node's datagram to the tunnel at an address that no node sends to is made up", two_addresses)
            .drops(Hook::FromUplink, udp("192.168.50.2:40000", "192.168.60.1:4789"), Reason::SpokeAsNode)
            // A stranger's is dropped by the tunnel's own device, and what passes through is others'.
            .passes(Hook::FromUplink, udp("192.168.50.200:40000", "192.168.60.1:4789"))
            .passes(Hook::FromUplink, udp("192.168.50.2:40000", "203.0.113.9:4789")),
        case(
            "the tunnel's port is nobody's source port",
            nodes().facts(|facts| (facts.snat_min, facts.snat_max) = (4_789, 4_789)),
        )
        .drops(Hook::FromPod, udp(A, CLIENT), Reason::SnatExhausted),
    ]
}

fn inside_packets() -> Vec<Case> {
    let inside = |from: &str, to: &str, protocol| udp(from, to).protocol(protocol);
    let node = format!("192.168.50.1:{SNAT_PORT}");
    let outside = inside(A, CLIENT, 4);
    vec![
        forged(
            Hook::FromPod,
            "a pod can not send a node what looks like a balancer's",
            nodes(),
            &[
                inside(A, TWO, 4),
                inside(A, TWO, 41),
                inside(A6, TWO6, 41),
                inside(A6, TWO6, 4),
                inside(A, TWO, 4).piece(9, 0, true),
                inside(A, TWO, 4).rest(4).piece(9, 48, false),
                inside(A, "192.168.50.1:1", 4),
            ],
        )
        .leaves(&[]),
        case("a pod may have a tunnel of its own to somebody else", nodes()).sends_out(
            Hook::FromPod,
            outside.clone(),
            inside(&node, CLIENT, 4).hop(),
        ),
    ]
}
