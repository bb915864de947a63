//! SCTP associations between the kernel's own stacks, translated on their way. In the case table the
//! checksums are worked out by hand; here they are what a device leaves for later (CRC32c offload), on a
//! veth, and whole, behind the tunnel.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4},
};

use proxy_abi::proto;
use skerry_lab::Netns;
use skerry_packet_cases::{NODE_PORT, VIP, World};
use skerry_vm_cases::{lacks_sctp, sctp};

const PORT: u16 = 9_132;
const TUNNEL_MTU: u32 = 1_450;
/// Fits one packet on every way.
const ONE: usize = 500;
/// More than one packet takes.
const BULK: usize = 8_000;

/// Answers each association with who sends, and returns its bytes. Ends with the test's process.
fn serve(netns: &Netns, port: u16) {
    let listener =
        netns.run(|| sctp::listen(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))).unwrap().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let peer = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
                let _ = stream.write_all(format!("{peer:<16}").as_bytes());
                let mut bytes = vec![0; BULK];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Who the server saw.
fn exchange(from: &Netns, to: SocketAddrV4, length: usize) -> Result<String, String> {
    let talk = || {
        let mut stream = sctp::connect(to)?;
        let sent: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        stream.write_all(&sent)?;
        let (mut peer, mut back) = ([0; 16], vec![0; length]);
        stream.read_exact(&mut peer)?;
        stream.read_exact(&mut back)?;
        assert_eq!(stream.peer_addr()?.to_string(), to.to_string());
        assert!(back == sent, "other bytes came back");
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&peer).trim().to_owned())
    };
    from.run(talk).unwrap().map_err(|error| format!("{to}: {error}"))
}

#[test]
fn sctp_associations_reach_a_pod_through_a_cluster_ip_and_node_ports() {
    if lacks_sctp("sctp_associations_reach_a_pod_through_a_cluster_ip_and_node_ports") {
        return;
    }
    let mut world = World::new();
    let [zero, one] = &world.nodes;
    let (near, far) = (zero.address, one.address);
    let (router, client, backend) = (zero.router, zero.pod_address, one.pod_address);
    serve(&one.pod, PORT);
    world.serve(1, proto::SCTP, 132, Some(NODE_PORT), &[(backend, PORT)]);
    let pod = &world.nodes[0].pod;
    // Packets that are under way when the tunnel's "too big" comes would be sent again in fragments, and the
    // sum of those can't be made good: the client knows what fits.
    world.outside.ip(&format!("route add {near}/32 dev up0 mtu {TUNNEL_MTU}")).unwrap();
    let ways = [
        ("a pod, straight", pod, SocketAddrV4::new(backend, PORT), client),
        ("a pod, by the ClusterIP", pod, SocketAddrV4::new(VIP, 132), client),
        (
            "outside, by the pod's node",
            &world.outside,
            SocketAddrV4::new(far, NODE_PORT),
            Ipv4Addr::new(192, 168, 50, 100),
        ),
        ("outside, by the other node", &world.outside, SocketAddrV4::new(near, NODE_PORT), router),
    ];
    let mut wrong = Vec::new();
    for (way, from, to, expected) in ways {
        for length in [ONE, BULK] {
            match exchange(from, to, length) {
                Ok(peer) if peer == expected.to_string() => {}
                other => wrong.push(format!("{way}, {length} bytes: {other:?}, not {expected}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
