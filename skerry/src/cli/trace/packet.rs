use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
};

use proxy_abi::{Be16, Tuple, proto};
use proxy_datapath::{Change, NextHop, Packet, PacketSteps, Way};

/// Ethernet.
const ETHERNET: usize = 14;

/// A packet in memory. Its checksums are not made: nobody will receive it.
pub struct Frame(Vec<u8>);

impl Frame {
    /// The first packet of a connection, or a datagram without content.
    pub fn first(from: SocketAddr, to: SocketAddr, number: u8, mac: [u8; 6]) -> Frame {
        let mut transport = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        match number {
            // RFC 9293: numbers, 20 bytes of header, SYN, window, checksum, urgent pointer.
            proto::TCP => transport.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0]),
            _ => transport.extend([0, 8, 0, 0]),
        }
        let mut bytes = vec![0; 6];
        bytes.extend(mac);
        match (from.ip(), to.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let length = (20 + transport.len() as u16).to_be_bytes();
                bytes.extend([0x08, 0, 0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, number, 0, 0]);
                bytes.extend(src.octets());
                bytes.extend(dst.octets());
            }
            (src, dst) => {
                let length = (transport.len() as u16).to_be_bytes();
                bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, length[0], length[1], number, 64]);
                for ip in [src, dst] {
                    bytes.extend(proxy_abi::Addr::from(ip).octets());
                }
            }
        }
        debug_assert!(bytes.len() > ETHERNET);
        bytes.extend(transport);
        Frame(bytes)
    }
}

impl Packet for Frame {
    fn length(&self) -> u32 {
        self.0.len() as u32
    }

    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let at = at as usize;
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn read<const N: usize>(&self, at: u32, into: &mut [u8; N]) -> Option<()> {
        *into = self.load(at)?;
        Some(())
    }

    fn store<const N: usize>(&mut self, at: u32, bytes: &[u8; N]) -> Option<()> {
        let at = at as usize;
        self.0.get_mut(at..at.checked_add(N)?)?.copy_from_slice(bytes);
        Some(())
    }

    fn store_new<const N: usize>(&mut self, at: u32, bytes: &[u8; N]) -> Option<()> {
        self.store(at, bytes)
    }

    fn fix_header_checksum(&mut self, _at: u32, _diff: u32) -> Option<()> {
        Some(())
    }

    fn fix_transport_checksum(&mut self, _at: u32, _pseudo: u32, _diff: u32, _zero: bool) -> Option<()> {
        Some(())
    }

    fn is_merged(&self) -> bool {
        false
    }

    /// What is traced on its way out is what a process would send.
    fn socket_port(&self) -> Option<Be16> {
        Some(Be16::ZERO)
    }

    fn work_out(&self, change: &mut Change) {
        (0..Change::ROUNDS).for_each(|round| change.advance(round));
    }

    fn take_in(&mut self) -> Option<()> {
        Some(())
    }

    fn resize(&mut self, length: u32) -> Option<()> {
        self.0.resize(length as usize, 0);
        Some(())
    }

    fn way_out(&self, tuple: &Tuple, hop: &mut NextHop) {
        let ifindex = way_out(tuple.dst.to_ip());
        // Whether the neighbour is known makes no difference to where the packet goes.
        let way = if ifindex == 0 { Way::None } else { Way::NoNeighbour };
        *hop = NextHop { way, ifindex, ..NextHop::default() };
    }
}

impl PacketSteps for Frame {}

/// The device of the kernel's route to an address; 0 where there is none, or where the address is the node's
/// own.
pub fn way_out(to: IpAddr) -> u32 {
    let asked = Command::new("ip").args(["-o", "route", "get", &to.to_string()]).output();
    let Some(text) = asked.ok().filter(|done| done.status.success()) else { return 0 };
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    if text.starts_with("local ") {
        return 0;
    }
    let device = text.split_whitespace().skip_while(|word| *word != "dev").nth(1);
    device.and_then(|device| skerry_kernel::ifindex(device).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_datapath::{Scratch, Shape, parse};

    #[test]
    fn made_up_packets_are_read_as_what_they_are() {
        for (from, to) in [("10.0.0.1:4000", "10.96.0.1:53"), ("[fd00::1]:4000", "[fd00::2]:53")] {
            for number in [proto::TCP, proto::UDP] {
                let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
                let mut scratch = Scratch::default();
                let packet = Frame::first(from, to, number, [2; 6]);
                let shape = parse(&packet, &mut scratch.view, &mut scratch.head);
                assert_eq!(shape, Ok(Shape::Ip));
                let tuple = scratch.view.tuple;
                assert_eq!((tuple.src.to_ip(), tuple.sport.get()), (from.ip(), 4000));
                assert_eq!((tuple.dst.to_ip(), tuple.dport.get(), tuple.proto), (to.ip(), 53, number));
            }
        }
    }
}
