//! ARP (RFC 826, RFC 5227) and neighbour discovery (RFC 4861) as bytes. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) type Mac = [u8; 6];

pub(crate) const ETHER_ARP: u16 = 0x0806;
pub(crate) const ETHER_IPV6: u16 = 0x86dd;
const BROADCAST: Mac = [0xff; 6];
/// Ethernet address of `ff02::1`, all nodes of the link (RFC 2464 section 7).
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Ethernet, IPv4, addresses of 6 and 4 bytes: how every ARP packet that we know begins.
const ARP_KINDS: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Bits of an advertisement (RFC 4861 section 4.4).
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;

/// Somebody on the link asks who has an address, or says that he has it himself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Question {
    pub target: IpAddr,
    pub asker_mac: Mac,
    /// Unspecified: he wants to have the target himself and looks whether it is free.
    pub asker: IpAddr,
}

impl Question {
    /// An announcement: nothing to be answered.
    pub fn is_claim(&self) -> bool {
        self.asker == self.target
    }
}

/// `None` for whatever is no well-formed question.
pub(crate) fn parse(frame: &[u8]) -> Option<Question> {
    match u16::from_be_bytes(take(frame, 12)?) {
        ETHER_ARP => parse_arp(frame),
        ETHER_IPV6 => parse_solicitation(frame),
        _ => None,
    }
}

/// The frame that tells the asker that `mac` has the target.
pub(crate) fn answer(question: &Question, mac: Mac) -> Vec<u8> {
    let Question { target, asker_mac, asker } = *question;
    match (target, asker) {
        (IpAddr::V4(target), IpAddr::V4(asker)) => {
            arp(asker_mac, ARP_REPLY, (mac, target), (asker_mac, asker))
        }
        (IpAddr::V6(target), IpAddr::V6(asker)) if !asker.is_unspecified() => {
            advertisement(asker_mac, mac, target, asker, SOLICITED | OVERRIDE)
        }
        // Who has no address yet can only be told together with all others (RFC 4861 section 7.2.4).
        (IpAddr::V6(target), _) => advertisement(ALL_NODES_MAC, mac, target, ALL_NODES, OVERRIDE),
        (IpAddr::V4(target), IpAddr::V6(_)) => {
            arp(asker_mac, ARP_REPLY, (mac, target), (asker_mac, Ipv4Addr::UNSPECIFIED))
        }
    }
}

/// The frames that tell everyone, unasked, that `mac` has the address from now on. IPv4 knows two forms, a
/// request and a reply, and there are devices that heed but one of them.
pub(crate) fn announcements(address: IpAddr, mac: Mac) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(ip) => vec![
            arp(BROADCAST, ARP_REQUEST, (mac, ip), ([0; 6], ip)),
            arp(BROADCAST, ARP_REPLY, (mac, ip), (BROADCAST, ip)),
        ],
        IpAddr::V6(ip) => vec![advertisement(ALL_NODES_MAC, mac, ip, ALL_NODES, OVERRIDE)],
    }
}

/// The multicast group in which an address is asked for: `ff02::1:ffXX:XXXX` (RFC 4291 section 2.7.1).
pub(crate) fn solicited_node(address: &Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

fn parse_arp(frame: &[u8]) -> Option<Question> {
    let is_request = take::<6>(frame, 14)? == ARP_KINDS && take(frame, 20)? == [0, ARP_REQUEST];
    let asker_mac: Mac = take(frame, 22)?;
    let (asker, target) = (Ipv4Addr::from(take::<4>(frame, 28)?), Ipv4Addr::from(take::<4>(frame, 38)?));
    (is_request && !is_group(&asker_mac)).then_some(Question {
        target: target.into(),
        asker_mac,
        asker: asker.into(),
    })
}

fn parse_solicitation(frame: &[u8]) -> Option<Question> {
    let packet = frame.get(14..)?;
    let [version, ..] = take::<1>(packet, 0)?;
    let length = usize::from(u16::from_be_bytes(take(packet, 4)?));
    let [next_header, hop_limit] = take(packet, 6)?;
    let (source, destination) =
        (Ipv6Addr::from(take::<16>(packet, 8)?), Ipv6Addr::from(take::<16>(packet, 24)?));
    let message = packet.get(40..)?.get(..length)?;
    let [kind, code] = take(message, 0)?;
    let target = Ipv6Addr::from(take::<16>(message, 8)?);
    let options = message.get(24..)?;
    // A hop limit of 255 proves that no router stands between (RFC 4861 section 7.1.1).
    let is_valid = version >> 4 == 6
        && (next_header, hop_limit) == (ICMPV6, 255)
        && (kind, code) == (SOLICITATION, 0)
        && checksum(&source, &destination, message) == 0
        && !target.is_multicast()
        && !source.is_multicast();
    let named = source_link_address(options)?;
    let probes = source.is_unspecified();
    if !is_valid || (probes && (named.is_some() || !destination.is_multicast())) {
        return None;
    }
    let asker_mac = named.or_else(|| take(frame, 6)).filter(|mac| !is_group(mac))?;
    Some(Question { target: target.into(), asker_mac, asker: source.into() })
}

/// The asker's Ethernet address, where it is given. `None`: the options are broken.
fn source_link_address(mut options: &[u8]) -> Option<Option<Mac>> {
    while !options.is_empty() {
        let [kind, units] = take(options, 0)?;
        let length = usize::from(units) * 8;
        if length == 0 {
            return None;
        }
        let option = options.get(..length)?;
        if kind == SOURCE_LINK_ADDRESS {
            return take(option, 2).map(Some);
        }
        options = options.get(length..)?;
    }
    Some(None)
}

fn arp(to: Mac, operation: u8, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = Vec::with_capacity(60);
    frame.extend(to);
    frame.extend(sender.0);
    frame.extend(ETHER_ARP.to_be_bytes());
    frame.extend(ARP_KINDS);
    frame.extend([0, operation]);
    for (mac, ip) in [sender, target] {
        frame.extend(mac);
        frame.extend(ip.octets());
    }
    // The least that Ethernet carries, without the check sequence.
    frame.resize(60, 0);
    frame
}

fn advertisement(to: Mac, mac: Mac, target: Ipv6Addr, asker: Ipv6Addr, flags: u8) -> Vec<u8> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    message.extend([TARGET_LINK_ADDRESS, 1]);
    message.extend(mac);
    let [high, low] = checksum(&target, &asker, &message).to_be_bytes();
    message[2] = high;
    message[3] = low;
    let mut frame = Vec::with_capacity(54 + message.len());
    frame.extend(to);
    frame.extend(mac);
    frame.extend(ETHER_IPV6.to_be_bytes());
    frame.extend([0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, 255]);
    frame.extend(target.octets());
    frame.extend(asker.octets());
    frame.extend(message);
    frame
}

/// ICMPv6's checksum with the pseudo header (RFC 4443 section 2.3); 0 over a message that holds the right
/// one.
fn checksum(source: &Ipv6Addr, destination: &Ipv6Addr, message: &[u8]) -> u16 {
    let pseudo = source.octets().into_iter().chain(destination.octets()).chain([0, ICMPV6]);
    let bytes: Vec<u8> =
        pseudo.chain((message.len() as u16).to_be_bytes()).chain(message.iter().copied()).collect();
    let pair = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    let mut sum: u32 = bytes.chunks(2).map(pair).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn is_group(mac: &Mac) -> bool {
    mac[0] & 1 != 0
}

fn take<const N: usize>(bytes: &[u8], from: usize) -> Option<[u8; N]> {
    bytes.get(from..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: Mac = [2, 0, 0, 0, 0, 7];
    const OURS: Mac = [2, 0, 0, 0, 0, 9];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn solicitation(source: &str, destination: &str, target: &str, options: &[u8]) -> Vec<u8> {
        let (source, destination) = (v6(source), v6(destination));
        let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend(v6(target).octets());
        message.extend(options);
        let sum = checksum(&source, &destination, &message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        let mut frame = vec![0x33, 0x33, 0xff, 0, 0, 1];
        frame.extend(ASKER);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, 255]);
        frame.extend(source.octets());
        frame.extend(destination.octets());
        frame.extend(message);
        frame
    }

    #[test]
    fn an_arp_question_is_answered_to_the_asker() {
        let asked =
            arp(BROADCAST, ARP_REQUEST, (ASKER, [192, 0, 2, 7].into()), ([0; 6], [192, 0, 2, 9].into()));
        let question = parse(&asked).unwrap();
        assert_eq!(question, Question { target: ip("192.0.2.9"), asker_mac: ASKER, asker: ip("192.0.2.7") });
        let said = answer(&question, OURS);
        assert_eq!(said[..6], ASKER);
        assert_eq!(said[6..12], OURS);
        let expected = [
            [0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 9].as_slice(),
            &[192, 0, 2, 9, 2, 0, 0, 0, 0, 7, 192, 0, 2, 7],
        ];
        assert_eq!(said[14..42], expected.concat());
        assert_eq!(parse(&said), None, "an answer is no question");
    }

    #[test]
    fn a_probe_is_answered_and_a_claim_is_recognised() {
        let ip4 = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let probe = arp(BROADCAST, ARP_REQUEST, (ASKER, ip4("0.0.0.0")), ([0; 6], ip4("192.0.2.9")));
        assert!(!parse(&probe).unwrap().is_claim());
        for frame in announcements(ip("192.0.2.9"), OURS) {
            assert_eq!(frame[..6], BROADCAST);
            assert!(parse(&frame).is_none_or(|question| question.is_claim()));
        }
    }

    #[test]
    fn a_solicitation_is_answered_with_a_right_checksum() {
        let named = [SOURCE_LINK_ADDRESS, 1, 2, 0, 0, 0, 0, 8];
        let asked = solicitation("fd00::7", "ff02::1:ff00:9", "fd00::9", &named);
        let question = parse(&asked).unwrap();
        let asker_mac = [2, 0, 0, 0, 0, 8];
        assert_eq!(question, Question { target: ip("fd00::9"), asker_mac, asker: ip("fd00::7") });
        let said = answer(&question, OURS);
        assert_eq!(said.len(), 86);
        assert_eq!(said[..6], asker_mac);
        assert_eq!(checksum(&v6("fd00::9"), &v6("fd00::7"), &said[54..]), 0);
        assert_eq!((said[54], said[58]), (ADVERTISEMENT, SOLICITED | OVERRIDE));
        // Asked directly, as hosts do that know the answer and look whether it still holds.
        let again = parse(&solicitation("fd00::7", "fd00::9", "fd00::9", &[])).unwrap();
        assert_eq!(again.asker_mac, ASKER);
    }

    #[test]
    fn who_probes_for_duplicates_is_told_with_everyone() {
        let question = parse(&solicitation("::", "ff02::1:ff00:9", "fd00::9", &[])).unwrap();
        let said = answer(&question, OURS);
        assert_eq!(said[..6], ALL_NODES_MAC);
        assert_eq!(said[58], OVERRIDE);
        assert_eq!(checksum(&v6("fd00::9"), &ALL_NODES, &said[54..]), 0);
    }

    #[test]
    fn what_is_not_well_formed_is_no_question() {
        let good = solicitation("fd00::7", "ff02::1:ff00:9", "fd00::9", &[]);
        assert!(parse(&good).is_some());
        let changed = |at: usize, to: u8| {
            let mut frame = good.clone();
            frame[at] = to;
            parse(&frame)
        };
        assert_eq!(changed(21, 64), None, "came through a router");
        assert_eq!(changed(56, 0), None, "wrong checksum");
        assert_eq!(changed(54, 128), None, "another message");
        assert_eq!(changed(19, 200), None, "longer than the frame");
        for length in 0..good.len() {
            assert_eq!(parse(&good[..length]), None, "{length}");
        }
        let endless = solicitation("fd00::7", "ff02::1:ff00:9", "fd00::9", &[14, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse(&endless), None);
        let group = arp(BROADCAST, ARP_REQUEST, (BROADCAST, [1; 4].into()), ([0; 6], [2; 4].into()));
        assert_eq!(parse(&group), None);
    }

    #[test]
    fn an_addresss_group_ends_with_its_last_three_bytes() {
        assert_eq!(solicited_node(&v6("fd00::12:3456")), v6("ff02::1:ff12:3456"));
    }
}
