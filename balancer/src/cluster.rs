//! Services of type LoadBalancer as a source of virtual addresses: objects in, [`Vip`]s and notes out. Pure:
//! no clock, no log, no API server.

mod objects;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use proxy_abi::{Addr, proto};
use proxy_state::{ObjectKey, api};

use self::objects::{Node, Port, Service, Slice};
use crate::config::{Backend, Check, NODE_PATH, NODE_PORT, Vip, WhenAllDown};

/// Which Services, and how nodes are asked for their health.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// Besides Services without `loadBalancerClass`, those of this one.
    pub class: Option<String>,
    /// Every node is asked at `http://NODE:10256/healthz`.
    pub asks_kube_proxy: bool,
    pub when_all_down: WhenAllDown,
}

/// What a machine has room for, besides what the file takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    pub vips: usize,
    pub ranges: usize,
    /// Whether there is an address of the family that nodes can answer to: IPv4, IPv6.
    pub sources: [bool; 2],
}

/// Kinds of what is followed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    Services,
    Slices,
    Nodes,
}

#[derive(Clone, Debug)]
pub enum Object {
    Service(Box<api::Service>),
    Slice(Box<api::EndpointSlice>),
    Node(Box<api::Node>),
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum Change {
    Applied(Object),
    Deleted(Kind, ObjectKey),
    /// All there are of a kind.
    Listed {
        kind: Kind,
        objects: Vec<Object>,
        /// They are there and can't be read: what was known of them stays.
        kept: Vec<ObjectKey>,
    },
}

/// Why something of a Service or a Node is not as it asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// The file or an older Service has the address and port.
    AddressTaken,
    NoNodePort,
    /// Neither TCP nor UDP.
    Protocol,
    /// An annotation can't be read.
    Annotation,
    /// A source range can't be read.
    SourceRange,
    /// No address of our own of its family.
    NoSource,
    DoesNotFit,
}

impl Cause {
    /// The label of a metric.
    pub fn label(self) -> &'static str {
        match self {
            Cause::AddressTaken => "address_taken",
            Cause::NoNodePort => "no_node_port",
            Cause::Protocol => "protocol",
            Cause::Annotation => "annotation",
            Cause::SourceRange => "source_range",
            Cause::NoSource => "no_source",
            Cause::DoesNotFit => "does_not_fit",
        }
    }
}

/// One sentence about an object that names the field and the next step.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Note {
    pub cause: Cause,
    /// `Service NAMESPACE/NAME` or `Node NAME`.
    pub about: String,
    pub text: String,
}

/// What a cluster asks for.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Asked {
    pub vips: Vec<Vip>,
    pub notes: BTreeSet<Note>,
}

/// Whether it is something else now; `None`: gone, or nothing of ours.
fn put<T: PartialEq>(all: &mut BTreeMap<ObjectKey, T>, key: ObjectKey, new: Option<T>) -> bool {
    if all.get(&key) == new.as_ref() {
        return false;
    }
    match new {
        Some(new) => drop(all.insert(key, new)),
        None => drop(all.remove(&key)),
    }
    true
}

/// The objects, kept as far as they matter.
#[derive(Debug)]
pub struct Cluster {
    rules: Rules,
    services: BTreeMap<ObjectKey, Service>,
    slices: BTreeMap<ObjectKey, Slice>,
    nodes: BTreeMap<ObjectKey, Node>,
    listed: HashSet<Kind>,
}

impl Cluster {
    pub fn new(rules: Rules) -> Cluster {
        Cluster {
            rules,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            nodes: BTreeMap::new(),
            listed: HashSet::new(),
        }
    }

    /// Whether every kind was listed once: before that nothing may be taken for gone.
    pub fn is_known(&self) -> bool {
        self.listed.len() == 3
    }

    /// All addresses that Services of ours have.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.services.values().flat_map(|service| service.addresses.iter().copied())
    }

    /// Whether [`Cluster::asked`] may say something else now: nodes and slices tell of themselves all the
    /// time.
    #[must_use]
    pub fn change(&mut self, change: Change) -> bool {
        match change {
            Change::Applied(object) => self.set(object),
            Change::Deleted(Kind::Services, key) => self.services.remove(&key).is_some(),
            Change::Deleted(Kind::Slices, key) => self.put_slice(key, None),
            Change::Deleted(Kind::Nodes, key) => self.nodes.remove(&key).is_some(),
            Change::Listed { kind, objects, kept } => {
                let kept: HashSet<ObjectKey> = kept.into_iter().collect();
                match kind {
                    Kind::Services => self.services.retain(|key, _| kept.contains(key)),
                    Kind::Slices => self.slices.retain(|key, _| kept.contains(key)),
                    Kind::Nodes => self.nodes.retain(|key, _| kept.contains(key)),
                }
                for object in objects {
                    self.set(object);
                }
                self.listed.insert(kind);
                true
            }
        }
    }

    fn set(&mut self, object: Object) -> bool {
        match object {
            Object::Service(service) => {
                let new = Service::of(&service, self.rules.class.as_deref());
                put(&mut self.services, service.metadata.key(), new)
            }
            Object::Slice(slice) => self.put_slice(slice.metadata.key(), Slice::of(&slice)),
            Object::Node(node) => put(&mut self.nodes, node.metadata.key(), Some(Node::of(&node))),
        }
    }

    /// Only the endpoints of Services of policy Local count.
    fn put_slice(&mut self, key: ObjectKey, new: Option<Slice>) -> bool {
        let services = &self.services;
        let is_local = |slice: &Slice| services.get(&slice.service).is_some_and(|service| service.is_local);
        let counts = self.slices.get(&key).into_iter().chain(&new).any(is_local);
        put(&mut self.slices, key, new) && counts
    }

    /// The virtual addresses of all Services, without those in `taken` (the file's). Of two Services the
    /// older has a port of an address, and the name decides between equals.
    pub fn asked(&self, taken: &[Vip], room: Room) -> Asked {
        let mut slices: HashMap<&ObjectKey, Vec<&Slice>> = HashMap::new();
        for slice in self.slices.values() {
            slices.entry(&slice.service).or_default().push(slice);
        }
        let mut asked = Asked::default();
        for (name, node) in &self.nodes {
            if let Some(text) = &node.bad_weight {
                asked.notes.insert(Note {
                    cause: Cause::Annotation,
                    about: format!("Node {name}"),
                    text: format!(
                        "annotation skerry.io/balancer-weight is `{text}`: taken as 1; write a number from 1 to 256"
                    ),
                });
            }
        }
        let mut by_age: Vec<_> = self.services.iter().collect();
        by_age.sort_by_key(|(key, service)| (&service.created, *key));
        let file = taken.iter().map(|vip| ((vip.address, vip.proto), None));
        let mut owners: HashMap<(SocketAddr, u8), Option<&ObjectKey>> = file.collect();
        let (mut vips, mut ranges) = (room.vips, room.ranges);
        for (key, service) in by_age {
            let mut note = |cause, text| {
                asked.notes.insert(Note { cause, about: format!("Service {key}"), text });
            };
            for (cause, text) in &service.notes {
                note(*cause, text.clone());
            }
            for (ip, port) in
                service.addresses.iter().flat_map(|ip| service.ports.iter().map(move |p| (*ip, p)))
            {
                let address = SocketAddr::new(ip, port.port);
                let shown = format!("{address}/{}", if port.proto == proto::UDP { "UDP" } else { "TCP" });
                match owners.get(&(address, port.proto)) {
                    Some(None) => {
                        note(
                            Cause::AddressTaken,
                            format!("{shown} is in the file: it is balanced as that says"),
                        );
                        continue;
                    }
                    Some(Some(owner)) => {
                        let text = format!(
                            "{shown} belongs to the older Service {owner}: it is balanced there; choose another address \
                             or port"
                        );
                        note(Cause::AddressTaken, text);
                        continue;
                    }
                    None => {}
                }
                if !room.sources[usize::from(!ip.is_ipv4())] {
                    note(
                        Cause::NoSource,
                        format!("{shown}: this machine has no address of that family; give its device one"),
                    );
                    continue;
                }
                let vip = self.vip(service, slices.get(key).map_or(&[][..], Vec::as_slice), address, port);
                let its_ranges = vip.allowed.as_ref().map_or(0, Vec::len);
                if vips == 0 || its_ranges > ranges {
                    let what = if vips == 0 { "virtual address" } else { "source range" };
                    note(
                        Cause::DoesNotFit,
                        format!("{shown} is left out: the table has no room for another {what}"),
                    );
                    continue;
                }
                (vips, ranges) = (vips - 1, ranges - its_ranges);
                owners.insert((address, port.proto), Some(key));
                asked.vips.push(vip);
            }
        }
        asked
    }

    fn vip(&self, service: &Service, slices: &[&Slice], address: SocketAddr, port: &Port) -> Vip {
        let is_v4 = address.is_ipv4();
        let (holders, is_fallback) = match service.is_local {
            true => holders(slices, port, is_v4),
            false => (None, false),
        };
        let backends = self
            .nodes
            .iter()
            .filter(|(name, node)| {
                node.takes && holders.as_ref().is_none_or(|all| all.contains(name.parts().1))
            })
            .filter_map(|(_, node)| {
                let ip: IpAddr = *node.addresses.iter().find(|ip| ip.is_ipv4() == is_v4)?;
                // A direct packet keeps its port: the node knows the address itself.
                let to = if service.is_direct { port.port } else { port.node_port };
                Some(Backend { address: SocketAddr::new(ip, to), weight: node.weight })
            })
            .collect();
        // A node whose last endpoints are about to end says "no" at the Service's own port, and is the best
        // there is.
        let asked_at = match service.health_port {
            port if service.is_local && port != 0 && !is_fallback => Some(port),
            _ => self.rules.asks_kube_proxy.then_some(NODE_PORT),
        };
        let allowed = service.allowed.as_ref().map(|ranges| {
            ranges.iter().filter(|(addr, _)| addr.is_v4() == is_v4).copied().collect::<Vec<(Addr, u32)>>()
        });
        Vip {
            address,
            proto: port.proto,
            is_direct: service.is_direct,
            maglev: service.maglev,
            allowed,
            backends,
            check: asked_at.map(check),
            when_all_down: self.rules.when_all_down,
        }
    }
}

/// The nodes that have an endpoint of a port: ready ones, or without any those that still serve while they
/// end (KEP-1669).
fn holders<'a>(slices: &[&'a Slice], port: &Port, is_v4: bool) -> (Option<BTreeSet<&'a str>>, bool) {
    let fits = |slice: &&&Slice| {
        slice.is_v4 == is_v4
            && slice.ports.iter().any(|(name, proto)| *name == port.name && *proto == port.proto)
    };
    let of = |nodes: fn(&Slice) -> &BTreeSet<Box<str>>| -> BTreeSet<&'a str> {
        slices.iter().filter(fits).flat_map(|slice| nodes(slice)).map(|name| &**name).collect()
    };
    let ready = of(|slice| &slice.ready);
    match ready.is_empty() {
        false => (Some(ready), false),
        true => (Some(of(|slice| &slice.ending)), true),
    }
}

fn check(port: u16) -> Check {
    Check {
        path: Some(NODE_PATH.to_owned()),
        port: Some(port),
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
    }
}
