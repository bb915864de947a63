use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use hickory_proto::rr::Name;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::model::{Document, Endpoint, Place, Service, Slice};

/// One object as the agent has it now. Keys are `NAMESPACE/NAME`, a Node's its bare name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    Service(Box<str>, Option<Service>),
    Slice(Box<str>, Option<Slice>),
    /// A Node's own addresses: who asks from there is one of us.
    Node(Box<str>, Option<Box<[IpAddr]>>),
    /// A ConfigMap with settings, by its name alone.
    Document(Box<str>, Option<Document>),
}

/// How many kinds of objects there are, one for each variant of [`Change`].
pub const KINDS: usize = 4;

impl Change {
    /// What it is about, for a table of what there is.
    pub(crate) fn key(&self) -> (u8, &str) {
        match self {
            Change::Service(key, _) => (0, key),
            Change::Slice(key, _) => (1, key),
            Change::Node(key, _) => (2, key),
            Change::Document(key, _) => (3, key),
        }
    }

    /// That there is no such object.
    pub(crate) fn absent(kind: u8, key: &str) -> Change {
        match kind {
            0 => Change::Service(key.into(), None),
            1 => Change::Slice(key.into(), None),
            2 => Change::Node(key.into(), None),
            _ => Change::Document(key.into(), None),
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Change::Service(_, object) => object.is_none(),
            Change::Slice(_, object) => object.is_none(),
            Change::Node(_, object) => object.is_none(),
            Change::Document(_, object) => object.is_none(),
        }
    }
}

/// Everything that the cluster's names depend on.
#[derive(Debug)]
pub struct Zone {
    /// Lower case, with its final dot.
    pub(super) domain: Name,
    /// Where Services and pods have their addresses: nobody else answers for those.
    pub(super) ranges: Vec<IpNetwork>,
    /// Of the DNS Service itself.
    pub(super) servers: Vec<IpAddr>,
    pub(super) services: HashMap<Box<str>, Service>,
    pub(super) slices: HashMap<Box<str>, Slice>,
    /// The slices of a Service, whether it is known or not.
    slices_of: HashMap<Box<str>, Vec<Box<str>>>,
    /// How many Services a namespace has; those with none are not here.
    pub(super) namespaces: HashMap<Box<str>, usize>,
    /// Services by their own addresses, headless ones by those of their endpoints.
    pub(super) by_address: HashMap<IpAddr, Vec<Box<str>>>,
    nodes: HashMap<Box<str>, Box<[IpAddr]>>,
    node_addresses: HashMap<IpAddr, usize>,
    documents: BTreeMap<Box<str>, Document>,
    changes: u64,
}

impl Zone {
    /// An empty one. `domain` ends in a dot.
    pub fn new(domain: Name, ranges: Vec<IpNetwork>, servers: Vec<IpAddr>) -> Zone {
        Zone {
            domain: domain.to_lowercase(),
            ranges,
            servers,
            services: HashMap::new(),
            slices: HashMap::new(),
            slices_of: HashMap::new(),
            namespaces: HashMap::new(),
            by_address: HashMap::new(),
            nodes: HashMap::new(),
            node_addresses: HashMap::new(),
            documents: BTreeMap::new(),
            changes: 0,
        }
    }

    pub fn domain(&self) -> &Name {
        &self.domain
    }

    /// ConfigMaps with settings, by name.
    pub fn documents(&self) -> &BTreeMap<Box<str>, Document> {
        &self.documents
    }

    /// Addresses of the DNS Service itself.
    pub fn servers(&self) -> &[IpAddr] {
        &self.servers
    }

    /// Grows with each change that may concern an answer.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Numbers of Services and EndpointSlices.
    pub fn counts(&self) -> (usize, usize) {
        (self.services.len(), self.slices.len())
    }

    /// Whether a Node has this address.
    pub fn is_node(&self, address: IpAddr) -> bool {
        self.node_addresses.contains_key(&address)
    }

    /// Takes what is now; `false` where nothing is different.
    pub fn apply(&mut self, change: Change) -> bool {
        let is_new = match change {
            Change::Service(key, service) => self.set_service(key, service),
            Change::Slice(key, slice) => self.set_slice(key, slice),
            Change::Node(key, addresses) => self.set_node(key, addresses),
            Change::Document(key, document) => self.set_document(key, document),
        };
        self.changes += u64::from(is_new);
        is_new
    }

    /// Forgets what a whole list did not name.
    pub fn retain(&mut self, listed: &HashSet<(u8, Box<str>)>) {
        let gone: Vec<Change> = self
            .contents()
            .filter(|change| {
                let (kind, key) = change.key();
                !listed.contains(&(kind, key.into()))
            })
            .map(|change| Change::absent(change.key().0, change.key().1))
            .collect();
        for change in gone {
            self.apply(change);
        }
    }

    /// All that is there, as changes that make it.
    pub fn contents(&self) -> impl Iterator<Item = Change> + '_ {
        let services = self.services.iter().map(|(key, it)| Change::Service(key.clone(), Some(it.clone())));
        let slices = self.slices.iter().map(|(key, it)| Change::Slice(key.clone(), Some(it.clone())));
        let nodes = self.nodes.iter().map(|(key, it)| Change::Node(key.clone(), Some(it.clone())));
        let documents = self.documents.iter();
        let documents = documents.map(|(key, it)| Change::Document(key.clone(), Some(it.clone())));
        services.chain(slices).chain(nodes).chain(documents)
    }

    /// The endpoints of a Service that have a name, with the slice of each.
    pub(super) fn endpoints<'a>(
        &'a self,
        key: &str,
        even_unready: bool,
    ) -> impl Iterator<Item = (&'a Slice, &'a Endpoint)> {
        let slices = self.slices_of.get(key).into_iter().flatten().filter_map(|key| self.slices.get(key));
        slices
            .flat_map(|slice| slice.endpoints.iter().map(move |endpoint| (slice, endpoint)))
            .filter(move |(_, endpoint)| even_unready || endpoint.is_ready)
    }

    fn set_service(&mut self, key: Box<str>, new: Option<Service>) -> bool {
        if self.services.get(&key) == new.as_ref() {
            return false;
        }
        self.index(&key, self.addresses(&key), false);
        let namespace = namespace(&key);
        let had = match new {
            Some(new) => self.services.insert(key.clone(), new).is_some(),
            None => self.services.remove(&key).is_some(),
        };
        match (had, self.services.contains_key(&key)) {
            (false, true) => *self.namespaces.entry(namespace.into()).or_default() += 1,
            (true, false) => take_one(&mut self.namespaces, namespace),
            _ => {}
        }
        self.index(&key, self.addresses(&key), true);
        true
    }

    fn set_slice(&mut self, key: Box<str>, new: Option<Slice>) -> bool {
        if self.slices.get(&key) == new.as_ref() {
            return false;
        }
        let owner = |slice: &Slice| -> Box<str> { format!("{}/{}", namespace(&key), slice.service).into() };
        let old = match new {
            Some(new) => self.slices.insert(key.clone(), new),
            None => self.slices.remove(&key),
        };
        let (before, after) = (old.as_ref().map(&owner), self.slices.get(&key).map(&owner));
        if let (Some(owner), Some(old)) = (&before, &old) {
            self.index(owner, self.addresses_of(owner, old), false);
        }
        if let (Some(owner), Some(new)) = (&after, self.slices.get(&key)) {
            self.index(owner, self.addresses_of(owner, new), true);
        }
        if before == after {
            return true;
        }
        if let Some(owner) = &before
            && let Some(list) = self.slices_of.get_mut(owner)
        {
            list.retain(|slice| *slice != key);
            if list.is_empty() {
                self.slices_of.remove(owner);
            }
        }
        if let Some(owner) = after {
            // Most Services have one: no room for four.
            self.slices_of.entry(owner).or_insert_with(|| Vec::with_capacity(1)).push(key);
        }
        true
    }

    fn set_document(&mut self, key: Box<str>, new: Option<Document>) -> bool {
        if self.documents.get(&key) == new.as_ref() {
            return false;
        }
        match new {
            Some(new) => drop(self.documents.insert(key, new)),
            None => drop(self.documents.remove(&key)),
        }
        true
    }

    fn set_node(&mut self, key: Box<str>, new: Option<Box<[IpAddr]>>) -> bool {
        if self.nodes.get(&key) == new.as_ref() {
            return false;
        }
        for address in self.nodes.remove(&key).iter().flatten() {
            take_one(&mut self.node_addresses, address);
        }
        for address in new.iter().flatten() {
            *self.node_addresses.entry(*address).or_default() += 1;
        }
        if let Some(new) = new {
            self.nodes.insert(key, new);
        }
        true
    }

    /// The addresses that a Service is found by, one for each time that it has it.
    fn addresses(&self, key: &str) -> Vec<IpAddr> {
        match self.services.get(key).map(|service| &service.place) {
            Some(Place::Addresses(own)) => own.to_vec(),
            Some(Place::Headless { even_unready }) => {
                self.endpoints(key, *even_unready).map(|(_, endpoint)| endpoint.address).collect()
            }
            Some(Place::External(_) | Place::Nowhere) | None => Vec::new(),
        }
    }

    /// The same, of one slice alone: a change of one of a thousand costs that one.
    fn addresses_of(&self, key: &str, slice: &Slice) -> Vec<IpAddr> {
        let Some(Place::Headless { even_unready }) = self.services.get(key).map(|service| &service.place)
        else {
            return Vec::new();
        };
        let named = slice.endpoints.iter().filter(|endpoint| *even_unready || endpoint.is_ready);
        named.map(|endpoint| endpoint.address).collect()
    }

    fn index(&mut self, key: &str, addresses: Vec<IpAddr>, is_in: bool) {
        for address in addresses {
            let list = self.by_address.entry(address).or_insert_with(|| Vec::with_capacity(1));
            if is_in {
                list.push(key.into());
            } else if let Some(at) = list.iter().position(|have| **have == *key) {
                list.swap_remove(at);
            }
            if list.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }
}

/// Of a key.
pub(super) fn namespace(key: &str) -> &str {
    key.split_once('/').map_or("", |(namespace, _)| namespace)
}

fn take_one<K, Q>(counts: &mut HashMap<K, usize>, key: &Q)
where
    K: std::borrow::Borrow<Q> + std::hash::Hash + Eq,
    Q: std::hash::Hash + Eq + ?Sized,
{
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
