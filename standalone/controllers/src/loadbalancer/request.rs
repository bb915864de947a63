//! What a Service of type LoadBalancer asks for, and what it has. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use skerry_informer::{ObjectKey, key_of};

use super::{ADDRESSES, CLASS, CONDITION, POOL, SHARING_KEY};

/// One Service that is ours to give addresses to.
#[derive(Debug)]
pub struct Request<'a> {
    pub service: &'a Service,
    /// Families in the Service's order; true is IPv4.
    pub families: Vec<bool>,
    pub needs_all_families: bool,
    /// Addresses asked for, each with the field that does; empty: any.
    pub wanted: Vec<(IpAddr, &'static str)>,
    /// Name of the pool asked for.
    pub pool: Option<&'a str>,
}

/// What a Service of another type or class, or of another load balancer, is to us.
#[derive(Debug, PartialEq, Eq)]
pub enum Relation {
    Ours,
    /// Was ours and holds addresses of ours, or says so.
    Former,
    /// Its addresses, if it has any, are somebody else's.
    Foreign,
}

pub fn relation(service: &Service) -> Relation {
    let was_ours = condition(service).is_some();
    let Some(spec) = &service.spec else { return Relation::Foreign };
    let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let is_our_class = spec.load_balancer_class.as_deref().is_none_or(|class| class == CLASS);
    match is_balanced && is_our_class {
        true => Relation::Ours,
        false if was_ours => Relation::Former,
        false => Relation::Foreign,
    }
}

/// The condition that marks a Service as ours.
pub fn condition(service: &Service) -> Option<&Condition> {
    let conditions = service.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == CONDITION)
}

/// The addresses in its status.
pub fn held(service: &Service) -> Vec<IpAddr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    ingress.filter_map(|ingress| ingress.ip.as_deref()?.parse().ok()).collect()
}

impl<'a> Request<'a> {
    /// # Errors
    /// What about the Service's own fields can't be understood: for its event.
    pub fn of(service: &'a Service) -> Result<Request<'a>, String> {
        let families = families(service);
        let wanted = wanted(service)?;
        for (ip, field) in &wanted {
            if !families.contains(&ip.is_ipv4()) {
                let asked = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
                return Err(format!(
                    "{field}: {ip} is {asked}, which spec.ipFamilies has not: ask for another address or change the families"
                ));
            }
        }
        Ok(Request {
            service,
            families,
            needs_all_families: spec(service)
                .is_some_and(|spec| spec.ip_family_policy.as_deref() == Some("RequireDualStack")),
            wanted,
            pool: annotation(service, POOL),
        })
    }
}

fn spec(service: &Service) -> Option<&ServiceSpec> {
    service.spec.as_ref()
}

fn annotation<'a>(service: &'a Service, name: &str) -> Option<&'a str> {
    let text = service.metadata.annotations.as_ref()?.get(name)?.trim();
    (!text.is_empty()).then_some(text)
}

fn families(service: &Service) -> Vec<bool> {
    let named = spec(service).and_then(|spec| spec.ip_families.as_ref()).into_iter().flatten();
    let families: Vec<bool> = named.map(|family| family == "IPv4").collect();
    if !families.is_empty() {
        return families;
    }
    let cluster_ip = spec(service).and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    vec![!cluster_ip.contains(':')]
}

/// The annotation comes before the field, which Kubernetes has deprecated and which holds one address only.
fn wanted(service: &Service) -> Result<Vec<(IpAddr, &'static str)>, String> {
    const FIELD: &str = "spec.loadBalancerIP";
    let by_field = spec(service).and_then(|spec| spec.load_balancer_ip.as_deref()).unwrap_or_default();
    let (text, name) = match annotation(service, ADDRESSES) {
        Some(text) => (text, ADDRESSES),
        None => (by_field, FIELD),
    };
    let mut wanted: Vec<(IpAddr, &'static str)> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let ip = part.parse().map_err(|_| format!("{name}: {part:?} is no address: write 192.0.2.10"))?;
        if !wanted.iter().any(|(known, _)| *known == ip) {
            wanted.push((ip, name));
        }
    }
    Ok(wanted)
}

/// What a Service has of an address, as others that would share it look at it.
#[derive(Debug, Clone)]
pub struct Holding {
    pub key: ObjectKey,
    sharing_key: Option<String>,
    ports: BTreeSet<(String, i32)>,
    is_local: bool,
    selector: Option<BTreeMap<String, String>>,
}

impl Holding {
    pub fn of(service: &Service) -> Self {
        let spec = spec(service);
        let ports = spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
        Self {
            key: key_of(service),
            sharing_key: annotation(service, SHARING_KEY).map(str::to_owned),
            ports: ports
                .map(|port| (port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), port.port))
                .collect(),
            is_local: spec.is_some_and(|spec| spec.external_traffic_policy.as_deref() == Some("Local")),
            selector: spec.and_then(|spec| spec.selector.clone()),
        }
    }

    pub fn shares(&self) -> bool {
        self.sharing_key.is_some()
    }

    /// Whether both may have one address: both ask for it with the same key and stand in one namespace, no
    /// port is claimed twice, and the node that answers for the address can serve both. One that answers for
    /// a Local policy's endpoints serves another Local Service only if that has the same pods.
    pub fn fits(&self, other: &Holding) -> bool {
        self.shares()
            && self.sharing_key == other.sharing_key
            && self.key.namespace() == other.key.namespace()
            && self.ports.is_disjoint(&other.ports)
            && (!(self.is_local && other.is_local) || self.selector == other.selector)
    }
}
