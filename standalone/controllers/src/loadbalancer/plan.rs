//! Who gets which address. Pure: the statuses in the snapshot are all that is known of earlier decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use skerry_informer::{ObjectKey, key_of};

use super::pools::Pool;
use super::request::{Holding, Relation, Request, condition, held, relation};
use super::{CONFIG, POOL, SHARING_KEY};

/// What the ConfigMap says.
#[derive(Clone, Copy)]
pub enum Config<'a> {
    /// There is none: what is assigned stays, and nothing else happens.
    Absent,
    /// It can't be used, and why: what is assigned stays.
    Bad(&'a str),
    Pools(&'a [Pool]),
}

/// What a Service's status is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub key: ObjectKey,
    pub addresses: Vec<IpAddr>,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has what it needs; the pools' names.
    Assigned(String),
    /// It has none, or less than it needs: reason and message.
    Refused(&'static str, String),
    /// It is not ours any more.
    Released,
}

/// Why a Service does not get an address.
struct Refusal(&'static str, String);

/// The decisions that differ from what the statuses say already, oldest Service first. `unreadable` Services
/// hold what they have, and nothing is decided about them. `nodes`: addresses of nodes, which are nobody
/// else's.
pub fn plan(
    config: Config,
    services: &[Arc<Service>],
    unreadable: &[Arc<Service>],
    nodes: &BTreeSet<IpAddr>,
) -> Vec<Decision> {
    let mut by_age: Vec<&Service> = services.iter().map(|service| &**service).collect();
    by_age.sort_by_key(|service| {
        (service.metadata.creation_timestamp.as_ref().map(|time| time.0), key_of(*service))
    });
    let mut taken = Taken { holdings: BTreeMap::new(), addresses: nodes.clone(), nodes };
    unreadable.iter().for_each(|service| taken.add(service, &held(service)));
    let (mut decisions, mut ours) = (Vec::new(), Vec::new());
    for service in by_age {
        match relation(service) {
            Relation::Former => decisions.push(Decision {
                key: key_of(service),
                addresses: Vec::new(),
                outcome: Outcome::Released,
            }),
            Relation::Ours if is_for_us(service, config) => ours.push(service),
            Relation::Ours | Relation::Foreign => taken.add(service, &held(service)),
        }
    }
    let Config::Pools(pools) = config else {
        decisions.extend(ours.into_iter().filter_map(|service| without_pools(service, config)));
        return decisions;
    };
    // Everyone keeps what may be kept, the older first, before anyone gets anything new.
    let kept: Vec<(&Service, Kept)> =
        ours.into_iter().map(|service| (service, keep(service, pools, &mut taken))).collect();
    for (service, kept) in kept {
        let decision = complete(service, kept, pools, &mut taken);
        decisions.extend(Some(decision).filter(|decision| differs(service, decision)));
    }
    decisions
}

/// A Service that is being deleted keeps its address to its end; one that has addresses without our condition
/// has them from another load balancer, unless they are our pools'.
fn is_for_us(service: &Service, config: Config) -> bool {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let has_any =
        balancer.and_then(|balancer| balancer.ingress.as_ref()).is_some_and(|list| !list.is_empty());
    let is_in_pools =
        |ip: &IpAddr| matches!(config, Config::Pools(pools) if pools.iter().any(|p| p.contains(*ip)));
    let held = held(service);
    let is_known = condition(service).is_some() || (!held.is_empty() && held.iter().all(is_in_pools));
    service.metadata.deletion_timestamp.is_none() && (is_known || !has_any)
}

fn without_pools(service: &Service, config: Config) -> Option<Decision> {
    let (Config::Bad(error), true) = (config, held(service).is_empty()) else { return None };
    let message = format!("no address is given while the configuration is wrong: {error}");
    let outcome = Outcome::Refused("BadConfiguration", message);
    let decision = Decision { key: key_of(service), addresses: Vec::new(), outcome };
    differs(service, &decision).then_some(decision)
}

fn differs(service: &Service, decision: &Decision) -> bool {
    let says = condition(service).map(|c| (c.status.as_str(), c.reason.as_str(), c.message.as_str()));
    let (reason, message) = decision.outcome.words();
    says != Some((decision.status(), reason, message)) || held(service) != decision.addresses
}

impl Decision {
    /// Of the condition: the nodes answer for the addresses of a Service where it is `True`.
    pub fn status(&self) -> &'static str {
        if self.addresses.is_empty() { "False" } else { "True" }
    }
}

impl Outcome {
    /// Reason and message of condition and event.
    pub fn words(&self) -> (&'static str, &str) {
        match self {
            Self::Assigned(message) => ("Assigned", message),
            Self::Refused(reason, message) => (reason, message),
            Self::Released => ("Released", ""),
        }
    }
}

/// Which addresses are whose.
struct Taken<'a> {
    holdings: BTreeMap<IpAddr, Vec<Holding>>,
    /// All that are held by a Service or a node.
    addresses: BTreeSet<IpAddr>,
    nodes: &'a BTreeSet<IpAddr>,
}

impl Taken<'_> {
    fn add(&mut self, service: &Service, addresses: &[IpAddr]) {
        for ip in addresses {
            self.holdings.entry(*ip).or_default().push(Holding::of(service));
            self.addresses.insert(*ip);
        }
    }

    /// Who keeps the Service from having the address.
    fn obstacle(&self, ip: &IpAddr, holding: &Holding) -> Option<String> {
        if self.nodes.contains(ip) {
            return Some("a node".to_owned());
        }
        let others = self.holdings.get(ip).into_iter().flatten();
        let mut strangers = others.filter(|other| other.key != holding.key && !holding.fits(other));
        strangers.next().map(|other| format!("Service {}", other.key))
    }

    /// An address that others share already and that this one may share, too.
    fn shareable(&self, pools: &[&Pool], v4: bool, holding: &Holding) -> Option<IpAddr> {
        let mut shared = self.holdings.keys().filter(|ip| {
            ip.is_ipv4() == v4
                && pools.iter().any(|pool| pool.contains(**ip))
                && self.obstacle(ip, holding).is_none()
        });
        shared.next().copied()
    }
}

/// What a Service asks for, or why that can't be understood, and those of its addresses that stay.
struct Kept<'a> {
    request: Result<Request<'a>, String>,
    addresses: Vec<IpAddr>,
}

/// A Service whose request can't be understood keeps what it has.
fn keep<'a>(service: &'a Service, pools: &[Pool], taken: &mut Taken) -> Kept<'a> {
    let (request, holding) = (Request::of(service), Holding::of(service));
    let mut addresses: Vec<IpAddr> = Vec::new();
    for ip in held(service) {
        let is_asked = request.as_ref().map_or(true, |request| may_keep(request, &addresses, ip, pools));
        if is_asked && !addresses.contains(&ip) && taken.obstacle(&ip, &holding).is_none() {
            addresses.push(ip);
        }
    }
    taken.add(service, &addresses);
    Kept { request, addresses }
}

fn may_keep(request: &Request, has: &[IpAddr], ip: IpAddr, pools: &[Pool]) -> bool {
    let is_asked = match request.wanted.is_empty() {
        // One of each family.
        true => !has.iter().any(|other| other.is_ipv4() == ip.is_ipv4()),
        false => request.wanted.iter().any(|(wanted, _)| *wanted == ip),
    };
    is_asked && request.families.contains(&ip.is_ipv4()) && pool_of(pools, request, ip).is_some()
}

/// The pool that has the address and may give it to this Service.
fn pool_of<'a>(pools: &'a [Pool], request: &Request, ip: IpAddr) -> Option<&'a Pool> {
    let mut fit = pools.iter().filter(|pool| {
        pool.contains(ip) && pool.serves(request.service) && request.pool.is_none_or(|name| name == pool.name)
    });
    fit.next()
}

fn complete(service: &Service, kept: Kept, pools: &[Pool], taken: &mut Taken) -> Decision {
    let (key, mut addresses) = (key_of(service), kept.addresses);
    let request = match kept.request {
        Ok(request) => request,
        Err(message) => {
            return Decision { key, addresses, outcome: Outcome::Refused("InvalidRequest", message) };
        }
    };
    let new = match request.wanted.is_empty() {
        true => draw(&request, &addresses, pools, taken),
        false => ask(&request, &addresses, pools, taken),
    };
    let outcome = match new {
        Ok(new) => {
            taken.add(service, &new);
            addresses.extend(new);
            Outcome::Assigned(format!("from pool {}", names(&request, &addresses, pools)))
        }
        Err(Refusal(reason, message)) => Outcome::Refused(reason, message),
    };
    addresses.sort_by_key(|ip| request.families.iter().position(|v4| *v4 == ip.is_ipv4()));
    Decision { key, addresses, outcome }
}

/// The names of the pools that have the addresses.
fn names(request: &Request, addresses: &[IpAddr], pools: &[Pool]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for pool in addresses.iter().filter_map(|ip| pool_of(pools, request, *ip)) {
        if !names.contains(&pool.name.as_str()) {
            names.push(&pool.name);
        }
    }
    names.join(", ")
}

/// The addresses that were asked for and that it has not yet.
fn ask(request: &Request, has: &[IpAddr], pools: &[Pool], taken: &Taken) -> Result<Vec<IpAddr>, Refusal> {
    let holding = Holding::of(request.service);
    let missing = request.wanted.iter().filter(|(ip, _)| !has.contains(ip));
    let mut new = Vec::new();
    for (ip, field) in missing {
        if pool_of(pools, request, *ip).is_none() {
            let message = format!(
                "{field}: {ip} is in no pool that serves this Service: add it to a pool in ConfigMap {CONFIG}, or ask for another"
            );
            return Err(Refusal("AddressNotInPool", message));
        }
        if let Some(owner) = taken.obstacle(ip, &holding) {
            let message = format!(
                "{field}: {ip} belongs to {owner}: ask for another; Services of one namespace share an address if all have the \
                 same annotation {SHARING_KEY} and different ports"
            );
            return Err(Refusal("AddressTaken", message));
        }
        new.push(*ip);
    }
    Ok(new)
}

/// One address of each family that it lacks.
fn draw(request: &Request, has: &[IpAddr], pools: &[Pool], taken: &Taken) -> Result<Vec<IpAddr>, Refusal> {
    let mut missing = request.families.clone();
    missing.retain(|v4| !has.iter().any(|ip| ip.is_ipv4() == *v4));
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let pools = candidates(request, pools)?;
    let holding = Holding::of(request.service);
    let from = |pools: &[&Pool], v4: bool| -> Option<IpAddr> {
        let shared = holding.shares().then(|| taken.shareable(pools, v4, &holding)).flatten();
        shared.or_else(|| pools.iter().find_map(|pool| pool.first_free(v4, &taken.addresses)))
    };
    // Both families out of one pool, if one can.
    let of_one = |pool: &&Pool| missing.iter().map(|v4| from(&[*pool], *v4)).collect::<Option<Vec<_>>>();
    if let Some(new) = pools.iter().find_map(of_one) {
        return Ok(new);
    }
    let mut new = Vec::new();
    for v4 in &missing {
        match from(&pools, *v4) {
            Some(ip) => new.push(ip),
            None if request.needs_all_families => return Err(exhausted(&pools, *v4)),
            None => {}
        }
    }
    match (new.is_empty() && has.is_empty(), missing.first()) {
        (true, Some(v4)) => Err(exhausted(&pools, *v4)),
        _ => Ok(new),
    }
}

/// The pools that may give this Service an address, those that are meant for it first.
fn candidates<'a>(request: &Request, pools: &'a [Pool]) -> Result<Vec<&'a Pool>, Refusal> {
    let serving = pools.iter().filter(|pool| pool.serves(request.service));
    if let Some(name) = request.pool {
        let found: Vec<&Pool> = serving.filter(|pool| pool.name == name).collect();
        let message = || {
            format!("{POOL}: no pool {name:?} serves this Service: see ConfigMap {CONFIG}, or name another")
        };
        return if found.is_empty() { Err(Refusal("NoPool", message())) } else { Ok(found) };
    }
    let mut found: Vec<&Pool> = serving.filter(|pool| pool.auto_assign).collect();
    found.sort_by_key(|pool| !pool.is_specific());
    if found.is_empty() {
        let message = format!(
            "no pool with autoAssign serves this Service: add one to ConfigMap {CONFIG}, or name a pool by the annotation {POOL}"
        );
        return Err(Refusal("NoPool", message));
    }
    Ok(found)
}

fn exhausted(pools: &[&Pool], v4: bool) -> Refusal {
    let family = if v4 { "IPv4" } else { "IPv6" };
    let names: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
    let names = names.join(", ");
    if pools.iter().any(|pool| pool.has_family(v4)) {
        let message = format!(
            "no {family} address is free in pool {names}: add addresses in ConfigMap {CONFIG}, or delete a Service that has one"
        );
        Refusal("PoolExhausted", message)
    } else {
        let message = format!("pool {names} has no {family} addresses: add some in ConfigMap {CONFIG}");
        Refusal("NoAddressOfFamily", message)
    }
}
