//! What of Nodes' claims is believed. A Node is written by its own machine and by whoever may join: a range
//! that it claims makes every node route, so it counts only where pods may live and nobody else is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ipnetwork::IpNetwork;
use proxy_abi::Addr;

use crate::{
    model::{Node, ObjectKey, prefix},
    warnings::{Cause, Warning},
};

/// What this node knows besides Nodes, and Nodes may not take away.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bounds {
    /// The cluster's pod ranges. Empty: not known; then nodes' addresses and Services' ranges bound them.
    pub cluster: Vec<IpNetwork>,
    /// Addresses that must stay where they are.
    pub kept: BTreeMap<Addr, Kept>,
    /// Ranges that routes of others lead to.
    pub routes: BTreeSet<IpNetwork>,
}

/// What an address is that no pod can have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kept {
    /// Of a device of this node.
    Own,
    /// The next hop of a route of this node.
    Gateway,
    /// Where this node's programs reach the API server.
    ApiServer,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kept::Own => "this node's own",
            Kept::Gateway => "this node's gateway",
            Kept::ApiServer => "the API server's",
        })
    }
}

/// Why a claim is not believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Doubt {
    Special {
        range: IpNetwork,
        what: &'static str,
    },
    TooSmall {
        range: IpNetwork,
    },
    Outside {
        range: IpNetwork,
        cluster: Box<[IpNetwork]>,
    },
    Services {
        range: IpNetwork,
        services: IpNetwork,
    },
    Taken {
        range: IpNetwork,
        by: IpNetwork,
        node: ObjectKey,
    },
    HoldsNode {
        range: IpNetwork,
        addr: Addr,
        node: ObjectKey,
    },
    Holds {
        range: IpNetwork,
        addr: Addr,
        what: Kept,
    },
    Routed {
        range: IpNetwork,
    },
    /// Of an address.
    InRange {
        addr: Addr,
        range: IpNetwork,
        node: ObjectKey,
    },
}

impl Doubt {
    fn cause(&self) -> Cause {
        match self {
            // What only this node has: others may not see it.
            Doubt::Holds { .. } | Doubt::Routed { .. } => Cause::PodRangeUnusable,
            Doubt::InRange { .. } => Cause::AddressRefused,
            _ => Cause::PodRangeRefused,
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::Special { range, what } => write!(f, "pod range {range} holds {what} addresses"),
            Doubt::TooSmall { range } => {
                write!(f, "pod range {range} has no room for a router and a pod")
            }
            Doubt::Outside { range, cluster } => {
                let cluster: Vec<String> = cluster.iter().map(IpNetwork::to_string).collect();
                write!(f, "pod range {range} lies outside of the cluster's ({})", cluster.join(", "))
            }
            Doubt::Services { range, services } => {
                write!(f, "pod range {range} touches the Services' range {services}")
            }
            Doubt::Taken { range, by, node } => {
                write!(f, "pod range {range} overlaps {by} of the older Node {node}")
            }
            Doubt::HoldsNode { range, addr, node } => {
                write!(f, "pod range {range} holds address {addr} of Node {node}")
            }
            Doubt::Holds { range, addr, what } => write!(f, "pod range {range} holds {addr}, {what} address"),
            Doubt::Routed { range } => {
                write!(
                    f,
                    "a route to pod range {range} is there that is not Skerry's (`ip route show {range}`)"
                )
            }
            Doubt::InRange { addr, range, node } => {
                write!(f, "address {addr} lies in the pod range {range} of Node {node}")
            }
        }
    }
}

/// Of each cause one warning, about the first doubt and how many more there are.
pub(crate) fn warnings(doubts: &[Doubt]) -> Vec<Warning> {
    let mut found: Vec<Warning> = Vec::new();
    for cause in [Cause::AddressRefused, Cause::PodRangeRefused, Cause::PodRangeUnusable] {
        let mut of_cause = doubts.iter().filter(|doubt| doubt.cause() == cause);
        let Some(first) = of_cause.next() else { continue };
        let more = match of_cause.count() {
            0 => String::new(),
            count => format!(" (and {count} more)"),
        };
        let next = match cause {
            Cause::PodRangeUnusable => "this node sends nothing there; remove what is in the way",
            _ if matches!(first, Doubt::Outside { .. }) => {
                "not believed, nothing is sent there; correct --pod-cidr (or --cluster-cidr), or the Node"
            }
            _ => "not believed, nothing is sent there; correct or delete the Node",
        };
        found.push(Warning { cause, note: format!("{first}{more}: {next}") });
    }
    found
}

/// The first and the last address of a range, as numbers of the 128-bit form.
type Span = (u128, u128);

fn number(addr: Addr) -> u128 {
    u128::from_be_bytes(addr.octets())
}

fn span(range: IpNetwork) -> Span {
    let (addr, len) = prefix(range);
    let first = number(addr);
    (first, first | u128::MAX.checked_shr(len).unwrap_or(0))
}

fn touch(a: Span, b: Span) -> bool {
    a.0 <= b.1 && b.0 <= a.1
}

fn within(inner: Span, outer: Span) -> bool {
    outer.0 <= inner.0 && inner.1 <= outer.1
}

/// Where no pod lives, whatever anybody says.
const SPECIAL: [(&str, &str); 8] = [
    ("0.0.0.0/8", "unspecified"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("::/127", "loopback"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
];

fn special(range: IpNetwork) -> Option<&'static str> {
    let own = span(range);
    // ::ffff:0:0/96, in which IPv4 ranges lie themselves.
    let mapped = (number(Addr::from_v4([0; 4])), number(Addr::from_v4([255; 4])));
    if range.is_ipv6() && touch(own, mapped) {
        return Some("v4-mapped");
    }
    SPECIAL.iter().find_map(|(text, what)| {
        let special: IpNetwork = text.parse().ok()?;
        touch(own, span(special)).then_some(*what)
    })
}

/// The result, by Node.
#[derive(Debug, Default)]
pub(crate) struct Believed<'a> {
    ranges: BTreeMap<&'a ObjectKey, Vec<IpNetwork>>,
    /// Ranges by their first address; none touches another.
    taken: BTreeMap<u128, (IpNetwork, &'a ObjectKey)>,
    pub doubts: BTreeMap<&'a ObjectKey, Vec<Doubt>>,
}

/// Judges the claims of all Nodes: the older one keeps what two want, and the name decides between equals.
/// `by_age`: oldest first; `services`: the ranges of ServiceCIDRs.
pub(crate) fn judge<'a>(
    by_age: &[(&'a ObjectKey, &'a Node)],
    ours: &ObjectKey,
    services: &[IpNetwork],
    bounds: &Bounds,
) -> Believed<'a> {
    let mut believed = Believed::default();
    let kept: BTreeMap<u128, (Addr, Kept)> =
        bounds.kept.iter().map(|(addr, what)| (number(*addr), (*addr, *what))).collect();
    // Where the pods' ranges are known, addresses bound nothing: a Node could name one among another's pods.
    let mut nodes: BTreeMap<u128, (Addr, &ObjectKey)> = BTreeMap::new();
    let services: &[IpNetwork] = if bounds.cluster.is_empty() { services } else { &[] };
    for (name, node) in by_age {
        if bounds.cluster.is_empty() {
            let outside = |addr: &&Addr| believed.owner(number(**addr)).is_none();
            let addresses: Vec<Addr> = node.addresses.iter().filter(outside).copied().collect();
            nodes.extend(addresses.into_iter().map(|addr| (number(addr), (addr, *name))));
        }
        for range in &node.pod_cidrs {
            let doubt = alone(*range, services, bounds)
                .or_else(|| believed.taken_from(*range, name))
                .or_else(|| {
                    let (addr, node) = in_span(&nodes, span(*range))?;
                    Some(Doubt::HoldsNode { range: *range, addr: *addr, node: (*node).clone() })
                })
                .or_else(|| {
                    let (addr, what) = in_span(&kept, span(*range))?;
                    Some(Doubt::Holds { range: *range, addr: *addr, what: *what })
                })
                .or_else(|| {
                    let is_routed = *name != ours && bounds.routes.contains(range);
                    is_routed.then_some(Doubt::Routed { range: *range })
                });
            match doubt {
                Some(doubt) => believed.doubts.entry(*name).or_default().push(doubt),
                None => believed.take(*range, name),
            }
        }
    }
    for (name, node) in by_age.iter().filter(|(name, _)| *name != ours) {
        for addr in &node.addresses {
            if let Some((range, owner)) = believed.owner(number(*addr)) {
                let doubt = Doubt::InRange { addr: *addr, range, node: owner.clone() };
                believed.doubts.entry(*name).or_default().push(doubt);
            }
        }
    }
    believed
}

/// What is wrong with a range whoever claims it.
fn alone(range: IpNetwork, services: &[IpNetwork], bounds: &Bounds) -> Option<Doubt> {
    if let Some(what) = special(range) {
        return Some(Doubt::Special { range, what });
    }
    if range.prefix() > if range.is_ipv4() { 30 } else { 126 } {
        return Some(Doubt::TooSmall { range });
    }
    if !bounds.cluster.is_empty() && !bounds.cluster.iter().any(|pods| within(span(range), span(*pods))) {
        return Some(Doubt::Outside { range, cluster: bounds.cluster.as_slice().into() });
    }
    let touched = services.iter().find(|services| touch(span(range), span(**services)))?;
    Some(Doubt::Services { range, services: *touched })
}

fn in_span<T>(all: &BTreeMap<u128, T>, (first, last): Span) -> Option<&T> {
    all.range(first..=last).next().map(|(_, found)| found)
}

impl<'a> Believed<'a> {
    pub fn ranges(&self, node: &ObjectKey) -> &[IpNetwork] {
        self.ranges.get(node).map_or(&[], Vec::as_slice)
    }

    /// Whether the address is not in a pod range.
    pub fn is_nodes(&self, addr: Addr) -> bool {
        self.owner(number(addr)).is_none()
    }

    fn owner(&self, at: u128) -> Option<(IpNetwork, &'a ObjectKey)> {
        let (_, (range, node)) = self.taken.range(..=at).next_back()?;
        (span(*range).1 >= at).then_some((*range, *node))
    }

    /// Of the ranges that are taken at most the one that begins last before the end of this one touches it,
    /// or none does.
    fn taken_from(&self, range: IpNetwork, name: &ObjectKey) -> Option<Doubt> {
        let own = span(range);
        let (_, (by, node)) = self.taken.range(..=own.1).next_back()?;
        // The API refuses a range that is listed twice; nothing is lost by it.
        if !touch(own, span(*by)) || (*by == range && *node == name) {
            return None;
        }
        Some(Doubt::Taken { range, by: *by, node: (*node).clone() })
    }

    fn take(&mut self, range: IpNetwork, name: &'a ObjectKey) {
        if self.taken.insert(span(range).0, (range, name)).is_none() {
            self.ranges.entry(name).or_default().push(range);
        }
    }
}
