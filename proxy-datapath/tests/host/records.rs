//! What the record of a drop names: the packet itself, never one that came before it.

use proxy_abi::{Addr, Reason, Tuple};
use proxy_datapath::Action;

use crate::{
    cases::{
        Hook, State,
        packet::{tcp, udp},
        state::{HOST_MAC, POD_A_MAC, addr},
    },
    memory::{Bytes, Maps, run},
};

/// An ARP frame of pod A that claims to be `sender`.
fn arp(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    [&HOST_MAC[..], &POD_A_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &POD_A_MAC, &sender, &[0; 6], &target]
        .concat()
}

fn between(src: &str, dst: &str) -> Tuple {
    Tuple { src: addr(src), dst: addr(dst), ..Tuple::default() }
}

#[test]
fn a_drops_record_is_filled_anew() {
    let innocent = tcp("10.244.1.2:6000", "10.244.1.3:80", "S");
    let cut = {
        let mut frame = udp("10.244.1.2:7", "10.244.1.3:8").bytes();
        frame.truncate(40);
        frame
    };
    let short = {
        let mut frame = udp("10.244.1.2:7", "10.244.1.3:8").bytes();
        frame[14] = 0x43;
        frame
    };
    let mut foreign = innocent.bytes();
    (foreign[12], foreign[13]) = (0x88, 0xcc);
    let nobody = Tuple::default();
    let overlay = Hook::FromOverlay("192.168.50.200", 1);
    let datagram = udp("10.244.2.2:7", "10.244.1.2:8");
    let whole = Tuple::new(
        addr("10.244.2.2"),
        proxy_abi::Be16::new(7),
        addr("10.244.1.2"),
        proxy_abi::Be16::new(8),
        proxy_abi::proto::UDP,
    );
    for (hook, frame, reason, named) in [
        (
            Hook::FromPod,
            arp([10, 244, 1, 3], [10, 244, 1, 1]),
            Reason::SourceSpoofed,
            between("10.244.1.3", "10.244.1.1"),
        ),
        (Hook::FromPod, arp([10, 244, 1, 3], [10, 244, 1, 1])[..20].to_vec(), Reason::Malformed, nobody),
        (Hook::FromPod, foreign, Reason::UnknownProtocol, nobody),
        (Hook::FromPod, cut, Reason::Malformed, nobody),
        (Hook::FromPod, short, Reason::Malformed, nobody),
        (overlay, datagram.bytes(), Reason::UnknownTunnelPeer, whole),
        (Hook::FromOverlay("192.168.50.2", 2), datagram.bytes(), Reason::WrongVni, whole),
    ] {
        let maps = Maps::new(&State::standard());
        run(Hook::FromPod, &mut Bytes { data: innocent.bytes(), uplink: 7 }, &maps);
        let verdict = run(hook, &mut Bytes { data: frame, uplink: 7 }, &maps);
        let tuple = maps.scratch.borrow().view.tuple;
        assert_eq!((verdict.action, verdict.reason, tuple), (Action::Drop, reason, named));
    }
}

#[test]
fn a_packet_of_a_device_that_no_pod_was_given_is_named() {
    let mut state = State::standard();
    state.links.clear();
    let maps = Maps::new(&state);
    let verdict = run(
        Hook::FromPod,
        &mut Bytes { data: udp("10.244.1.2:7", "10.244.1.3:8").bytes(), uplink: 7 },
        &maps,
    );
    assert_eq!(verdict.reason, Reason::UnknownLink);
    assert_eq!(maps.scratch.borrow().view.tuple.src, addr("10.244.1.2"));
    assert_ne!(maps.scratch.borrow().view.tuple.dst, Addr::UNSPECIFIED);
}
