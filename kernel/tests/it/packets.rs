//! Packet sockets on devices of the running kernel. Needs root.

use std::time::{Duration, Instant};

use skerry_kernel::{ClassicInstruction, PacketSocket, ifindex};
use skerry_lab::Netns;

const ETHER_TYPE: u16 = 0x88b5;

/// A broadcast frame of the experimental EtherType with one telling byte.
fn frame(byte: u8) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend(ETHER_TYPE.to_be_bytes());
    frame.resize(60, byte);
    frame
}

/// Lets through what has `byte` behind the header.
fn only(byte: u8) -> [ClassicInstruction; 4] {
    [
        ClassicInstruction::load_byte(14),
        ClassicInstruction::jump_equal(byte.into(), 0, 1),
        ClassicInstruction::accept(40),
        ClassicInstruction::accept(0),
    ]
}

fn next(socket: &PacketSocket) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut bytes = [0; 128];
    loop {
        match socket.receive(&mut bytes) {
            Ok(length) => return bytes[..length].to_vec(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
        assert!(Instant::now() < deadline, "no frame came");
        std::thread::yield_now();
    }
}

#[test]
fn only_what_the_filter_wants_is_received_and_the_filter_can_change() {
    let netns = Netns::unique("packets").unwrap();
    netns.ip("link add v0 address 02:00:00:00:00:aa type veth peer name v1").unwrap();
    netns.ip("link set v0 up").unwrap();
    netns.ip("link set v1 up").unwrap();
    netns
        .run(|| {
            let (near, far) = (ifindex("v0").unwrap(), ifindex("v1").unwrap());
            let receiver = PacketSocket::open(near, ETHER_TYPE, &only(7)).unwrap();
            let sender = PacketSocket::open(far, ETHER_TYPE, &[ClassicInstruction::accept(0)]).unwrap();
            assert_eq!(receiver.mac().unwrap(), Some([2, 0, 0, 0, 0, 0xaa]));
            for byte in [6, 7, 8] {
                sender.send(&frame(byte)).unwrap();
            }
            let received = next(&receiver);
            assert_eq!((received.len(), received[14]), (40, 7), "cut to what the filter lets through");
            receiver.set_filter(&only(8)).unwrap();
            for byte in [7, 8] {
                sender.send(&frame(byte)).unwrap();
            }
            assert_eq!(next(&receiver)[14], 8);
            let nothing = receiver.receive(&mut [0; 64]).unwrap_err();
            assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);

            let lo = PacketSocket::open(ifindex("lo").unwrap(), ETHER_TYPE, &only(0)).unwrap();
            assert_eq!(lo.mac().unwrap(), None, "no Ethernet device");
            let gone = PacketSocket::open(999_999, ETHER_TYPE, &only(0)).unwrap_err();
            assert!(gone.is_not_found(), "{gone}");
            let endless = vec![ClassicInstruction::accept(0); 5000];
            assert!(PacketSocket::open(near, ETHER_TYPE, &endless).is_err());
        })
        .unwrap();
}
