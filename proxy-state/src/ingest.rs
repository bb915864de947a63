use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipnetwork::IpNetwork;
use proxy_abi::{Addr, FrontendKey};

use crate::{
    annotations::Defaults,
    api,
    claims::Claims,
    desired::{address_in_use, frontend_keys},
    ip::parse_cidr,
    model::{Node, ObjectKey, Service, Slice, endpoint_flag},
    ranges::Bounds,
    wants::Dirty,
};

/// Everything we know of the cluster: objects, indexes, and which services have to be looked at again.
#[derive(Debug)]
pub struct State {
    pub(crate) node_name: Box<str>,
    /// Where externalIPs may lie; `None`: anywhere.
    external_ip_cidrs: Option<Box<[IpNetwork]>>,
    defaults: Defaults,
    pub(crate) services: HashMap<ObjectKey, Service>,
    pub(crate) slices: HashMap<ObjectKey, Slice>,
    pub(crate) slices_of: HashMap<ObjectKey, Vec<ObjectKey>>,
    pub(crate) nodes: BTreeMap<ObjectKey, Node>,
    /// ClusterIP ranges by the ServiceCIDR that names them.
    pub(crate) service_cidrs: BTreeMap<ObjectKey, Box<[IpNetwork]>>,
    /// Whose an `InternalIP` is.
    pub(crate) node_of: HashMap<Addr, ObjectKey>,
    pub(crate) claims: Claims,
    /// Addresses that this node answers on itself, with their `endpoint_flag` bits.
    pub(crate) own_addresses: BTreeMap<Addr, u16>,
    /// What Nodes may not take away.
    pub(crate) bounds: Bounds,
    pub(crate) dirty: Dirty,
    /// Services that somebody outside asks a node about.
    pub(crate) outside: BTreeSet<ObjectKey>,
    outside_is_dirty: bool,
    /// Services that want connections to endpoints that are gone ended.
    pub(crate) resetting: BTreeSet<ObjectKey>,
    resets_are_dirty: bool,
    names: Names,
}

impl State {
    /// `node_name`: the Node that we run on; endpoints on it are local ones.
    pub fn new(node_name: &str) -> State {
        State {
            node_name: node_name.into(),
            external_ip_cidrs: None,
            defaults: Defaults::default(),
            services: HashMap::new(),
            slices: HashMap::new(),
            slices_of: HashMap::new(),
            nodes: BTreeMap::new(),
            service_cidrs: BTreeMap::new(),
            node_of: HashMap::new(),
            claims: Claims::default(),
            own_addresses: BTreeMap::new(),
            bounds: Bounds::default(),
            dirty: Dirty { nodes: true, ..Dirty::default() },
            outside: BTreeSet::new(),
            outside_is_dirty: true,
            resetting: BTreeSet::new(),
            resets_are_dirty: true,
            names: Names::default(),
        }
    }

    /// Only externalIPs in these ranges are served, of services applied from now on (CVE-2020-8554: whoever
    /// may write a Service could take over traffic to any address). Empty: none.
    pub fn limit_external_ips(&mut self, cidrs: &[IpNetwork]) {
        self.external_ip_cidrs = Some(cidrs.into());
    }

    /// How services applied from now on are served that do not say otherwise.
    pub fn set_defaults(&mut self, defaults: Defaults) {
        self.defaults = defaults;
    }

    /// `key` is that of the object: whoever has made it already shares its memory.
    pub fn apply_service(&mut self, key: ObjectKey, service: &api::Service) {
        let cidrs = self.external_ip_cidrs.as_deref();
        let may_be_external =
            |ip: IpAddr| cidrs.is_none_or(|cidrs| cidrs.iter().any(|cidr| cidr.contains(ip)));
        let mut new = Service::from_api(service, may_be_external, &self.defaults);
        for port in new.iter_mut().flat_map(|new| &mut new.ports) {
            self.names.share(&mut port.name);
        }
        self.set_service(key, new);
    }

    /// Its frontends go with the next plan, or to the service that claims them next. Nothing where it is not
    /// known, as all that begin with `delete_`.
    pub fn delete_service(&mut self, key: &ObjectKey) {
        self.set_service(key.clone(), None);
    }

    /// See [`State::apply_service`].
    pub fn apply_slice(&mut self, key: ObjectKey, slice: &api::EndpointSlice) {
        let mut new = Slice::from_api(slice, &self.node_name);
        if let Some(new) = &mut new {
            for port in &mut new.ports {
                self.names.share(&mut port.name);
            }
            // The same string as the service's own, where that is known already.
            if let Some((known, _)) = self.services.get_key_value(&new.service) {
                new.service = known.clone();
            }
        }
        self.set_slice(key, new);
    }

    /// The service of a slice, and the addresses that the slice says are ready. None: no slice that counts.
    pub fn ready_in(&self, slice: &ObjectKey) -> Option<(&ObjectKey, impl Iterator<Item = Addr>)> {
        let slice = self.slices.get(slice)?;
        let ready = slice.endpoints.iter().filter(|endpoint| endpoint.flags & endpoint_flag::READY != 0);
        Some((&slice.service, ready.map(|endpoint| endpoint.addr)))
    }

    /// Its endpoints go, unless another slice of the service has them.
    pub fn delete_slice(&mut self, key: &ObjectKey) {
        self.set_slice(key.clone(), None);
    }

    /// See [`State::apply_service`].
    pub fn apply_node(&mut self, key: ObjectKey, node: &api::Node) {
        let new = Node::from_api(node);
        if self.nodes.get(&key) != Some(&new) {
            let is_ours = key == ObjectKey::new("", &self.node_name);
            let meant = |node: &Node| (node.zone, &node.pod_cidrs) == (new.zone, &new.pod_cidrs);
            if is_ours && !self.nodes.get(&key).is_some_and(meant) {
                // Topology hints, and what a tunnel frame can name, are something else now.
                self.dirty.owners.extend(self.services.keys().cloned());
            }
            let addresses = new.addresses.clone();
            let old = self.nodes.insert(key.clone(), new);
            self.set_node_addresses(&key, old.as_ref().map_or(&[][..], |old| &old.addresses), &addresses);
            self.dirty.nodes = true;
            self.outside_is_dirty = true;
        }
    }

    /// Its pod ranges and addresses go, to the next oldest Node that claims them if there is one.
    pub fn delete_node(&mut self, key: &ObjectKey) {
        let old = self.nodes.remove(key);
        let was_there = old.is_some();
        self.set_node_addresses(key, old.as_ref().map_or(&[][..], |old| &old.addresses), &[]);
        self.dirty.nodes |= was_there;
        self.outside_is_dirty |= was_there;
    }

    /// One that is being deleted counts until it is gone: Services may have addresses in it (KEP-1880).
    pub fn apply_service_cidr(&mut self, key: ObjectKey, object: &api::ServiceCidr) {
        let ranges: Box<[IpNetwork]> = object.spec.cidrs.iter().filter_map(|text| parse_cidr(text)).collect();
        let old = self.service_cidrs.insert(key, ranges.clone());
        self.dirty.nodes |= old.is_none_or(|old| old != ranges);
    }

    /// Its ranges go, but for what another one holds as well.
    pub fn delete_service_cidr(&mut self, key: &ObjectKey) {
        self.dirty.nodes |= self.service_cidrs.remove(key).is_some();
    }

    /// After a complete list: what is not in it is gone.
    pub fn retain_services(&mut self, listed: &HashSet<ObjectKey>) {
        let gone: Vec<_> = self.services.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        gone.iter().for_each(|key| self.delete_service(key));
    }

    /// See [`State::retain_services`].
    pub fn retain_slices(&mut self, listed: &HashSet<ObjectKey>) {
        let gone: Vec<_> = self.slices.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        gone.iter().for_each(|key| self.delete_slice(key));
    }

    /// See [`State::retain_services`].
    pub fn retain_nodes(&mut self, listed: &HashSet<ObjectKey>) {
        let gone: Vec<_> = self.nodes.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        gone.iter().for_each(|key| self.delete_node(key));
    }

    /// See [`State::retain_services`].
    pub fn retain_service_cidrs(&mut self, listed: &HashSet<ObjectKey>) {
        let before = self.service_cidrs.len();
        self.service_cidrs.retain(|key, _| listed.contains(key));
        self.dirty.nodes |= self.service_cidrs.len() != before;
    }

    /// The node's own addresses (`endpoint_flag::NODE`) and its router address (`endpoint_flag::ROUTER`).
    pub fn set_own_addresses(&mut self, addresses: impl IntoIterator<Item = (Addr, u16)>) {
        let addresses = addresses.into_iter().collect();
        if self.own_addresses != addresses {
            self.own_addresses = addresses;
            self.dirty.nodes = true;
        }
    }

    /// What this node knows of its surroundings: Nodes' claims are judged by it.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        if self.bounds != bounds {
            self.bounds = bounds;
            self.dirty.nodes = true;
        }
    }

    /// The ranges that Nodes claim, rightly or not.
    pub fn claimed(&self) -> HashSet<IpNetwork> {
        self.nodes.values().flat_map(|node| node.pod_cidrs.iter().copied()).collect()
    }

    /// Whether a [`crate::plan`] made now would look at anything.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether [`State::node_tables`] may have changed since the last plan.
    pub fn nodes_are_dirty(&self) -> bool {
        self.dirty.nodes
    }

    /// Whether [`State::announced`] or [`State::health`] may have changed since this was last asked.
    pub fn take_outside_dirty(&mut self) -> bool {
        std::mem::take(&mut self.outside_is_dirty)
    }

    /// Whether [`State::resets`] may have changed since this was last asked.
    pub fn take_resets_dirty(&mut self) -> bool {
        std::mem::take(&mut self.resets_are_dirty)
    }

    /// Numbers of services and EndpointSlices held.
    pub fn counts(&self) -> (usize, usize) {
        (self.services.len(), self.slices.len())
    }

    /// The service that a frontend belongs to: the oldest that claims it.
    pub(crate) fn owner(&self, key: &FrontendKey) -> Option<&ObjectKey> {
        let created =
            |service: &ObjectKey| self.services.get(service).map_or(u64::MAX, |service| service.created);
        self.claims.of(key).min_by_key(|service| (created(service), *service))
    }

    fn set_service(&mut self, key: ObjectKey, new: Option<Service>) {
        if self.services.get(&key) == new.as_ref() {
            return;
        }
        let old = match new {
            Some(new) => self.services.insert(key.clone(), new),
            None => self.services.remove(&key),
        };
        let concerns_outside = self.services.get(&key).is_some_and(Service::concerns_outside);
        let did = match concerns_outside {
            true => !self.outside.insert(key.clone()),
            false => self.outside.remove(&key),
        };
        self.outside_is_dirty |= concerns_outside || did;
        let resets = self.services.get(&key).is_some_and(|service| service.resets);
        let did = match resets {
            true => !self.resetting.insert(key.clone()),
            false => self.resetting.remove(&key),
        };
        self.resets_are_dirty |= resets || did;
        let new_keys = self.services.get(&key).map(frontend_keys).unwrap_or_default();
        let old_keys = old.as_ref().map(frontend_keys).unwrap_or_default();
        for old_key in old_keys.iter().filter(|old_key| !new_keys.contains(old_key)) {
            self.claims.remove(*old_key, &key);
        }
        for new_key in &new_keys {
            self.claims.add(*new_key, &key);
        }
        // Who has a shared frontend may have changed for everyone that claims it.
        for shared in old_keys.union(&new_keys) {
            self.dirty.owners.extend(self.claims.of(shared).cloned());
        }
        self.dirty.owners.insert(key);
    }

    /// Services with such an address have to be looked at again, for their warnings.
    fn set_node_addresses(&mut self, node: &ObjectKey, old: &[Addr], new: &[Addr]) {
        for addr in old.iter().filter(|addr| !new.contains(addr)) {
            if self.node_of.get(addr) == Some(node) {
                self.node_of.remove(addr);
                self.dirty.owners.extend(self.claims.of(&address_in_use(*addr)).cloned());
            }
        }
        for addr in new.iter().filter(|addr| !old.contains(addr)) {
            self.node_of.insert(*addr, node.clone());
            self.dirty.owners.extend(self.claims.of(&address_in_use(*addr)).cloned());
        }
    }

    fn set_slice(&mut self, key: ObjectKey, new: Option<Slice>) {
        if self.slices.get(&key) == new.as_ref() {
            return;
        }
        let new_service = new.as_ref().map(|new| new.service.clone());
        let old = match new {
            Some(new) => self.slices.insert(key.clone(), new),
            None => self.slices.remove(&key),
        };
        let old_service = old.map(|old| old.service);
        self.outside_is_dirty |=
            old_service.iter().chain(&new_service).any(|service| self.outside.contains(service));
        self.resets_are_dirty |=
            old_service.iter().chain(&new_service).any(|service| self.resetting.contains(service));
        if old_service != new_service {
            if let Some(service) = &old_service
                && let Some(list) = self.slices_of.get_mut(service)
            {
                list.retain(|slice| *slice != key);
                if list.is_empty() {
                    self.slices_of.remove(service);
                }
            }
            if let Some(service) = &new_service {
                // Most services have one slice: no room for four.
                self.slices_of.entry(service.clone()).or_insert_with(|| Vec::with_capacity(1)).push(key);
            }
        }
        self.dirty.owners.extend(old_service.into_iter().chain(new_service));
    }
}

/// Port names, each kept once ("http" stands in ten thousand services).
#[derive(Debug, Default)]
struct Names {
    known: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Names {
    const SWEEP_FROM: usize = 1024;

    fn share(&mut self, name: &mut Arc<str>) {
        if let Some(known) = self.known.get(&**name) {
            *name = known.clone();
            return;
        }
        if self.known.len() >= self.sweep_at.max(Names::SWEEP_FROM) {
            self.known.retain(|name| Arc::strong_count(name) > 1);
            self.sweep_at = self.known.len() * 2;
        }
        self.known.insert(name.clone());
    }
}
