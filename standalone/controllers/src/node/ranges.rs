//! Which node has which range of pod addresses. Pure.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// Largest number of node ranges that one cluster range may be cut into (as upstream's limit of 16 bits).
const MAX_BITS: u8 = 16;

/// Why a range cannot be cut or given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RangeError {
    #[error(
        "node prefix /{mask} does not fit cluster range {cluster}: choose one from /{} to /{}",
        cluster.prefix(), cluster.prefix().saturating_add(MAX_BITS)
    )]
    Mask { cluster: IpNetwork, mask: u8 },
    #[error("cluster range {cluster} is used up: all {nodes} node ranges are taken; delete unused nodes")]
    Full { cluster: IpNetwork, nodes: usize },
    #[error(
        "range {range} of node {node} belongs to node {other} already: set another podCIDR on one of them"
    )]
    Taken { range: IpNetwork, node: String, other: String },
}

/// Cluster ranges cut into equal node ranges, and who has them.
#[derive(Debug)]
pub struct Ranges {
    pools: Vec<Pool>,
    nodes: HashMap<String, Vec<IpNetwork>>,
}

#[derive(Debug)]
struct Pool {
    cluster: IpNetwork,
    mask: u8,
    taken: HashMap<u32, String>,
    free_again: BTreeSet<u32>,
    /// Indexes from here on were never taken.
    untouched: u32,
}

impl Ranges {
    /// # Errors
    /// When a node mask is shorter than its cluster range's, or more than 16 bits longer.
    pub fn new(clusters: &[IpNetwork], mask_v4: u8, mask_v6: u8) -> Result<Self, RangeError> {
        let pool = |&cluster: &IpNetwork| {
            let (mask, longest) = if cluster.is_ipv4() { (mask_v4, 32) } else { (mask_v6, 128) };
            if mask < cluster.prefix() || mask > longest || mask - cluster.prefix() > MAX_BITS {
                return Err(RangeError::Mask { cluster, mask });
            }
            Ok(Pool { cluster, mask, taken: HashMap::new(), free_again: BTreeSet::new(), untouched: 0 })
        };
        Ok(Self { pools: clusters.iter().map(pool).collect::<Result<_, _>>()?, nodes: HashMap::new() })
    }

    /// Notes that a node has these ranges. Ranges outside the cluster's are noted as the node's, nothing
    /// more.
    ///
    /// # Errors
    /// When another node has one of them; the first one keeps it.
    pub fn occupy(&mut self, node: &str, ranges: &[IpNetwork]) -> Result<(), RangeError> {
        let mut conflict = None;
        for range in ranges {
            for pool in &mut self.pools {
                if let Some(other) = pool.occupy(range, node) {
                    let node = node.to_owned();
                    conflict = Some(RangeError::Taken { range: *range, node, other });
                }
            }
        }
        self.nodes.insert(node.to_owned(), ranges.to_vec());
        conflict.map_or(Ok(()), Err)
    }

    /// The node's ranges, one a family; the same ones each time it is asked for the same node.
    ///
    /// # Errors
    /// When a cluster range is used up; then nothing is taken.
    pub fn assign(&mut self, node: &str) -> Result<Vec<IpNetwork>, RangeError> {
        if let Some(ranges) = self.nodes.get(node) {
            return Ok(ranges.clone());
        }
        if let Some(full) = self.pools.iter().find(|pool| pool.lowest_free().is_none()) {
            return Err(RangeError::Full { cluster: full.cluster, nodes: full.taken.len() });
        }
        let mut ranges = Vec::new();
        for pool in &mut self.pools {
            if let Some(index) = pool.lowest_free() {
                pool.take(index, node);
                ranges.extend(pool.range(index));
            }
        }
        self.nodes.insert(node.to_owned(), ranges.clone());
        Ok(ranges)
    }

    /// The node is gone: its ranges are free.
    pub fn release(&mut self, node: &str) {
        self.nodes.remove(node);
        for pool in &mut self.pools {
            let freed: Vec<u32> =
                pool.taken.iter().filter(|(_, by)| *by == node).map(|(&index, _)| index).collect();
            for index in freed {
                pool.taken.remove(&index);
                pool.free_again.insert(index);
            }
        }
    }
}

impl Pool {
    fn bits(&self) -> u8 {
        self.mask - self.cluster.prefix()
    }

    fn width(&self) -> u32 {
        if self.cluster.is_ipv4() { 32 } else { 128 }
    }

    fn lowest_free(&self) -> Option<u32> {
        let untouched = (self.untouched < 1 << self.bits()).then_some(self.untouched);
        self.free_again.first().copied().or(untouched)
    }

    fn take(&mut self, index: u32, node: &str) {
        while self.untouched <= index {
            self.free_again.insert(self.untouched);
            self.untouched += 1;
        }
        self.free_again.remove(&index);
        self.taken.insert(index, node.to_owned());
    }

    fn range(&self, index: u32) -> Option<IpNetwork> {
        let step = u128::from(index).checked_shl(self.width() - u32::from(self.mask)).unwrap_or(0);
        let base = number(self.cluster.network()) + step;
        let address = match self.cluster {
            IpNetwork::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(base as u32)),
            IpNetwork::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(base)),
        };
        IpNetwork::new(address, self.mask).ok()
    }

    /// Takes every node range that `range` touches; the other owner of the first one that is taken already.
    fn occupy(&mut self, range: &IpNetwork, node: &str) -> Option<String> {
        if range.is_ipv4() != self.cluster.is_ipv4() {
            return None;
        }
        let shift = self.width() - u32::from(self.mask);
        let block = |address: IpAddr| {
            let offset = number(address).checked_sub(number(self.cluster.network()))?;
            let index = offset.checked_shr(shift).unwrap_or(0);
            u32::try_from(index).ok().filter(|index| *index < 1 << self.bits())
        };
        let (first, last) = (block(range.network())?, block(range.broadcast())?);
        let mut other = None;
        for index in first..=last {
            match self.taken.get(&index) {
                Some(by) if by != node => other = other.or_else(|| Some(by.clone())),
                Some(_) => {}
                None => self.take(index, node),
            }
        }
        other
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(clusters: &[&str]) -> Ranges {
        let clusters: Vec<IpNetwork> = clusters.iter().map(|text| text.parse().unwrap()).collect();
        Ranges::new(&clusters, 24, 64).unwrap()
    }

    fn text(ranges: &[IpNetwork]) -> Vec<String> {
        ranges.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn first_node_gets_the_first_range_of_each_family() {
        let mut ranges = ranges(&["10.244.0.0/16", "fd00:10:244::/56"]);
        assert_eq!(text(&ranges.assign("a").unwrap()), ["10.244.0.0/24", "fd00:10:244::/64"]);
        assert_eq!(text(&ranges.assign("b").unwrap()), ["10.244.1.0/24", "fd00:10:244:1::/64"]);
        assert_eq!(
            text(&ranges.assign("a").unwrap()),
            ["10.244.0.0/24", "fd00:10:244::/64"],
            "the same again"
        );
    }

    #[test]
    fn existing_nodes_keep_theirs_and_gaps_are_filled() {
        let mut ranges = ranges(&["10.244.0.0/16"]);
        ranges.occupy("old", &["10.244.1.0/24".parse().unwrap()]).unwrap();
        assert_eq!(text(&ranges.assign("a").unwrap()), ["10.244.0.0/24"]);
        assert_eq!(text(&ranges.assign("b").unwrap()), ["10.244.2.0/24"]);
        ranges.release("old");
        assert_eq!(text(&ranges.assign("c").unwrap()), ["10.244.1.0/24"]);
    }

    #[test]
    fn a_range_that_is_taken_and_a_full_cluster_are_said() {
        let mut ranges = ranges(&["10.244.0.0/23"]);
        ranges.assign("a").unwrap();
        let taken = ranges.occupy("b", &["10.244.0.0/24".parse().unwrap()]);
        assert!(matches!(taken, Err(RangeError::Taken { other, .. }) if other == "a"));
        ranges.assign("c").unwrap();
        assert!(matches!(ranges.assign("d"), Err(RangeError::Full { nodes: 2, .. })));
        let mask = Ranges::new(&["10.0.0.0/25".parse().unwrap()], 24, 64);
        assert!(matches!(mask, Err(RangeError::Mask { mask: 24, .. })));
    }

    proptest! {
        #[test]
        fn no_two_nodes_ever_share_a_range(steps in prop::collection::vec((0u8..12, any::<bool>()), 0..80)) {
            let mut ranges = ranges(&["10.244.0.0/21"]);
            let mut live: HashMap<u8, Vec<IpNetwork>> = HashMap::new();
            for (node, arrives) in steps {
                if arrives {
                    match ranges.assign(&node.to_string()) {
                        Ok(given) => { live.insert(node, given); }
                        Err(_) => prop_assert_eq!(live.len(), 8),
                    }
                } else {
                    ranges.release(&node.to_string());
                    live.remove(&node);
                }
                let distinct: BTreeSet<String> = live.values().flatten().map(ToString::to_string).collect();
                prop_assert_eq!(distinct.len(), live.len());
            }
        }
    }
}
