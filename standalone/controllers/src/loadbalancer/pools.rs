//! Pools of addresses as the ConfigMap has them. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use skerry_informer::matches_selector;

use super::CONFIG;

/// Key of the ConfigMap's data.
pub const POOLS_KEY: &str = "pools";

/// Why the ConfigMap can't be used. Each text names the field.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error("data.{POOLS_KEY} of ConfigMap {CONFIG} is missing: write a list of pools there")]
    Missing,
    #[error("data.{POOLS_KEY} of ConfigMap {CONFIG} is no list of pools: {reason}")]
    Syntax { reason: String },
    #[error("{field} {text:?} is no range of addresses: write {example}")]
    Range { field: String, text: String, example: &'static str },
    #[error(
        "{field} {text:?} holds addresses that no client can use (loopback, link-local, multicast or 0.0.0.0)"
    )]
    Unusable { field: String, text: String },
    #[error("pools[{0}].name is empty: give the pool a name")]
    NoName(usize),
    #[error("pools[{index}].name {name:?} is the name of another pool, too")]
    Duplicate { index: usize, name: String },
    #[error("pools[{index}] ({name:?}) has no addresses: write `cidrs` or `ranges`")]
    Empty { index: usize, name: String },
    #[error("pools {first:?} and {second:?} both have {address}: take it out of one")]
    Overlap { first: String, second: String, address: IpAddr },
}

/// As it is written in YAML or JSON.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(default)]
    name: String,
    #[serde(default)]
    cidrs: Vec<String>,
    #[serde(default)]
    ranges: Vec<String>,
    #[serde(default = "yes")]
    auto_assign: bool,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default)]
    service_selector: Option<LabelSelector>,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug)]
pub struct Pool {
    pub name: String,
    ranges: Vec<Range>,
    /// Gives addresses to Services that name neither a pool nor an address.
    pub auto_assign: bool,
    /// Empty: all.
    namespaces: Vec<String>,
    selector: Option<LabelSelector>,
}

/// Both ends included; of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: IpAddr,
    last: IpAddr,
}

/// Reads the pools; all or none.
pub fn parse(config: &ConfigMap) -> Result<Vec<Pool>, PoolError> {
    let text = config.data.as_ref().and_then(|data| data.get(POOLS_KEY)).ok_or(PoolError::Missing)?;
    // JSON is YAML.
    let written: Vec<Written> =
        serde_saphyr::from_str(text).map_err(|error| PoolError::Syntax { reason: error.to_string() })?;
    let mut pools: Vec<Pool> = Vec::with_capacity(written.len());
    for (index, written) in written.into_iter().enumerate() {
        let pool = pool(index, written)?;
        if pools.iter().any(|other| other.name == pool.name) {
            return Err(PoolError::Duplicate { index, name: pool.name });
        }
        for other in &pools {
            if let Some(address) = other.shared_with(&pool) {
                let (first, second) = (other.name.clone(), pool.name);
                return Err(PoolError::Overlap { first, second, address });
            }
        }
        pools.push(pool);
    }
    Ok(pools)
}

fn pool(index: usize, written: Written) -> Result<Pool, PoolError> {
    let Written { name, cidrs, ranges, auto_assign, namespaces, service_selector } = written;
    if name.is_empty() {
        return Err(PoolError::NoName(index));
    }
    let mut all = Vec::with_capacity(cidrs.len() + ranges.len());
    for (at, text) in cidrs.iter().enumerate() {
        all.push(checked(&format!("pools[{index}].cidrs[{at}]"), text, cidr(text), "192.0.2.0/27")?);
    }
    for (at, text) in ranges.iter().enumerate() {
        let example = "FIRST-LAST, such as 192.0.2.10-192.0.2.20";
        all.push(checked(&format!("pools[{index}].ranges[{at}]"), text, range(text), example)?);
    }
    if all.is_empty() {
        return Err(PoolError::Empty { index, name });
    }
    Ok(Pool { name, ranges: all, auto_assign, namespaces, selector: service_selector })
}

fn checked(field: &str, text: &str, range: Option<Range>, example: &'static str) -> Result<Range, PoolError> {
    let (field, text) = (field.to_owned(), text.to_owned());
    match range {
        None => Err(PoolError::Range { field, text, example }),
        Some(range) if !is_usable(range.first) || !is_usable(range.last) => {
            Err(PoolError::Unusable { field, text })
        }
        Some(range) => Ok(range),
    }
}

fn cidr(text: &str) -> Option<Range> {
    let network: IpNetwork = text.trim().parse().ok()?;
    let last = match network {
        IpNetwork::V4(v4) => v4.broadcast().into(),
        IpNetwork::V6(v6) => IpAddr::V6((u128::from(v6.network()) | !u128::from(v6.mask())).into()),
    };
    Some(Range { first: network.network(), last })
}

/// `FIRST-LAST`, or one address.
fn range(text: &str) -> Option<Range> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (IpAddr, IpAddr) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Range { first, last })
}

fn is_usable(ip: IpAddr) -> bool {
    let is_odd = ip.is_loopback() || ip.is_multicast() || ip.is_unspecified();
    !is_odd
        && match ip {
            IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_broadcast(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
        }
}

impl Range {
    fn contains(&self, ip: IpAddr) -> bool {
        // The order of `IpAddr` puts all of IPv4 before IPv6, so a family never lies within the other's
        // range.
        self.first <= ip && ip <= self.last
    }

    /// The lowest address for which `is_taken` says no. Takes as many steps as there are taken ones before
    /// it.
    fn first_free(&self, is_taken: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        let mut ip = self.first;
        while is_taken(&ip) {
            if ip == self.last {
                return None;
            }
            ip = next(ip)?;
        }
        Some(ip)
    }
}

fn next(ip: IpAddr) -> Option<IpAddr> {
    Some(match ip {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).checked_add(1)?).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).checked_add(1)?).into(),
    })
}

impl Pool {
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(ip))
    }

    /// Whether the Service may have addresses of this pool at all.
    pub fn serves(&self, service: &Service) -> bool {
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let is_named = self.namespaces.is_empty() || self.namespaces.iter().any(|name| name == namespace);
        let labels = service.metadata.labels.as_ref();
        is_named && self.selector.as_ref().is_none_or(|selector| matches_selector(selector, labels))
    }

    /// Whether it is meant for some Services only.
    pub fn is_specific(&self) -> bool {
        !self.namespaces.is_empty() || self.selector.is_some()
    }

    pub fn has_family(&self, v4: bool) -> bool {
        self.ranges.iter().any(|range| range.first.is_ipv4() == v4)
    }

    pub fn first_free(&self, v4: bool, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let of_family = self.ranges.iter().filter(|range| range.first.is_ipv4() == v4);
        of_family.into_iter().find_map(|range| range.first_free(|ip| taken.contains(ip)))
    }

    fn shared_with(&self, other: &Pool) -> Option<IpAddr> {
        let pairs = self.ranges.iter().flat_map(|a| other.ranges.iter().map(move |b| (a, b)));
        let mut both = pairs.map(|(a, b)| (a.first.max(b.first), a.last.min(b.last)));
        both.find(|(first, last)| first <= last).map(|(first, _)| first)
    }
}
