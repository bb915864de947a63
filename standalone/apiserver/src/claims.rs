//! Cluster IPs and node ports: allocated in the very transaction that writes the Service.
//!
//! Each number in use is a key of the store, whose value names the Service: of an address it is an IPAddress
//! object. Two Services that want the same number meet in the transaction, where the key must be absent;
//! there is no allocator beside the store that could disagree with it.

mod addresses;
mod families;
pub mod ip_address;
mod ports;
mod ranges;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use serde_json::Value;
use skerry_schema::FieldError;
use skerry_store::{Expect, Op, Range, Store};

use crate::{
    api::Settings,
    error::ApiError,
    object::{self, text},
};

use addresses::addresses;
pub use addresses::{dns_service_ip, first_service_ip};
use ports::{needs_health_port, needs_node_ports, node_ports};
pub use ranges::default_object as default_ranges;

const PORT_PREFIX: &str = "/claims/node-ports/";
/// Random choices before the claims are read as a whole to find a free number.
const RANDOM_TRIES: usize = 16;

/// Why a Service cannot have what it asks for.
#[derive(Debug)]
pub enum Refused {
    Fields(Vec<FieldError>),
    Other(ApiError),
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Other(error)
    }
}

impl From<FieldError> for Refused {
    fn from(error: FieldError) -> Self {
        Self::Fields(vec![error])
    }
}

/// The numbers a Service holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    ips: BTreeSet<String>,
    ports: BTreeSet<u16>,
}

impl Held {
    fn by(service: &Value) -> Self {
        if text(service, "/spec/type") == "ExternalName" {
            return Self::default();
        }
        let ips = strings(service, "/spec/clusterIPs").filter(|ip| *ip != "None" && !ip.is_empty());
        let health = service.pointer("/spec/healthCheckNodePort").and_then(port_number);
        Self {
            ips: ips.map(str::to_owned).collect(),
            ports: ports(service)
                .iter()
                .filter_map(|port| port_number(&port["nodePort"]))
                .chain(health)
                .collect(),
        }
    }

    /// What `other` does not hold.
    fn without(&self, other: &Held) -> Held {
        Held {
            ips: self.ips.difference(&other.ips).cloned().collect(),
            ports: self.ports.difference(&other.ports).copied().collect(),
        }
    }

    fn take(&self, service: &Value) -> Result<Vec<Op>, ApiError> {
        let (namespace, name) = (text(service, "/metadata/namespace"), object::name(service));
        let ips = self.ips.iter().map(|ip| ip_address::take(ip, namespace, name));
        let owner = Bytes::from(format!("{namespace}/{name}"));
        let ports = self.ports.iter().map(|port| {
            let key = format!("{PORT_PREFIX}{port}").into();
            Ok(Op::Put { key, value: owner.clone(), expect: Expect::Absent })
        });
        ips.chain(ports).collect()
    }

    fn release(&self) -> Result<Vec<Op>, ApiError> {
        let prefix = ip_address::prefix()?;
        let ips = self.ips.iter().map(|ip| format!("{prefix}{ip}"));
        let keys = ips.chain(self.ports.iter().map(|port| format!("{PORT_PREFIX}{port}")));
        Ok(keys.map(|key| Op::Delete { key: key.into(), expect: Expect::Any }).collect())
    }
}

/// The writes that let go of everything a Service holds.
pub fn release(service: &Value) -> Result<Vec<Op>, ApiError> {
    Held::by(service).release()
}

/// Takes over from `old` what an update left out: addresses and node ports stay unless the type gives them
/// up.
pub fn carry_over(old: &Value, new: &mut Value) {
    give_up(old, new);
    let kept = |service: &Value| text(service, "/spec/type") != "ExternalName";
    if !kept(old) || !kept(new) {
        return;
    }
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let (old_value, given) = (&old["spec"][field], &new["spec"][field]);
        if (given.is_null() || given.as_array().is_some_and(Vec::is_empty)) && !old_value.is_null() {
            new["spec"][field] = old_value.clone();
        }
    }
    // A change of the one field alone is a change of both.
    if text(new, "/spec/clusterIP").is_empty() && !text(old, "/spec/clusterIP").is_empty() {
        new["spec"]["clusterIP"] = old["spec"]["clusterIP"].clone();
    }
    if !needs_node_ports(old) || !needs_node_ports(new) {
        return;
    }
    let known: BTreeMap<(String, u64), Value> =
        ports(old).iter().map(|port| (port_identity(port), port["nodePort"].clone())).collect();
    if let Some(ports) = new.pointer_mut("/spec/ports").and_then(Value::as_array_mut) {
        for port in ports {
            if port_number(&port["nodePort"]).is_none()
                && let Some(node_port) = known.get(&port_identity(port)).filter(|port| !port.is_null())
            {
                port["nodePort"] = node_port.clone();
            }
        }
    }
    if needs_health_port(old) && needs_health_port(new) && new["spec"]["healthCheckNodePort"].is_null() {
        new["spec"]["healthCheckNodePort"] = old["spec"]["healthCheckNodePort"].clone();
    }
}

/// What the new type has no use for, and the client merely sent back, goes.
fn give_up(old: &Value, new: &mut Value) {
    let loses_ports = needs_node_ports(old) && !needs_node_ports(new);
    let known = Held::by(old).ports;
    if loses_ports && let Some(ports) = new.pointer_mut("/spec/ports").and_then(Value::as_array_mut) {
        for port in ports.iter_mut().filter_map(Value::as_object_mut) {
            let unchanged =
                port.get("nodePort").and_then(port_number).is_some_and(|port| known.contains(&port));
            if unchanged {
                port.shift_remove("nodePort");
            }
        }
    }
    let is_external = text(new, "/spec/type") == "ExternalName";
    if let Some(spec) = new.pointer_mut("/spec").and_then(Value::as_object_mut).filter(|_| is_external) {
        for field in ["clusterIP", "clusterIPs"] {
            if spec.get(field) == old["spec"].get(field) {
                spec.shift_remove(field);
            }
        }
    }
}

fn port_identity(port: &Value) -> (String, u64) {
    (port["protocol"].as_str().unwrap_or("TCP").to_owned(), port["port"].as_u64().unwrap_or_default())
}

/// Where numbers are looked up.
pub struct Claims<'a> {
    pub store: &'a Arc<dyn Store>,
    pub settings: &'a Settings,
    /// Keys that were found taken by a transaction which is not visible yet.
    pub lost: &'a BTreeSet<String>,
}

impl Claims<'_> {
    async fn is_taken(&self, prefix: &str, number: &str) -> Result<bool, Refused> {
        let key = format!("{prefix}{number}");
        Ok(self.lost.contains(&key) || self.store.get(&key).await.map_err(ApiError::from)?.is_some())
    }

    async fn all_taken(&self, prefix: &str) -> Result<BTreeSet<String>, Refused> {
        let range = Range { prefix: prefix.to_owned(), ..Range::default() };
        let listing = self.store.list(range).await.map_err(ApiError::from)?;
        let visible = listing.entries.iter().map(|entry| &*entry.key);
        let keys = visible.chain(self.lost.iter().map(String::as_str));
        Ok(keys.filter_map(|key| key.strip_prefix(prefix).map(str::to_owned)).collect())
    }
}

/// Fills in what `new` lacks and returns the writes that claim and release numbers. `old`: what it replaces.
pub async fn allocate(claims: &Claims<'_>, old: Option<&Value>, new: &mut Value) -> Result<Vec<Op>, Refused> {
    let before = old.map(Held::by).unwrap_or_default();
    addresses(claims, &before, old, new).await?;
    node_ports(claims, &before, new).await?;
    let after = Held::by(new);
    let mut ops = after.without(&before).take(new)?;
    ops.extend(before.without(&after).release()?);
    Ok(ops)
}

fn ports(service: &Value) -> &[Value] {
    service.pointer("/spec/ports").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A port that is set: 0 and null are not.
fn port_number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

fn strings<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a str> {
    let list = object.pointer(pointer).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}
