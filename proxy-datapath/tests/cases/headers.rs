//! Headers as they come from others: options, extension headers, hop limits, padding, lies about lengths.

use proxy_abi::{Reason, proto};

use super::{
    Case, Hook, Packet, State, case,
    packet::{internet_sum, quoting, tcp, udp},
    state::{POD_A_MAC, POD_B_MAC, SNAT_PORT},
};

const A: &str = "10.244.1.2:6000";
const A6: &str = "[fd00:1::2]:6000";
const VIP: &str = "10.96.0.10:53";
const VIP6: &str = "[fd00:96::10]:53";
const REMOTE: &str = "10.244.2.2:7000";
const REMOTE6: &str = "[fd00:2::2]:7000";
/// Record route (RFC 791 section 3.1) with room for one address, padded.
const RECORD_ROUTE: [u8; 8] = [7, 7, 4, 0, 0, 0, 0, 0];
/// As many options as a header holds.
const FORTY: [u8; 40] = [1; 40];
/// Hop-by-hop and destination options of padding alone (RFC 8200 section 4.2), 8 bytes each with the first.
const PADDING: [u8; 7] = [0, 1, 4, 0, 0, 0, 0];
/// 16 bytes.
const LONG_PADDING: [u8; 15] = [1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const HOP_BY_HOP: u8 = 0;
const DESTINATION: u8 = 60;

pub fn cases() -> Vec<Case> {
    let mut cases = options();
    cases.extend(extensions());
    cases.extend(hop_limits());
    cases.extend(malformed());
    cases
}

fn dns() -> State {
    State::standard().service(1, proto::UDP, VIP, &[REMOTE])
}

fn dns6() -> State {
    State::standard().service(1, proto::UDP, VIP6, &[REMOTE6])
}

fn options() -> Vec<Case> {
    let (client, at) = ("203.0.113.9:5000", "192.168.50.1:30080");
    let web = State::standard().node_port(1, proto::TCP, 30_080, &["10.244.1.2:8080"]);
    let through = |options: &'static [u8]| {
        case("", dns())
            .tunnels(Hook::FromPod, udp(A, VIP).options(options), udp(A, REMOTE).options(options).hop())
            .delivers(
                Hook::FromOverlay("192.168.50.2", 1),
                udp(REMOTE, A).options(options),
                udp(VIP, A).options(options).hop().for_mac(POD_A_MAC),
            )
    };
    vec![
        through(&RECORD_ROUTE).named("a datagram with IP options is translated behind them"),
        through(&FORTY).named("a datagram with as many IP options as fit is translated behind them"),
        case("a connection to a NodePort with IP options", web).delivers(
            Hook::FromUplink,
            tcp(client, at, "S").options(&RECORD_ROUTE),
            tcp(client, "10.244.1.2:8080", "S").options(&RECORD_ROUTE).hop().for_mac(POD_A_MAC),
        ),
        case("IP options do not hide a stranger's source", State::standard()).drops(
            Hook::FromPod,
            udp("10.244.1.3:1", REMOTE).options(&FORTY),
            Reason::SourceSpoofed,
        ),
        case("what an Ethernet frame is padded with is not part of the packet", dns()).tunnels(
            Hook::FromPod,
            padded(udp(A, VIP)),
            padded(udp(A, REMOTE).hop().in_tunnel()),
        ),
    ]
}

fn extensions() -> Vec<Case> {
    let through = |extend: fn(Packet) -> Packet| {
        case("", dns6())
            .tunnels(Hook::FromPod, extend(udp(A6, VIP6)), extend(udp(A6, REMOTE6)).hop())
            .delivers(
                Hook::FromOverlay("192.168.50.2", 1),
                extend(udp(REMOTE6, A6)),
                extend(udp(VIP6, A6)).hop().for_mac(POD_A_MAC),
            )
    };
    vec![
        through(|packet| packet.extension(DESTINATION, &PADDING))
            .named("a datagram with an IPv6 extension header is translated behind it"),
        through(|packet| packet.extension(HOP_BY_HOP, &LONG_PADDING).extension(DESTINATION, &PADDING))
            .named("a datagram with two IPv6 extension headers is translated behind them"),
        case("an extension header does not hide a stranger's source", State::standard()).drops(
            Hook::FromPod,
            udp("[fd00:1::3]:1", REMOTE6).extension(DESTINATION, &PADDING),
            Reason::SourceSpoofed,
        ),
    ]
}

fn hop_limits() -> Vec<Case> {
    let (client, at) = ("203.0.113.9:5000", "192.168.50.1:30080");
    let (client6, at6) = ("[2001:db8:9::9]:5000", "[2001:db8::1]:30080");
    let web = |backend: &str| State::standard().node_port(1, proto::TCP, 30_080, &[backend]);
    let syn = || tcp(client, at, "S");
    let (second_to_last, router) = (2, format!("10.244.1.1:{SNAT_PORT}"));
    vec![
        case("a packet to a NodePort on its last hop goes no further", web("10.244.1.3:8080"))
            .ends(Hook::FromUplink, syn().ttl(1), quoting("192.168.50.1", &syn().ttl(1), 11, 0))
            .ends(Hook::FromUplink, syn().ttl(0), quoting("192.168.50.1", &syn().ttl(0), 11, 0))
            .delivers(
                Hook::FromUplink,
                syn().ttl(second_to_last),
                tcp(client, "10.244.1.3:8080", "S").ttl(1).for_mac(POD_B_MAC),
            ),
        case("a packet to a NodePort on its last hop, backend elsewhere", web("10.244.2.2:8080"))
            .ends(Hook::FromUplink, syn().ttl(1), quoting("192.168.50.1", &syn().ttl(1), 11, 0))
            .tunnels(
                Hook::FromUplink,
                syn().ttl(second_to_last),
                tcp(&router, "10.244.2.2:8080", "S").ttl(1),
            ),
        case("a packet to a NodePort on its last hop, v6", web("[fd00:1::3]:8080")).ends(
            Hook::FromUplink,
            tcp(client6, at6, "S").ttl(1),
            quoting("2001:db8::1", &tcp(client6, at6, "S").ttl(1), 3, 0),
        ),
        case("the last hop may be this node itself", web("192.168.50.1:8080")).changes(
            Hook::FromUplink,
            syn().ttl(1),
            tcp(client, "192.168.50.1:8080", "S").ttl(1),
        ),
        case("what came through the tunnel on its last hop goes no further", State::standard()).drops(
            Hook::FromOverlay("192.168.50.2", 1),
            udp(REMOTE, A).ttl(1),
            Reason::TtlExpired,
        ),
    ]
}

/// A lie of a header: where in the frame, and what stands there instead.
type Lie = (&'static str, usize, &'static [u8]);

/// About the datagram of [`udp`], 13 bytes behind the IPv4 header.
const LIES: &[Lie] = &[
    ("a version that is not the frame's", 14, &[0x65]),
    ("a header of 16 bytes", 14, &[0x44]),
    ("a header longer than the packet", 14, &[0x4f]),
    ("a packet shorter than its header", 16, &[0, 19]),
    ("a packet longer than its frame", 16, &[0, 34]),
    ("no room for ports", 16, &[0, 23]),
];

/// About the segment of [`tcp`], 20 bytes behind the IPv4 header.
const TCP_LIES: &[Lie] =
    &[("a TCP header of 16 bytes", 46, &[0x40]), ("a TCP header longer than the packet", 46, &[0x60])];

const LIES6: &[Lie] = &[
    ("a version that is not the frame's, v6", 14, &[0x45]),
    ("a packet longer than its frame, v6", 18, &[0, 14]),
    ("no room for ports, v6", 18, &[0, 3]),
    ("an extension header longer than the packet", 20, &[DESTINATION]),
];

fn malformed() -> Vec<Case> {
    let rows = |lies: &'static [Lie], honest: fn() -> Packet, state: fn() -> State| {
        lies.iter().map(move |(name, at, instead)| {
            let lying = Packet::frame(&told(honest().bytes(), *at, instead));
            // At the uplink the node's own stack is the judge.
            case(name, state())
                .drops(Hook::FromPod, lying.clone(), Reason::Malformed)
                .passes(Hook::FromUplink, lying)
                .leaves(&[])
        })
    };
    let web = || State::standard().service(1, proto::TCP, VIP, &[REMOTE]);
    let mut cases: Vec<Case> = rows(LIES, || udp(A, VIP), dns).collect();
    cases.extend(rows(TCP_LIES, || tcp(A, VIP, "S"), web));
    cases.extend(rows(LIES6, || udp(A6, VIP6), dns6));
    let mapped = udp("[::ffff:203.0.113.9]:6000", "[2001:db8::1]:7000");
    cases.push(
        case("a mapped address on the wire does not reach the node itself either", State::standard())
            .drops(Hook::FromUplink, mapped.clone(), Reason::MappedOnWire)
            .drops(Hook::FromPod, mapped, Reason::MappedOnWire),
    );
    cases.push(
        case("a header checksum that was wrong stays wrong: the receiver is to see it", dns()).tunnels(
            Hook::FromPod,
            wrong_sum(udp(A, VIP)),
            wrong_sum(udp(A, REMOTE).hop().in_tunnel()),
        ),
    );
    cases
}

/// Writes over some bytes; an IPv4 header's checksum is made good, so that only the lie is wrong.
fn told(mut frame: Vec<u8>, at: usize, instead: &[u8]) -> Vec<u8> {
    frame[at..at + instead.len()].copy_from_slice(instead);
    if frame[12] == 8 && at < 34 {
        frame[24..26].fill(0);
        let length = usize::from(frame[14] & 15) * 4;
        let end = (14 + length).min(frame.len());
        let sum = !internet_sum(&frame[14..end]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// To the 60 bytes that a frame has at least.
fn padded(packet: Packet) -> Packet {
    let mut frame = packet.bytes();
    frame.resize(60, 0xaa);
    Packet::frame(&frame)
}

/// Too large by 2.
fn wrong_sum(packet: Packet) -> Packet {
    let mut frame = packet.bytes();
    let sum = u16::from_be_bytes([frame[24], frame[25]]) + 2;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    Packet::frame(&frame)
}
