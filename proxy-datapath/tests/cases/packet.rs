//! Packets, built apart from the code that is tested (etherparse works out every checksum anew).

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder,
    TcpHeader,
};
use proxy_abi::{DIRECT_MAC_TAG, OVERLAY_DEV_MAC, OVERLAY_SRC_MAC};

use super::state::{HOST_MAC, POD_A_MAC, endpoint};

/// A packet from pod A's device, or any other: the frame's addresses matter only where the code looks at
/// them.
#[derive(Clone, Debug)]
pub struct Packet {
    pub macs: ([u8; 6], [u8; 6]),
    pub src: IpAddr,
    pub dst: IpAddr,
    pub ttl: u8,
    pub transport: Transport,
    pub payload: Vec<u8>,
    /// Identification, offset in bytes, more to come.
    pub fragment: Option<(u16, u16, bool)>,
    /// UDP: sent without a checksum.
    pub no_checksum: bool,
    /// What stands between the address header and the transport's.
    pub between: Between,
}

/// IPv4: options (RFC 791 section 3.1), a multiple of 4 bytes. IPv6: extension headers (RFC 8200 section 4)
/// by number, each whole but for its first byte, which names the next one.
#[derive(Clone, Debug, Default)]
pub struct Between {
    pub options: Vec<u8>,
    pub extensions: Vec<(u8, Vec<u8>)>,
}

#[derive(Clone, Debug)]
pub enum Transport {
    Udp {
        sport: u16,
        dport: u16,
    },
    Tcp {
        sport: u16,
        dport: u16,
        seq: u32,
        ack: Option<u32>,
        flags: &'static str,
        window: u16,
    },
    Echo {
        id: u16,
        reply: bool,
    },
    /// ICMP type and code.
    Error {
        kind: u8,
        code: u8,
        /// What fits, in bytes.
        mtu: u32,
    },
    Other {
        protocol: u8,
    },
    /// A fragment without a transport header.
    Rest {
        protocol: u8,
    },
    /// The whole frame is in the payload.
    Frame,
}

fn packet(src: IpAddr, dst: IpAddr, transport: Transport, payload: &[u8]) -> Packet {
    Packet {
        macs: (POD_A_MAC, HOST_MAC),
        src,
        dst,
        ttl: 64,
        transport,
        payload: payload.to_vec(),
        fragment: None,
        no_checksum: false,
        between: Between::default(),
    }
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A datagram with an odd number of bytes.
pub fn udp(from: &str, to: &str) -> Packet {
    let (from, to) = (socket(from), socket(to));
    packet(from.ip(), to.ip(), Transport::Udp { sport: from.port(), dport: to.port() }, b"hello")
}

/// A segment with flags out of `SAFR` (SYN, ACK, FIN, RST).
pub fn tcp(from: &str, to: &str, flags: &'static str) -> Packet {
    let (from, to) = (socket(from), socket(to));
    let ack = flags.contains('A').then_some(7_000);
    let transport =
        Transport::Tcp { sport: from.port(), dport: to.port(), seq: 1_000, ack, flags, window: 64_000 };
    packet(from.ip(), to.ip(), transport, b"")
}

/// An SCTP packet: common header (RFC 9260 section 3.1) and a chunk with an odd number of bytes.
pub fn sctp(from: &str, to: &str) -> Packet {
    let (from, to) = (socket(from), socket(to));
    let mut bytes =
        [&from.port().to_be_bytes()[..], &to.port().to_be_bytes(), &[1, 2, 3, 4, 0, 0, 0, 0]].concat();
    bytes.extend_from_slice(b"\x0a\x00\x00\x09cookie-echo");
    let sum = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    packet(from.ip(), to.ip(), Transport::Other { protocol: 132 }, &bytes)
}

/// The same, with the sum left to the device.
pub fn sctp_unsummed(from: &str, to: &str) -> Packet {
    let mut packet = sctp(from, to);
    packet.payload[8..12].fill(0);
    packet
}

/// By bytes and bits, as RFC 9260 appendix A defines it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
}

pub fn echo(from: &str, to: &str, id: u16, reply: bool) -> Packet {
    packet(from.parse().unwrap(), to.parse().unwrap(), Transport::Echo { id, reply }, b"ping")
}

/// An ICMP error from `from` about a packet, sent to that packet's source.
pub fn quoting(from: &str, about: &Packet, kind: u8, code: u8) -> Packet {
    let bytes = about.bytes();
    let header = if about.src.is_ipv4() { 20 } else { 40 };
    let quoted = &bytes[14..(14 + header + 8).min(bytes.len())];
    packet(from.parse().unwrap(), about.src, Transport::Error { kind, code, mtu: 0 }, quoted)
}

impl Packet {
    /// A frame that is no IP packet, byte for byte.
    pub fn frame(bytes: &[u8]) -> Packet {
        packet(IpAddr::from([0, 0, 0, 0]), IpAddr::from([0, 0, 0, 0]), Transport::Frame, bytes)
    }

    pub fn for_mac(mut self, dst: [u8; 6]) -> Packet {
        self.macs.1 = dst;
        self
    }

    pub fn by_mac(mut self, src: [u8; 6]) -> Packet {
        self.macs.0 = src;
        self
    }

    /// Of an ICMP error: how many bytes would fit.
    pub fn about(mut self, fits: u32) -> Packet {
        if let Transport::Error { mtu, .. } = &mut self.transport {
            *mtu = fits;
        }
        self
    }

    /// One hop further on.
    pub fn hop(mut self) -> Packet {
        self.ttl -= 1;
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Packet {
        self.ttl = ttl;
        self
    }

    pub fn says(mut self, payload: &[u8]) -> Packet {
        self.payload = payload.to_vec();
        self
    }

    pub fn without_checksum(mut self) -> Packet {
        self.no_checksum = true;
        self
    }

    pub fn piece(mut self, id: u16, offset: u16, more: bool) -> Packet {
        self.fragment = Some((id, offset, more));
        self
    }

    /// A later piece: only the payload travels.
    pub fn rest(mut self, protocol: u8) -> Packet {
        self.transport = Transport::Rest { protocol };
        self
    }

    pub fn protocol(mut self, protocol: u8) -> Packet {
        self.transport = Transport::Other { protocol };
        self
    }

    pub fn options(mut self, options: &[u8]) -> Packet {
        self.between.options = options.to_vec();
        self
    }

    /// Adds an extension header behind those that are there. `body`: from the header's second byte on.
    pub fn extension(mut self, number: u8, body: &[u8]) -> Packet {
        self.between.extensions.push((number, body.to_vec()));
        self
    }

    /// As [`Packet::piece`], for IPv6 (RFC 8200 section 4.5).
    pub fn piece6(self, id: u32, offset: u16, more: bool) -> Packet {
        let place = (offset & !7) | u16::from(more);
        let body = [&[0][..], &place.to_be_bytes(), &id.to_be_bytes()].concat();
        self.extension(44, &body)
    }

    pub fn seq(mut self, number: u32, acknowledged: Option<u32>) -> Packet {
        if let Transport::Tcp { seq, ack, window, .. } = &mut self.transport {
            (*seq, *ack, *window) = (number, acknowledged, 0);
        }
        self
    }

    pub fn in_tunnel(self) -> Packet {
        self.by_mac(OVERLAY_SRC_MAC).for_mac(OVERLAY_DEV_MAC)
    }

    /// For a backend that the sender has drawn.
    pub fn for_backend(self, backend: &str) -> Packet {
        let (addr, port) = endpoint(backend);
        let [p, q] = port.get().to_be_bytes();
        let mut low = [0; 8];
        low.copy_from_slice(&addr.octets()[8..]);
        let [a, b, c, d, e, f, g, h] = low;
        self.for_mac([DIRECT_MAC_TAG, a, b, c, d, e]).by_mac([DIRECT_MAC_TAG, f, g, h, p, q])
    }

    pub(super) fn answering(self) -> Packet {
        self.by_mac(HOST_MAC).for_mac(POD_A_MAC)
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.between.insert(self.plain_bytes())
    }

    fn plain_bytes(&self) -> Vec<u8> {
        if matches!(self.transport, Transport::Frame) {
            return self.payload.clone();
        }
        let mut out = Vec::new();
        if let Transport::Rest { protocol } | Transport::Other { protocol } = self.transport {
            let header = self.ip(IpNumber(protocol), self.payload.len());
            let ethernet = Ethernet2Header {
                source: self.macs.0,
                destination: self.macs.1,
                ether_type: ether_type(self.src),
            };
            ethernet.write(&mut out).unwrap();
            header.write(&mut out).unwrap();
            out.extend_from_slice(&self.payload);
            return out;
        }
        let start = PacketBuilder::ethernet2(self.macs.0, self.macs.1).ip(self.ip(IpNumber(0), 0));
        match &self.transport {
            Transport::Udp { sport, dport } => {
                start.udp(*sport, *dport).write(&mut out, &self.payload).unwrap()
            }
            Transport::Tcp { sport, dport, seq, ack, flags, window } => {
                let mut header = TcpHeader::new(*sport, *dport, *seq, *window);
                header.syn = flags.contains('S');
                header.fin = flags.contains('F');
                header.rst = flags.contains('R');
                header.ack = flags.contains('A');
                header.acknowledgment_number = ack.unwrap_or(0);
                start.tcp_header(header).write(&mut out, &self.payload).unwrap();
            }
            Transport::Echo { id, reply } => {
                let done = match (self.src.is_ipv4(), reply) {
                    (true, false) => start.icmpv4_echo_request(*id, 1).write(&mut out, &self.payload),
                    (true, true) => start.icmpv4_echo_reply(*id, 1).write(&mut out, &self.payload),
                    (false, false) => start.icmpv6_echo_request(*id, 1).write(&mut out, &self.payload),
                    (false, true) => start.icmpv6_echo_reply(*id, 1).write(&mut out, &self.payload),
                };
                done.unwrap();
            }
            Transport::Error { kind, code, mtu } => {
                let done = if self.src.is_ipv4() {
                    start.icmpv4_raw(*kind, *code, mtu.to_be_bytes()).write(&mut out, &self.payload)
                } else {
                    start.icmpv6_raw(*kind, *code, mtu.to_be_bytes()).write(&mut out, &self.payload)
                };
                done.unwrap();
            }
            Transport::Other { .. } | Transport::Rest { .. } | Transport::Frame => {}
        }
        if self.no_checksum {
            out[40] = 0;
            out[41] = 0;
        }
        out
    }

    fn ip(&self, protocol: IpNumber, payload: usize) -> IpHeaders {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header =
                    Ipv4Header::new(payload as u16, self.ttl, protocol, src.octets(), dst.octets()).unwrap();
                if let Some((id, offset, more)) = self.fragment {
                    header.identification = id;
                    header.fragment_offset = IpFragOffset::try_new(offset / 8).unwrap();
                    header.more_fragments = more;
                    header.dont_fragment = false;
                }
                header.header_checksum = header.calc_header_checksum();
                IpHeaders::Ipv4(header, Default::default())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = Ipv6Header {
                    hop_limit: self.ttl,
                    next_header: protocol,
                    payload_length: payload as u16,
                    source: src.octets(),
                    destination: dst.octets(),
                    ..Default::default()
                };
                IpHeaders::Ipv6(header, Default::default())
            }
            mixed => panic!("two families in one packet: {mixed:?}"),
        }
    }
}

impl Between {
    /// Puts all of it into a frame without any, lengths and header checksum made good.
    fn insert(&self, mut frame: Vec<u8>) -> Vec<u8> {
        if !self.options.is_empty() {
            frame.splice(34..34, self.options.iter().copied());
            frame[14] += (self.options.len() / 4) as u8;
            add(&mut frame, 16, self.options.len());
            let length = 20 + self.options.len();
            frame[24..26].fill(0);
            let sum = !internet_sum(&frame[14..14 + length]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        for (number, body) in self.extensions.iter().rev() {
            let header = [&frame[20..21], body].concat();
            add(&mut frame, 18, header.len());
            frame.splice(54..54, header);
            frame[20] = *number;
        }
        frame
    }
}

/// Adds to the 16-bit length at `at`.
fn add(frame: &mut [u8], at: usize, more: usize) {
    let length = u16::from_be_bytes([frame[at], frame[at + 1]]) + more as u16;
    frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

/// The one's complement sum of RFC 1071, not inverted.
pub fn internet_sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn ether_type(src: IpAddr) -> EtherType {
    if src.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 }
}
