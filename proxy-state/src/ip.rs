use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use proxy_abi::Addr;

/// Reads an address as Kubernetes' older validation let it through: white space around it and leading zeros
/// in IPv4 octets (read as decimal, `010.0.0.1` is `10.0.0.1`) are tolerated.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 8 || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse::<u32>().ok()?.try_into().ok()?;
    }
    parts.next().is_none().then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

/// Reads `ADDRESS/BITS`; host bits are cleared.
pub fn parse_cidr(text: &str) -> Option<IpNetwork> {
    let (ip, bits) = text.trim().split_once('/')?;
    let network = IpNetwork::new(parse_ip(ip)?, bits.trim().parse().ok()?).ok()?;
    IpNetwork::new(network.network(), network.prefix()).ok()
}

/// Whether an address may be a backend or an external address of a service. Loopback and link-local ones
/// would let whoever may write EndpointSlices reach the node's own services (CVE-2021-25737); v4-mapped ones
/// never appear on the wire.
///
/// `None`: it may; else what it is.
pub(crate) fn unfit(ip: IpAddr) -> Option<&'static str> {
    let (is_link_local, is_other) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.is_broadcast().then_some("broadcast")),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.to_ipv4_mapped().map(|_| "v4-mapped")),
    };
    [
        (ip.is_loopback(), "loopback"),
        (is_link_local, "link-local"),
        (ip.is_multicast(), "multicast"),
        (ip.is_unspecified(), "unspecified"),
    ]
    .into_iter()
    .find_map(|(is_so, what)| is_so.then_some(what))
    .or(is_other)
}

/// [`parse_ip`] of what may be a backend or an external address: nothing of loopback, link-local, multicast
/// and the like.
pub fn routable_addr(text: &str) -> Option<Addr> {
    parse_ip(text).filter(|ip| unfit(*ip).is_none()).map(Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_and_leading_zeros_are_tolerated_and_garbage_is_not() {
        for (text, ip) in [
            (" 10.0.0.1\n", Some("10.0.0.1")),
            ("010.000.00.001", Some("10.0.0.1")),
            ("10.0.0.256", None),
            ("10.0.0", None),
            ("10.0.0.1.2", None),
            ("10.0.0.+1", None),
            ("10.0.0.99999999999999999999", None),
            ("", None),
            ("None", None),
            (" fd00::1 ", Some("fd00::1")),
            ("fe80::1%eth0", None),
        ] {
            assert_eq!(parse_ip(text), ip.map(|ip| ip.parse().unwrap()), "{text:?}");
        }
        assert_eq!(parse_cidr("10.244.01.7/24"), Some("10.244.1.0/24".parse().unwrap()));
        assert_eq!(parse_cidr("10.244.1.0/33"), None);
    }

    #[test]
    fn addresses_that_reach_the_node_itself_are_refused() {
        for text in
            ["127.0.0.1", "169.254.169.254", "::1", "fe80::1", "::ffff:10.0.0.1", "0.0.0.0", "224.0.0.1"]
        {
            assert!(routable_addr(text).is_none(), "{text}");
        }
        assert!(routable_addr("10.0.0.1").is_some() && routable_addr("fd00::1").is_some());
    }
}
