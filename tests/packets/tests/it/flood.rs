//! A flood of SYNs, ten times as many as the connection tables hold: connections that stand go on, real
//! clients get in.
//!
//! The frames are real: they leave a packet socket, pass the node's programs and reach the backend, which
//! answers each.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use etherparse::PacketBuilder;
use proxy_abi::{Reason, Seat, flow_flag, flow_state, frontend_flag, proto};
use skerry_kernel::{ClassicInstruction, PacketSocket};
use skerry_lab::Netns;
use skerry_packet_cases::{Greeter, NODE_PORT, TABLE, VIP, World, dial, mac, mirror};

/// SYNs at least.
const FLOOD: u32 = 10 * TABLE;
/// Connections of real clients meanwhile.
const CLIENTS: u32 = 100;
/// The server that stands, and the one that greets.
const PORTS: [u16; 2] = [8_080, 8_081];
const PATIENCE: Duration = Duration::from_secs(2);
const SYN: [u8; 13] = *b"SYN of nobody";

/// Source and its port, destination and its port.
type Ends = ([u8; 4], u16, [u8; 4], u16);

/// What a flood is made of.
struct Flood {
    device: &'static str,
    /// The next station's Ethernet address.
    to_mac: [u8; 6],
    /// Source and destination of frame number n.
    ends: fn(u32) -> Ends,
}

impl Flood {
    /// Sends [`FLOOD`] frames, never more than `allowed` at a time: how fast a table turns over is the
    /// machine's to say, how much of it does between two packets of a client is the test's.
    fn run(&self, from: &Netns, sent: &AtomicU32, allowed: &AtomicU32) {
        let own_mac = mac(from, self.device);
        from.run(|| {
            let device = nix::net::if_::if_nametoindex(self.device).unwrap();
            let socket = PacketSocket::open(device, 0x0800, &[ClassicInstruction::accept(0)]).unwrap();
            let mut frame = Vec::new();
            while sent.load(Ordering::Relaxed) < FLOOD {
                if sent.load(Ordering::Relaxed) >= allowed.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                    continue;
                }
                let (src, sport, dst, dport) = (self.ends)(sent.load(Ordering::Relaxed));
                frame.clear();
                let syn = PacketBuilder::ethernet2(own_mac, self.to_mac).ipv4(src, dst, 64);
                syn.tcp(sport, dport, 1, 64_000).syn().write(&mut frame, &SYN).unwrap();
                // A full queue of the device: the frame is lost, as on any wire.
                if socket.send(&frame).is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
        .unwrap();
    }
}

/// A connection that stands.
struct Standing(TcpStream);

impl Standing {
    fn open(from: &Netns, to: &str) -> Standing {
        let to: SocketAddr = to.parse().unwrap();
        let stream = from.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut standing = Standing(stream);
        standing.says("there");
        standing
    }

    /// The server sends everything back.
    fn says(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
        let mut back = vec![0; text.len()];
        self.0.read_exact(&mut back).unwrap_or_else(|error| panic!("no answer to {text:?}: {error}"));
        assert_eq!(back, text.as_bytes());
    }
}

/// A world in which the backends of two services, on the nodes' ports and on a ClusterIP, are in one pod;
/// answers to made-up sources leave by the uplink and end there.
fn world(backend: usize, frontend_flags: u32) -> World {
    let mut world = World::new();
    world.nodes.iter_mut().for_each(|node| node.frontend_flags = frontend_flags);
    let pod = world.nodes[backend].pod_address;
    for (id, port) in (1..).zip(PORTS) {
        world.serve(id, proto::TCP, port, Some(NODE_PORT + port - PORTS[0]), &[(pod, port)]);
    }
    for node in &world.nodes {
        node.netns.ip("route add default via 192.168.50.200").unwrap();
    }
    world
}

/// Where the parts are.
struct Places {
    /// The node of the backends.
    backend: usize,
    /// The node that sees both directions of each connection.
    tracker: usize,
    client: fn(&World) -> &Netns,
    /// The two services' addresses as the client dials them.
    at: [String; 2],
}

/// Floods while a connection stands and new ones are made.
fn survives(world: &mut World, places: Places, flood: &Flood) {
    let Places { backend, tracker, client, at } = places;
    let server = mirror(&world.nodes[backend].pod, &format!("0.0.0.0:{}", PORTS[0]));
    let greeter = Greeter::start(&world.nodes[backend].pod, &format!("0.0.0.0:{}", PORTS[1]), "pod");
    let from = client(world);
    let mut standing = Standing::open(from, &at[0]);
    let (sent, allowed) = (AtomicU32::new(0), AtomicU32::new(TABLE));
    let outcomes: Vec<Result<String, String>> = std::thread::scope(|scope| {
        scope.spawn(|| flood.run(from, &sent, &allowed));
        let outcomes = (0..CLIENTS)
            .map(|number| {
                // The first when the table has been filled once, the last when the flood is nearly over.
                let due = TABLE + (FLOOD - TABLE) / CLIENTS * number;
                // Meanwhile a third of the seats, and what waits in queues.
                allowed.store(due + (FLOOD - TABLE) / CLIENTS, Ordering::Relaxed);
                while sent.load(Ordering::Relaxed) < due {
                    std::thread::yield_now();
                }
                standing.says("meanwhile");
                dial(from, &at[1])
                    .map_err(|error| format!("after {} SYNs: {error}", sent.load(Ordering::Relaxed)))
            })
            .collect();
        allowed.store(FLOOD, Ordering::Relaxed);
        outcomes
    });
    standing.says("afterwards");
    drop(standing);
    server.join().unwrap().unwrap();
    greeter.end(&world.nodes[backend].pod);
    let flows = world.nodes[tracker].object.flows().unwrap();
    let count = |state: u8| flows.iter().filter(|(_, flow)| flow.state == state).count() as u32;
    let (new, established) = (count(flow_state::EMBRYONIC), count(flow_state::ESTABLISHED));
    let closing = count(flow_state::CLOSING);
    println!("{} SYNs; {new} new, {established} established, {closing} closing entries", sent.into_inner());
    let object = &mut world.nodes[tracker].object;
    for reason in Reason::ALL.iter().filter(|reason| reason.is_drop()) {
        let count = object.counted(*reason).unwrap();
        if count > 0 {
            println!("  {count} {reason:?}");
        }
    }
    let failed: Vec<&String> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of {CLIENTS} clients failed: {failed:#?}", failed.len());
    // Two entries a seat; a connection that has ended had two of them.
    let seats = Seat::in_use(TABLE);
    assert!(new + closing > 2 * (seats - 2 * (CLIENTS + 1)), "the seats were never all taken");
    assert!(new + closing <= 2 * seats, "flows that may be evicted have more than their seats");
    // Two entries each of those that were really made.
    assert!(established <= 2 * (CLIENTS + 1), "a flood has filled the table with established flows");
}

/// 198.18.0.0/15 (RFC 2544), all ports.
fn from_anywhere(n: u32) -> Ends {
    let [_, _, a, b] = n.wrapping_mul(0x9e37_79b1).to_be_bytes();
    ([198, 18, a, b], 1_024 + (n % 60_000) as u16, [192, 168, 50, 1], NODE_PORT + (n % 2) as u16)
}

/// A pod can only speak for itself: from all its ports, to the ports of both services.
fn from_one_pod(n: u32) -> Ends {
    ([10, 244, 1, 2], 1_024 + (n / 2 % 60_000) as u16, VIP.octets(), PORTS[n as usize % 2])
}

#[test]
fn a_flood_at_a_node_port_costs_no_connection_to_a_pod_of_this_node() {
    let mut world = world(0, 0);
    let flood = Flood { device: "up0", to_mac: mac(&world.nodes[0].netns, "up0"), ends: from_anywhere };
    let at = [NODE_PORT, NODE_PORT + 1].map(|port| format!("192.168.50.1:{port}"));
    survives(&mut world, Places { backend: 0, tracker: 0, client: |world| &world.outside, at }, &flood);
}

#[test]
fn a_flood_at_a_node_port_costs_no_connection_to_a_pod_of_another_node() {
    let mut world = world(1, 0);
    let flood = Flood { device: "up0", to_mac: mac(&world.nodes[0].netns, "up0"), ends: from_anywhere };
    let at = [NODE_PORT, NODE_PORT + 1].map(|port| format!("192.168.50.1:{port}"));
    survives(&mut world, Places { backend: 1, tracker: 0, client: |world| &world.outside, at }, &flood);
}

/// The first node forgets a direct connection, as it must; Maglev draws its backend again, whose node has not
/// forgotten.
#[test]
fn a_flood_at_a_direct_node_port_costs_no_connection() {
    let mut world = world(1, frontend_flag::DIRECT | frontend_flag::MAGLEV);
    let flood = Flood { device: "up0", to_mac: mac(&world.nodes[0].netns, "up0"), ends: from_anywhere };
    let at = [NODE_PORT, NODE_PORT + 1].map(|port| format!("192.168.50.1:{port}"));
    survives(&mut world, Places { backend: 1, tracker: 1, client: |world| &world.outside, at }, &flood);
    let first = world.nodes[0].object.flows().unwrap();
    assert!(first.iter().all(|(_, flow)| flow.flags & flow_flag::DIRECT != 0));
    assert!(first.len() as u32 <= Seat::in_use(TABLE), "{} entries", first.len());
}

#[test]
fn a_flood_from_a_pod_costs_no_connection() {
    let mut world = world(1, 0);
    let flood = Flood { device: "eth0", to_mac: mac(&world.nodes[0].netns, "sk0"), ends: from_one_pod };
    let at = PORTS.map(|port| format!("{VIP}:{port}"));
    survives(&mut world, Places { backend: 1, tracker: 0, client: |world| &world.nodes[0].pod, at }, &flood);
}
