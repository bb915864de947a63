//! Which flows are evicted when the seats run out.

use proxy_abi::{Flow, flow_flag, frontend_flag, proto};
use proxy_datapath::{Action, Tables};

use crate::{
    cases::{
        Hook, Packet, State,
        packet::{tcp, udp},
        state::tuple,
    },
    memory::{Bytes, Maps, run},
};

const AT: &str = "192.168.50.1:30080";
const POD: &str = "10.244.1.2:8080";
const SEATS: u32 = 8;

struct Node(Maps);

impl Node {
    fn new(protocol: u8) -> Node {
        let state = State::standard().node_port(1, protocol, 30_080, &[POD]);
        Node(Maps::new(&state.facts(|facts| facts.flow_queue = SEATS)))
    }

    fn comes_in(&self, packet: Packet) {
        let mut bytes = Bytes { data: packet.bytes(), uplink: 7 };
        assert_eq!(run(Hook::FromUplink, &mut bytes, &self.0).action, Action::Deliver);
    }

    fn answers(&self, packet: Packet) {
        let mut bytes = Bytes { data: packet.bytes(), uplink: 7 };
        assert_eq!(run(Hook::FromPod, &mut bytes, &self.0).action, Action::Out);
    }

    /// That many clients who are never heard of again.
    fn crowd(&self, first: u16, count: u32) {
        for number in 0..count as u16 {
            self.comes_in(tcp(&format!("203.0.113.8:{}", first + number), AT, "S"));
        }
    }

    fn knows(&self, client: &str, protocol: u8) -> bool {
        let both = [tuple(client, AT, protocol), tuple(POD, client, protocol)]
            .map(|key| self.0.flow(&key, |_: &mut Flow| ()).is_some());
        assert_eq!(both[0], both[1], "the two entries of {client} stay or go together");
        both[0]
    }

    fn connects(&self, client: &str) {
        self.comes_in(tcp(client, AT, "S"));
        self.answers(tcp(POD, client, "SA"));
        self.comes_in(tcp(client, AT, "A"));
    }
}

const CLIENT: &str = "203.0.113.9:5000";

#[test]
fn the_longest_unanswered_flow_makes_room_for_a_new_one() {
    let node = Node::new(proto::TCP);
    node.comes_in(tcp(CLIENT, AT, "S"));
    node.crowd(1, SEATS - 1);
    assert!(node.knows(CLIENT, proto::TCP));
    node.crowd(100, 1);
    assert!(!node.knows(CLIENT, proto::TCP));
    assert_eq!(node.0.flow_lines().len() as u32, 2 * SEATS);
}

#[test]
fn a_connection_keeps_its_place_until_it_has_ended() {
    let node = Node::new(proto::TCP);
    node.connects(CLIENT);
    node.crowd(1, 10 * SEATS);
    assert!(node.knows(CLIENT, proto::TCP));
    node.comes_in(tcp(CLIENT, AT, "FA"));
    node.answers(tcp(POD, CLIENT, "FA"));
    node.crowd(200, SEATS - 1);
    node.comes_in(tcp(CLIENT, AT, "A"));
    assert!(node.knows(CLIENT, proto::TCP), "its last segments still find it");
    node.crowd(300, 1);
    assert!(!node.knows(CLIENT, proto::TCP));
}

#[test]
fn a_seat_of_long_ago_costs_no_later_flow_of_the_same_name() {
    let node = Node::new(proto::TCP);
    // The first one's seat still names the client when the second one comes, which has a seat of its own.
    node.connects(CLIENT);
    node.comes_in(tcp(CLIENT, AT, "R"));
    node.comes_in(tcp(CLIENT, AT, "S"));
    // Seats 0 to 2 are the client's; these take 3 to 7, then 0 and 1.
    node.crowd(1, SEATS - 3 + 2);
    assert!(node.knows(CLIENT, proto::TCP));
    node.crowd(100, 1);
    assert!(!node.knows(CLIENT, proto::TCP));
}

#[test]
fn a_reset_that_nobody_believed_leaves_a_flow_as_evictable_as_it_was() {
    let node = Node::new(proto::TCP);
    node.connects(CLIENT);
    let other = "203.0.113.9:5001";
    node.comes_in(tcp(other, AT, "S"));
    for client in [CLIENT, other] {
        node.comes_in(tcp(client, AT, "R"));
        node.comes_in(tcp(client, AT, "A"));
    }
    node.crowd(1, SEATS);
    assert!(node.knows(CLIENT, proto::TCP));
    assert!(!node.knows(other, proto::TCP), "a made-up client has said SYN, RST and ACK, and heard nothing");
}

#[test]
fn datagrams_stay_once_they_were_answered_and_go_on() {
    let node = Node::new(proto::UDP);
    let (question, answer) = (udp(CLIENT, AT), udp(POD, CLIENT));
    let other = "203.0.113.9:5001";
    for client in [CLIENT, other] {
        node.comes_in(udp(client, AT));
        node.answers(udp(POD, client));
    }
    node.0.now_s.set(node.0.now_s.get() + 1);
    node.comes_in(question);
    node.answers(answer);
    for port in 1..=SEATS {
        node.comes_in(udp(&format!("203.0.113.8:{port}"), AT));
    }
    assert!(node.knows(CLIENT, proto::UDP));
    assert!(!node.knows(other, proto::UDP), "a question and its answer need no place for longer");
}

#[test]
fn a_direct_flow_is_recorded_with_its_service_its_packet_and_its_seat() {
    let state = State::standard().node_port(7, proto::UDP, 30_080, &["10.244.2.2:8080"]);
    let maps = Maps::new(&state.frontends(|frontend| frontend.flags |= frontend_flag::DIRECT));
    for number in 0..3 {
        let client = format!("203.0.113.9:{}", 5_000 + number);
        let mut bytes = Bytes { data: udp(&client, AT).bytes(), uplink: 7 };
        assert_eq!(run(Hook::FromUplink, &mut bytes, &maps).action, Action::Tunnel);
        let flow = maps.flow(&tuple(&client, AT, proto::UDP), |flow| *flow).unwrap();
        assert_ne!(flow.flags & flow_flag::DIRECT, 0);
        assert_eq!((flow.service_id, flow.packets, flow.seat), (7, 1, number));
    }
}
