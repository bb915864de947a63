use bytemuck::{Pod, Zeroable};

/// An IPv6 address, or an IPv4 one in its v4-mapped form (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2), as
/// four 32-bit words that lie in memory in network byte order. Words, not bytes: BPF then moves it with four
/// loads.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Pod, Zeroable)]
pub struct Addr(pub [u32; 4]);

/// The third word of a v4-mapped address.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Addr {
    /// `::`, which no table uses as a real address: it stands for "any" in a [`crate::FrontendKey`] of kind
    /// `NODE_PORT`.
    pub const UNSPECIFIED: Addr = Addr([0; 4]);

    /// From an IPv4 address whose four bytes lie in network byte order in `raw` (as read from a packet or
    /// `user_ip4`).
    #[inline(always)]
    pub const fn from_v4_raw(raw: u32) -> Addr {
        Addr([0, 0, MAPPED, raw])
    }

    /// The v4-mapped form of an address whose first octet comes first.
    #[inline(always)]
    pub const fn from_v4(octets: [u8; 4]) -> Addr {
        Addr::from_v4_raw(u32::from_ne_bytes(octets))
    }

    /// From the 16 octets of an IPv6 address, or of one that is already v4-mapped.
    #[inline(always)]
    pub const fn from_v6(octets: [u8; 16]) -> Addr {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Addr([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ])
    }

    /// Whether it is v4-mapped. On the wire no IPv6 packet may have such an address
    /// ([`MappedOnWire`](crate::Reason::MappedOnWire)).
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// The last word: for an IPv4 address its four bytes in network byte order.
    #[inline(always)]
    pub const fn v4_raw(&self) -> u32 {
        self.0[3]
    }

    /// Whether it is `::`. `0.0.0.0` is mapped, and therefore is not.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 0
    }

    /// Equality word by word: the derived one becomes a call of `memcmp`, which a kernel program has not.
    #[inline(always)]
    pub const fn same(&self, other: &Addr) -> bool {
        (self.0[0] ^ other.0[0])
            | (self.0[1] ^ other.0[1])
            | (self.0[2] ^ other.0[2])
            | (self.0[3] ^ other.0[3])
            == 0
    }

    /// All 16 octets as on the wire, of an IPv4 address those of its mapped form.
    pub const fn octets(&self) -> [u8; 16] {
        let [a, b, c, d] = self.0[0].to_ne_bytes();
        let [e, f, g, h] = self.0[1].to_ne_bytes();
        let [i, j, k, l] = self.0[2].to_ne_bytes();
        let [m, n, o, p] = self.0[3].to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// A v4-mapped address becomes an `IpAddr::V4`: `IpAddr::V6` never holds one.
    pub fn to_ip(self) -> core::net::IpAddr {
        if self.is_v4() {
            core::net::IpAddr::V4(core::net::Ipv4Addr::from(self.0[3].to_ne_bytes()))
        } else {
            core::net::IpAddr::V6(core::net::Ipv6Addr::from(self.octets()))
        }
    }
}

impl From<core::net::IpAddr> for Addr {
    fn from(ip: core::net::IpAddr) -> Addr {
        match ip {
            core::net::IpAddr::V4(v4) => v4.into(),
            core::net::IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<core::net::Ipv4Addr> for Addr {
    fn from(ip: core::net::Ipv4Addr) -> Addr {
        Addr::from_v4(ip.octets())
    }
}

impl From<core::net::Ipv6Addr> for Addr {
    fn from(ip: core::net::Ipv6Addr) -> Addr {
        Addr::from_v6(ip.octets())
    }
}

impl core::fmt::Debug for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.to_ip(), f)
    }
}

impl core::fmt::Display for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.to_ip(), f)
    }
}

/// A 16-bit number that lies in memory in network byte order (a port as it stands in a packet).
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Pod, Zeroable)]
pub struct Be16(u16);

impl Be16 {
    /// No port: what protocols without ports have, and the marks of addresses in use ([`crate::FrontendKey`]).
    pub const ZERO: Be16 = Be16(0);

    /// From a number in host byte order.
    #[inline(always)]
    pub const fn new(host: u16) -> Be16 {
        Be16(host.to_be())
    }

    /// From two bytes that already lie in network byte order in `raw`.
    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Be16 {
        Be16(raw)
    }

    /// The 16 bits as they lie in a packet, for comparison and for storing: no number to calculate with.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// The number in host byte order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl core::fmt::Debug for Be16 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.get(), f)
    }
}

impl core::fmt::Display for Be16 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.get(), f)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;

    #[test]
    fn addresses_and_ports_are_shown_as_people_write_them() {
        let (four, six) =
            (Addr::from_v4([10, 0, 0, 1]), Addr([0xfd00_u32.to_be() >> 16, 0, 0, 9_u32.to_be()]));
        let (port, wrapped) = (Be16::new(8_080), Some(Be16::new(80)));
        assert_eq!(std::format!("{four} {four:?} {port} {wrapped:?}"), "10.0.0.1 10.0.0.1 8080 Some(80)");
        assert_eq!(std::format!("{six}"), six.to_ip().to_string());
    }

    #[test]
    fn unspecified_is_the_one_address_without_a_bit() {
        assert!(Addr::UNSPECIFIED.is_unspecified());
        for word in 0..4 {
            let mut other = Addr::UNSPECIFIED;
            other.0[word] = 1;
            assert!(!other.is_unspecified(), "{other:?}");
        }
        // 0.0.0.0 is mapped, and another.
        assert!(!Addr::from_v4([0; 4]).is_unspecified());
    }

    #[test]
    fn addresses_are_the_same_in_all_words_or_not_at_all() {
        let one = Addr([1, 2, 3, 4]);
        assert!(one.same(&Addr([1, 2, 3, 4])));
        for other in [[0, 2, 3, 4], [1, 0, 3, 4], [1, 2, 0, 4], [1, 2, 3, 0]] {
            assert!(!one.same(&Addr(other)), "{other:?}");
        }
        // The same difference in two words is one in each.
        for other in [[2, 1, 3, 4], [1, 3, 2, 4], [1, 2, 4, 3], [5, 2, 3, 0]] {
            assert!(!one.same(&Addr(other)), "{other:?}");
        }
    }
}
