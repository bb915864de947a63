use std::{collections::BTreeSet, fmt, net::IpAddr};

use proxy_abi::{Addr, FrontendKey, frontend_kind, proto};

use crate::{
    annotations::Unread,
    announce::weight,
    desired::{address_in_use, frontend_keys},
    ingest::State,
    ip::unfit,
    model::{MOST_WEIGHT, ObjectKey, Service, fnv1a, node_hash},
};

/// What its owner should know about a Service: something of it is not served, or is served and looks like a
/// mistake. Of a Node: what of its claims is not believed ([`crate::NodeTables::warnings`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// Tells it from the other warnings of the same object.
    pub cause: Cause,
    /// One sentence that names the field and the next step; at most 1,024 bytes, as an Event's note.
    pub note: String,
}

/// Kinds of warnings. A Service, or a Node, has at most one of each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cause {
    /// An older Service has one of its addresses and ports.
    AddressTaken,
    /// One of its addresses is that of a Node. It is served, as kube-proxy does it: the Node's own services
    /// on these ports are hidden.
    AddressOfNode,
    /// One of its external addresses is another Service's ClusterIP.
    AddressOfService,
    /// External addresses that reach a node itself, or that the configuration forbids; a Node's address among
    /// pods.
    AddressRefused,
    /// Loopback, link-local and multicast addresses in its EndpointSlices.
    EndpointRefused,
    /// An annotation of it or of its EndpointSlices can't be read.
    AnnotationRefused,
    /// The maps are full.
    DoesNotFit,
    /// Of a Node: a range that lies where no pods may, or that an older Node has.
    PodRangeRefused,
    /// Of a Node: a range that something of this node is in the way of.
    PodRangeUnusable,
}

impl Cause {
    /// Each once, for whoever counts them.
    pub const ALL: [Cause; 9] = [
        Cause::AddressTaken,
        Cause::AddressOfNode,
        Cause::AddressOfService,
        Cause::AddressRefused,
        Cause::EndpointRefused,
        Cause::AnnotationRefused,
        Cause::DoesNotFit,
        Cause::PodRangeRefused,
        Cause::PodRangeUnusable,
    ];

    /// The reason of an Event.
    pub fn reason(self) -> &'static str {
        match self {
            Cause::AddressTaken => "AddressTaken",
            Cause::AddressOfNode => "AddressOfNode",
            Cause::AddressOfService => "AddressOfService",
            Cause::AddressRefused => "AddressRefused",
            Cause::EndpointRefused => "EndpointRefused",
            Cause::AnnotationRefused => "AnnotationRefused",
            Cause::DoesNotFit => "DoesNotFit",
            Cause::PodRangeRefused => "PodCIDRRefused",
            Cause::PodRangeUnusable => "PodCIDRUnusable",
        }
    }

    /// The label of a metric.
    pub fn label(self) -> &'static str {
        match self {
            Cause::AddressTaken => "address_taken",
            Cause::AddressOfNode => "address_of_node",
            Cause::AddressOfService => "address_of_service",
            Cause::AddressRefused => "address_refused",
            Cause::EndpointRefused => "endpoint_refused",
            Cause::AnnotationRefused => "annotation_refused",
            Cause::DoesNotFit => "does_not_fit",
            Cause::PodRangeRefused => "pod_cidr_refused",
            Cause::PodRangeUnusable => "pod_cidr_unusable",
        }
    }

    /// Whether every node comes to the same result: then one of them tells it.
    pub fn is_everywhere(self) -> bool {
        !matches!(self, Cause::DoesNotFit | Cause::PodRangeUnusable)
    }
}

/// Addresses that were left out: how many, the first of them, and what it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LeftOut {
    pub count: u32,
    pub first: IpAddr,
    pub what: &'static str,
}

impl LeftOut {
    /// Of a list, those that may not be used. `is_allowed`: what the configuration says of the others.
    pub fn of(
        addresses: impl Iterator<Item = IpAddr>,
        is_allowed: impl Fn(IpAddr) -> bool,
    ) -> Option<LeftOut> {
        let mut found: Option<LeftOut> = None;
        for ip in addresses {
            let Some(what) = unfit(ip).or((!is_allowed(ip)).then_some("outside of --external-ips")) else {
                continue;
            };
            found.get_or_insert(LeftOut { count: 0, first: ip, what }).count += 1;
        }
        found
    }

    fn join(self, other: LeftOut) -> LeftOut {
        LeftOut { count: self.count.saturating_add(other.count), ..self }
    }
}

impl State {
    /// What is wrong with a service, in the order of [`Cause`]; [`Cause::DoesNotFit`] is known to a plan
    /// only.
    pub fn warnings(&self, key: &ObjectKey) -> Vec<Warning> {
        let Some(service) = self.services.get(key) else { return Vec::new() };
        [
            self.taken(key, service),
            self.of_node(service),
            self.of_service(key, service),
            refused_addresses(service),
            self.refused_endpoints(key),
            unread(service).or_else(|| self.refused_weight(key)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The node that tells what all of them see, so that an Event is not written by each: rendezvous hashing
    /// over (service, node) among the nodes that are Ready, or among all where none is.
    pub fn tells_of(&self, service: &ObjectKey) -> bool {
        let (namespace, name) = service.parts();
        let seed = fnv1a(node_hash(namespace), name.as_bytes());
        let is_any_ready = self.nodes.values().any(|node| node.is_ready);
        let standing = self.nodes.iter().filter(|(_, node)| node.is_ready || !is_any_ready);
        let elected = standing
            .map(|(name, _)| (weight(&Addr::UNSPECIFIED, seed ^ node_hash(name.parts().1)), name))
            .max()
            .map(|(_, name)| name);
        elected.is_none_or(|name| name.parts().1 == &*self.node_name)
    }

    /// The `uid` of a Service or Node as the API wrote it; empty if it had none.
    pub fn uid(&self, key: &ObjectKey) -> String {
        let of_service = self.services.get(key).map(|service| service.uid);
        let uid = of_service.or_else(|| Some(self.nodes.get(key)?.uid)).unwrap_or(0);
        if uid == 0 {
            return String::new();
        }
        let digits = format!("{uid:032x}");
        let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
        parts.join("-")
    }

    fn taken(&self, key: &ObjectKey, service: &Service) -> Option<Warning> {
        let keys = frontend_keys(service);
        let mut lost = keys.iter().filter(|key| key.port.get() != 0).filter_map(|frontend| {
            let owner = self.owner(frontend)?;
            (owner != key).then_some((frontend, owner))
        });
        let (first, owner) = lost.next()?;
        let more = lost.count();
        let note = format!(
            "{} belongs to the older Service {owner}{}: it is served there; choose another address or port",
            Shown(first),
            and_more(more),
        );
        Some(Warning { cause: Cause::AddressTaken, note })
    }

    fn of_node(&self, service: &Service) -> Option<Warning> {
        let (addr, node) =
            external(service).into_iter().find_map(|addr| Some((addr, self.node_of.get(&addr)?)))?;
        let note = format!(
            "external address {addr} is that of Node {node}: the Service hides what the Node itself serves on these \
             ports; choose an address that belongs to no Node"
        );
        Some(Warning { cause: Cause::AddressOfNode, note })
    }

    fn of_service(&self, key: &ObjectKey, service: &Service) -> Option<Warning> {
        external(service).into_iter().find_map(|addr| {
            let mark = address_in_use(addr);
            let has_it = |other: &&ObjectKey| {
                self.services.get(*other).is_some_and(|other| other.cluster_ips.contains(&addr))
            };
            let other = self.claims.of(&mark).filter(|other| *other != key).filter(has_it).min()?;
            let note = format!(
                "external address {addr} is the ClusterIP of Service {other}: only ports that it does not have are \
                 served; choose another address"
            );
            Some(Warning { cause: Cause::AddressOfService, note })
        })
    }

    fn refused_endpoints(&self, key: &ObjectKey) -> Option<Warning> {
        let slices = self.slices_of.get(key).into_iter().flatten();
        let refused = slices.filter_map(|slice| self.slices.get(slice)?.refused.as_deref().copied());
        let LeftOut { count, first, what } = refused.reduce(LeftOut::join)?;
        let note = format!(
            "endpoint {first} is {what}{}: not served, since it would lead to the node itself; correct the EndpointSlice",
            and_more(count as usize - 1)
        );
        Some(Warning { cause: Cause::EndpointRefused, note })
    }
}

impl State {
    fn refused_weight(&self, key: &ObjectKey) -> Option<Warning> {
        let slices = self.slices_of.get(key).into_iter().flatten();
        let mut refused =
            slices.filter_map(|slice| Some((slice, self.slices.get(slice)?.bad_weight.as_ref()?)));
        let (slice, text) = refused.next()?;
        let note = format!(
            "annotation service.skerry.io/weight of EndpointSlice {} is `{text}`{}: taken as 1; write a number from 1 to \
             {MOST_WEIGHT}",
            slice.parts().1,
            and_more(refused.count()),
        );
        Some(Warning { cause: Cause::AnnotationRefused, note })
    }
}

fn refused_addresses(service: &Service) -> Option<Warning> {
    let LeftOut { count, first, what } = **service.refused.as_ref()?;
    let note = format!(
        "external address {first} is {what}{}: not served; choose another address",
        and_more(count as usize - 1)
    );
    Some(Warning { cause: Cause::AddressRefused, note })
}

fn unread(service: &Service) -> Option<Warning> {
    let [first, others @ ..] = &**service.unread.as_ref()? else { return None };
    let Unread { annotation, text, values } = first;
    let note =
        format!("annotation {annotation} is `{text}`{}: not obeyed; write {values}", and_more(others.len()));
    Some(Warning { cause: Cause::AnnotationRefused, note })
}

fn external(service: &Service) -> BTreeSet<Addr> {
    service.external_ips.iter().chain(&service.load_balancer_ips).copied().collect()
}

fn and_more(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" (and {count} more)") }
}

/// A frontend as a person names it.
struct Shown<'a>(&'a FrontendKey);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FrontendKey { addr, port, proto, kind } = self.0;
        let proto = match *proto {
            proto::TCP => "TCP",
            proto::UDP => "UDP",
            proto::SCTP => "SCTP",
            _ => "unknown",
        };
        match *kind {
            frontend_kind::ADDRESS => write!(f, "port {port}/{proto} of address {addr}"),
            _ => write!(f, "node port {port}/{proto}"),
        }
    }
}
