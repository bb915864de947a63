//! Which addresses an attachment gets: pure.

use std::{collections::HashSet, net::IpAddr};

use crate::range::Range;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error(
        "no free IPv{family} address in {ranges} ({capacity} in all): delete pods here, schedule fewer, or give the node a larger pod CIDR"
    )]
    Full { family: u8, ranges: String, capacity: u64 },
    #[error("address {address} was asked for and {ranges} can't give it (the first one is the router's)")]
    OutOfRange { address: IpAddr, ranges: String },
    #[error("address {address} was asked for and another pod has it")]
    Taken { address: IpAddr },
    #[error("addresses {first} and {second} were asked for: a pod gets one of each family")]
    TwoOfOneFamily { first: IpAddr, second: IpAddr },
}

/// One address for each family that `ranges` have, IPv4 first, with the range it is from. `last` tells which
/// address of a range was given last.
pub fn choose(
    ranges: &[Range],
    requested: &[IpAddr],
    taken: &HashSet<IpAddr>,
    last: &dyn Fn(&Range) -> Option<IpAddr>,
) -> Result<Vec<(IpAddr, Range)>, PoolError> {
    if let Some(address) = requested.iter().find(|a| !ranges.iter().any(|r| r.serves(**a))) {
        return Err(PoolError::OutOfRange { address: *address, ranges: join(ranges.iter()) });
    }
    let mut chosen = Vec::with_capacity(2);
    for (family, v6) in [(4, false), (6, true)] {
        let of_family: Vec<&Range> = ranges.iter().filter(|r| r.is_v6() == v6).collect();
        if of_family.is_empty() {
            continue;
        }
        let mut wanted = requested.iter().filter(|a| a.is_ipv6() == v6);
        chosen.push(match (wanted.next(), wanted.next()) {
            (Some(first), Some(second)) => {
                return Err(PoolError::TwoOfOneFamily { first: *first, second: *second });
            }
            (Some(address), None) if taken.contains(address) => {
                return Err(PoolError::Taken { address: *address });
            }
            (Some(address), None) => {
                (*address, of_family.iter().find(|r| r.serves(*address)).map_or(*of_family[0], |r| **r))
            }
            (None, _) => of_family
                .iter()
                .find_map(|range| range.pick(last(range), taken).map(|address| (address, **range)))
                .ok_or_else(|| PoolError::Full {
                    family,
                    ranges: join(of_family.iter().copied()),
                    capacity: of_family.iter().map(|r| r.capacity()).fold(0, u64::saturating_add),
                })?,
        });
    }
    Ok(chosen)
}

fn join<'a>(ranges: impl Iterator<Item = &'a Range>) -> String {
    ranges.map(Range::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ranges(texts: &[&str]) -> Vec<Range> {
        texts.iter().map(|t| Range::parse(t).unwrap()).collect()
    }

    fn chosen(r: &[Range], requested: &[IpAddr], taken: &[IpAddr]) -> Result<Vec<IpAddr>, PoolError> {
        choose(r, requested, &taken.iter().copied().collect(), &|_| None)
            .map(|c| c.into_iter().map(|(a, _)| a).collect())
    }

    #[test]
    fn each_family_gives_one_and_a_full_range_makes_way_for_the_next() {
        let r = ranges(&["fd00::/64", "10.0.0.0/30", "10.1.0.0/30"]);
        assert_eq!(chosen(&r, &[], &[]).unwrap(), [ip("10.0.0.2"), ip("fd00::2")]);
        assert_eq!(chosen(&r, &[], &[ip("10.0.0.2")]).unwrap(), [ip("10.1.0.2"), ip("fd00::2")]);
        let full = chosen(&r, &[], &[ip("10.0.0.2"), ip("10.1.0.2")]).unwrap_err();
        assert!(full.to_string().starts_with("no free IPv4 address in 10.0.0.0/30, 10.1.0.0/30 (2 in all)"));
    }

    #[test]
    fn requests_are_met_or_refused_with_the_reason() {
        let r = ranges(&["10.0.0.0/29"]);
        assert_eq!(chosen(&r, &[ip("10.0.0.5")], &[]).unwrap(), [ip("10.0.0.5")]);
        assert_eq!(
            chosen(&r, &[ip("10.0.0.5")], &[ip("10.0.0.5")]),
            Err(PoolError::Taken { address: ip("10.0.0.5") })
        );
        for outside in ["10.0.0.1", "10.0.0.7", "10.0.1.5", "fd00::5"] {
            assert!(
                matches!(chosen(&r, &[ip(outside)], &[]), Err(PoolError::OutOfRange { .. })),
                "{outside}"
            );
        }
        let two = chosen(&r, &[ip("10.0.0.5"), ip("10.0.0.6")], &[]);
        assert!(matches!(two, Err(PoolError::TwoOfOneFamily { .. })));
    }
}
