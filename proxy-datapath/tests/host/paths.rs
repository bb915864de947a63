//! What a flow keeps of its way for the rest of a second, at the hooks of a node.

use proxy_abi::{Addr, proto};
use proxy_datapath::{Action, Verdict};

use crate::{
    cases::{
        Hook, State,
        packet::{tcp, udp},
    },
    memory::{Bytes, Maps, run},
};

const CLIENT: &str = "203.0.113.9:5000";
const AT: &str = "192.168.50.1:30080";
const REMOTE: &str = "10.244.2.2:8080";

fn second_later(maps: &Maps) {
    maps.now_s.set(maps.now_s.get() + 1);
}

fn node(verdict: &Verdict) -> Addr {
    assert_eq!(verdict.action, Action::Tunnel);
    verdict.node
}

#[test]
fn a_pod_that_moves_to_another_node_is_followed_within_a_second() {
    let state = State::standard().node_port(1, proto::TCP, 30_080, &[REMOTE]);
    let mut maps = Maps::new(&state.facts(|facts| facts.snat_max += 100));
    let sends = |maps: &Maps, flags| {
        let mut packet = Bytes { data: tcp(CLIENT, AT, flags).bytes(), uplink: 7 };
        node(&run(Hook::FromUplink, &mut packet, maps))
    };
    let before = sends(&maps, "S");
    let after = Addr::from_v4([192, 168, 50, 9]);
    for (.., cidr) in maps.pod_cidrs.iter_mut().filter(|(.., cidr)| cidr.node == before) {
        cidr.node = after;
    }
    assert_eq!(sends(&maps, "A"), before, "what the first packet found holds");
    let mut strange = Bytes { data: tcp("203.0.113.9:5001", AT, "S").bytes(), uplink: 7 };
    assert_eq!(node(&run(Hook::FromUplink, &mut strange, &maps)), after, "for its own flow only");
    assert_eq!(sends(&maps, "A"), before);
    second_later(&maps);
    assert_eq!(sends(&maps, "A"), after);
}

#[test]
fn routes_that_name_no_neighbour_are_asked_by_each_packet() {
    let maps = Maps::new(&State::standard());
    let leaves_by = |uplink| {
        let mut packet = Bytes { data: udp("10.244.1.2:4000", "203.0.113.9:53").bytes(), uplink };
        let verdict = run(Hook::FromPod, &mut packet, &maps);
        (verdict.action, verdict.ifindex)
    };
    let uplink = 7;
    assert_eq!(leaves_by(uplink), (Action::Out, uplink));
    // There is nothing to keep.
    for other in [8, 9, uplink] {
        assert_eq!(leaves_by(other), (Action::Out, other));
    }
}
