//! Which address comes next: pure.

use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A pod CIDR of this node. Its first host address is the router's; network and broadcast address are
/// nobody's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    v6: bool,
    /// The network address, as a number of 32 or 128 bits.
    base: u128,
    prefix_len: u8,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error("{text:?} is no address range like 10.244.1.0/24")]
    Syntax { text: String },
    #[error("{text} has bits behind its prefix: write {meant}")]
    HostBits { text: String, meant: String },
    #[error("{text} has no room for a router and a pod: make it a /{at_least} or larger")]
    TooSmall { text: String, at_least: u8 },
}

impl Range {
    pub fn parse(text: &str) -> Result<Range, RangeError> {
        let syntax = || RangeError::Syntax { text: text.to_owned() };
        let (address, length) = text.trim().split_once('/').ok_or_else(syntax)?;
        let address: IpAddr = address.parse().map_err(|_| syntax())?;
        let prefix_len: u8 = length.parse().map_err(|_| syntax())?;
        let (v6, bits) = (address.is_ipv6(), if address.is_ipv6() { 128 } else { 32 });
        if prefix_len > bits {
            return Err(syntax());
        }
        let mut range = Range { v6, base: number(address), prefix_len };
        let host = range.size() - 1;
        if range.base & host != 0 {
            range.base &= !host;
            return Err(RangeError::HostBits { text: text.to_owned(), meant: range.to_string() });
        }
        // Four addresses: network, router, one pod, broadcast.
        if bits - prefix_len < 2 {
            return Err(RangeError::TooSmall { text: text.to_owned(), at_least: bits - 2 });
        }
        Ok(range)
    }

    pub fn is_v6(&self) -> bool {
        self.v6
    }

    /// The node's own address in the range.
    pub fn router(&self) -> IpAddr {
        self.address(self.base + 1)
    }

    /// Whether a pod may have the address.
    pub fn serves(&self, address: IpAddr) -> bool {
        address.is_ipv6() == self.v6 && (self.first()..=self.last()).contains(&number(address))
    }

    /// The first free address after `last`, around the end: what was freed rests for a round.
    pub fn pick(&self, last: Option<IpAddr>, taken: &HashSet<IpAddr>) -> Option<IpAddr> {
        let start = match last.filter(|last| self.serves(*last)) {
            Some(last) if number(last) < self.last() => number(last) + 1,
            _ => self.first(),
        };
        let (before, after) = (self.first()..start, start..=self.last());
        // Of the first `taken + 1` candidates one is free, or there are fewer.
        after.chain(before).take(taken.len() + 1).map(|n| self.address(n)).find(|a| !taken.contains(a))
    }

    /// Addresses that pods can have, at most `u64::MAX`.
    pub fn capacity(&self) -> u64 {
        u64::try_from(self.last() - self.first() + 1).unwrap_or(u64::MAX)
    }

    fn first(&self) -> u128 {
        self.base + 2
    }

    /// IPv6 has no broadcast.
    fn last(&self) -> u128 {
        self.base + (self.size() - 1) - u128::from(!self.v6)
    }

    /// Number of addresses; a /0 of IPv6 counts one less.
    fn size(&self) -> u128 {
        let bits = if self.v6 { 128 } else { 32 };
        1u128.checked_shl(u32::from(bits - self.prefix_len)).unwrap_or(u128::MAX)
    }

    fn address(&self, number: u128) -> IpAddr {
        if self.v6 { Ipv6Addr::from(number).into() } else { Ipv4Addr::from(number as u32).into() }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(self.base), self.prefix_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_router_and_the_ends_are_never_given() {
        let range = Range::parse("10.0.0.0/29").unwrap();
        assert_eq!(range.router(), ip("10.0.0.1"));
        assert_eq!(range.capacity(), 5);
        let (mut taken, mut last, mut given) = (HashSet::new(), None, Vec::new());
        while let Some(next) = range.pick(last, &taken) {
            taken.insert(next);
            given.push(next.to_string());
            last = Some(next);
        }
        assert_eq!(given, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert!(!range.serves(ip("10.0.0.7")) && !range.serves(ip("10.0.0.1")) && !range.serves(ip("::2")));
    }

    #[test]
    fn a_freed_address_waits_until_the_round_is_over() {
        let range = Range::parse("10.0.0.0/29").unwrap();
        let taken = HashSet::from([ip("10.0.0.3")]);
        assert_eq!(range.pick(Some(ip("10.0.0.2")), &taken), Some(ip("10.0.0.4")));
        assert_eq!(range.pick(Some(ip("10.0.0.6")), &taken), Some(ip("10.0.0.2")));
        assert_eq!(range.pick(Some(ip("10.9.9.9")), &taken), Some(ip("10.0.0.2")), "of another range");
    }

    #[test]
    fn large_v6_ranges_cost_no_more() {
        let range = Range::parse("fd00::/64").unwrap();
        assert_eq!(range.router(), ip("fd00::1"));
        assert_eq!(range.pick(None, &HashSet::new()), Some(ip("fd00::2")));
        let last = ip("fd00::ffff:ffff:ffff:ffff");
        assert!(range.serves(last));
        assert_eq!(range.pick(Some(last), &HashSet::from([ip("fd00::2")])), Some(ip("fd00::3")));
    }

    #[test]
    fn wrong_ranges_say_what_is_meant() {
        for (text, part) in [
            ("10.0.0.0", "like 10.244.1.0/24"),
            ("10.0.0.0/33", "like"),
            ("10.0.0.9/24", "write 10.0.0.0/24"),
            ("10.0.0.0/31", "make it a /30"),
            ("fd00::/127", "make it a /126"),
            ("fd00::1/64", "write fd00::/64"),
        ] {
            let error = Range::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
