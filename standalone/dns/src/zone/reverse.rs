use std::net::IpAddr;

use hickory_proto::rr::{Name, RData, rdata::PTR};
use ipnetwork::IpNetwork;

use super::{Answer, Why, Zone, answer::Question};
use crate::model::Place;

impl Zone {
    /// Of a name below `in-addr.arpa.` or `ip6.arpa.`; `None` where the address is not the cluster's.
    pub(super) fn reverse(&self, question: &Question<'_>) -> Option<Answer> {
        let ip = asked_for(question.name)?;
        let Some(keys) = self.by_address.get(&ip) else {
            // What has the cluster's addresses is not for others to name, and they need not hear of it.
            let is_ours = self.ranges.iter().any(|range| range.contains(ip));
            return is_ours.then(|| question.no_such(Why::NobodysAddress));
        };
        let mut names: Vec<Name> = Vec::new();
        for key in keys {
            match self.services.get(key).map(|service| &service.place) {
                Some(Place::Headless { even_unready }) => {
                    let here = self.endpoints(key, *even_unready).filter(|(_, it)| it.address == ip);
                    names.extend(here.filter_map(|(_, it)| question.host(key, Some(&it.label()))));
                }
                Some(_) => names.extend(question.host(key, None)),
                None => {}
            }
        }
        names.sort_unstable();
        names.dedup();
        Some(question.records(Why::Reverse, names.into_iter().map(|name| RData::PTR(PTR(name))).collect()))
    }
}

/// The one address that a whole name of the reverse tree stands for.
fn asked_for(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    let network: IpNetwork = net.to_string().parse().ok()?;
    let is_whole = network.prefix() == if network.is_ipv4() { 32 } else { 128 };
    is_whole.then_some(network.ip())
}
