//! Cluster IPs and node ports: allocated in the very transaction that writes the Service.
//!
//! Each number in use is a key of the store, whose value names the Service. Two Services that want the same number meet
//! in the transaction, where the key must be absent; there is no allocator beside the store that could disagree with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use bytes::Bytes;
use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use skerry_schema::FieldError;
use skerry_store::{Expect, Op, Range, Store};

use crate::{
    api::Settings,
    error::ApiError,
    object::{self, text},
};

const IP_PREFIX: &str = "/claims/service-ips/";
const PORT_PREFIX: &str = "/claims/node-ports/";
/// Random choices before the claims are read as a whole to find a free number.
const RANDOM_TRIES: usize = 16;
/// Addresses looked at in a search of a whole range; a larger range is never full before memory is.
const MAX_SEARCH: u128 = 1 << 20;

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

    fn keys(&self) -> BTreeSet<String> {
        let ips = self.ips.iter().map(|ip| format!("{IP_PREFIX}{ip}"));
        ips.chain(self.ports.iter().map(|port| format!("{PORT_PREFIX}{port}"))).collect()
    }
}

/// The writes that let go of everything a Service holds.
pub fn release(service: &Value) -> Vec<Op> {
    Held::by(service)
        .keys()
        .into_iter()
        .map(|key| Op::Delete { key: key.into(), expect: Expect::Any })
        .collect()
}

/// Takes over from `old` what an update left out: addresses and node ports stay unless the type gives them up.
pub fn carry_over(old: &Value, new: &mut Value) {
    give_up(old, new);
    let kept = |service: &Value| text(service, "/spec/type") != "ExternalName";
    if !kept(old) || !kept(new) {
        return;
    }
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let old_value = &old["spec"][field];
        if new["spec"][field].is_null() && !old_value.is_null() {
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
    addresses(claims, &before, new).await?;
    node_ports(claims, &before, new).await?;
    let (before, after) = (before.keys(), Held::by(new).keys());
    let owner = format!("{}/{}", text(new, "/metadata/namespace"), object::name(new));
    let taken = after.difference(&before).map(|key| Op::Put {
        key: key.as_str().into(),
        value: Bytes::from(owner.clone()),
        expect: Expect::Absent,
    });
    let released =
        before.difference(&after).map(|key| Op::Delete { key: key.as_str().into(), expect: Expect::Any });
    Ok(taken.chain(released).collect())
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

async fn addresses(claims: &Claims<'_>, before: &Held, service: &mut Value) -> Result<(), Refused> {
    let Some(spec) = service["spec"].as_object_mut() else { return Ok(()) };
    if spec.get("type").and_then(Value::as_str) == Some("ExternalName") {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.shift_remove(field);
        }
        return Ok(());
    }
    let families = families(claims.settings, service)?;
    let single = text(service, "/spec/clusterIP").to_owned();
    let mut wanted: Vec<String> = strings(service, "/spec/clusterIPs").map(str::to_owned).collect();
    match wanted.first() {
        None if !single.is_empty() => wanted.push(single),
        Some(first) if !single.is_empty() && *first != single => {
            let value = service["spec"]["clusterIPs"].clone();
            let detail = "first value must match `clusterIP`";
            return Err(FieldError::invalid("spec.clusterIPs[0]", &value[0], detail).into());
        }
        Some(_) | None => {}
    }
    if wanted.first().map(String::as_str) == Some("None") {
        service["spec"]["clusterIP"] = "None".into();
        service["spec"]["clusterIPs"] = json!(["None"]);
        return Ok(());
    }
    let given = wanted.clone();
    let mut chosen = Vec::new();
    for (at, family_wanted) in families.iter().enumerate() {
        let range = claims.settings.service_cidrs.iter().find(|cidr| family(cidr.ip()) == family_wanted);
        let range = *range.ok_or_else(|| no_such_family(family_wanted))?;
        let ip = match wanted.get(at).filter(|ip| !ip.is_empty()) {
            Some(ip) if before.ips.contains(ip) => ip.clone(),
            Some(ip) => explicit_ip(claims, range, ip, &given).await?,
            None => free_ip(claims, range).await?,
        };
        chosen.push(ip);
    }
    service["spec"]["clusterIP"] = chosen[0].as_str().into();
    service["spec"]["clusterIPs"] = json!(chosen);
    Ok(())
}

fn no_such_family(family: &str) -> Refused {
    let detail = "not configured on this cluster";
    FieldError::invalid("spec.ipFamilies[0]", &json!(family), detail).into()
}

/// The families the Service gets, written into it.
fn families(settings: &Settings, service: &mut Value) -> Result<Vec<String>, Refused> {
    let mut available: Vec<&str> = Vec::new();
    for cidr in &settings.service_cidrs {
        if !available.contains(&family(cidr.ip())) {
            available.push(family(cidr.ip()));
        }
    }
    let mut families: Vec<String> = strings(service, "/spec/ipFamilies").map(str::to_owned).collect();
    let ips: Vec<IpAddr> = strings(service, "/spec/clusterIPs")
        .chain(std::iter::once(text(service, "/spec/clusterIP")))
        .filter_map(|ip| ip.parse().ok())
        .collect();
    if families.is_empty() {
        families.extend(ips.first().map(|ip| family(*ip).to_owned()));
    }
    if families.is_empty() {
        families.extend(available.first().map(|first| (*first).to_owned()));
    }
    let policy = match text(service, "/spec/ipFamilyPolicy") {
        "" if families.len() > 1 => "RequireDualStack".to_owned(),
        "" => "SingleStack".to_owned(),
        policy => policy.to_owned(),
    };
    let wants_two = policy != "SingleStack";
    if wants_two && families.len() == 1 {
        families
            .extend(available.iter().find(|other| **other != families[0]).map(|other| (*other).to_owned()));
    }
    if policy == "RequireDualStack" && families.len() < 2 {
        let detail = "this cluster is not configured for dual-stack services";
        return Err(FieldError::invalid("spec.ipFamilyPolicy", &json!(policy), detail).into());
    }
    if policy == "SingleStack" {
        families.truncate(1);
    }
    if let Some(unknown) = families.iter().find(|family| !available.contains(&family.as_str())) {
        return Err(no_such_family(unknown));
    }
    service["spec"]["ipFamilies"] = json!(families);
    service["spec"]["ipFamilyPolicy"] = policy.into();
    Ok(families)
}

async fn explicit_ip(
    claims: &Claims<'_>,
    range: IpNetwork,
    ip: &str,
    given: &[String],
) -> Result<String, Refused> {
    let refuse = |why: String| {
        let detail = format!("failed to allocate IP {ip}: {why}");
        Refused::from(FieldError::invalid("spec.clusterIPs", &json!(given), &detail))
    };
    let Ok(address) = ip.parse::<IpAddr>() else {
        return Err(
            FieldError::invalid("spec.clusterIPs[0]", &json!(ip), "must be a valid IP address").into()
        );
    };
    if !range.contains(address)
        || address == range.network()
        || (address.is_ipv4() && address == range.broadcast())
    {
        return Err(refuse(format!(
            "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"
        )));
    }
    if claims.is_taken(IP_PREFIX, &address.to_string()).await? {
        return Err(refuse("provided IP is already allocated".into()));
    }
    Ok(address.to_string())
}

/// The `offset`-th address of a range.
fn address_at(range: IpNetwork, offset: u128) -> IpAddr {
    match range.network() {
        IpAddr::V4(base) => IpAddr::from(u32::from(base).wrapping_add(offset as u32).to_be_bytes()),
        IpAddr::V6(base) => IpAddr::from(u128::from(base).wrapping_add(offset).to_be_bytes()),
    }
}

/// The first address: it belongs to the `kubernetes` service.
pub fn first_service_ip(range: IpNetwork) -> IpAddr {
    address_at(range, 1)
}

async fn free_ip(claims: &Claims<'_>, range: IpNetwork) -> Result<String, Refused> {
    let bits = if range.is_ipv4() { 32 } else { 128 } - u32::from(range.prefix());
    let size = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
    // Without the network's own address, the kubernetes service's, and the broadcast address.
    let (lowest, highest) = (2, size.saturating_sub(2));
    if lowest <= highest {
        for _ in 0..RANDOM_TRIES {
            let ip = address_at(range, rand::random_range(lowest..=highest)).to_string();
            if !claims.is_taken(IP_PREFIX, &ip).await? {
                return Ok(ip);
            }
        }
        let taken = claims.all_taken(IP_PREFIX).await?;
        // From a random place on and round, so that those who search at once do not all find the same one.
        let highest = highest.min(lowest + MAX_SEARCH);
        let start = rand::random_range(lowest..=highest);
        let mut offsets = (start..=highest).chain(lowest..start);
        if let Some(free) = offsets.find(|offset| !taken.contains(&address_at(range, *offset).to_string())) {
            return Ok(address_at(range, free).to_string());
        }
    }
    Err(ApiError::internal(format!("failed to allocate a serviceIP: range {range} is full")).into())
}

fn needs_node_ports(service: &Value) -> bool {
    match text(service, "/spec/type") {
        "NodePort" => true,
        "LoadBalancer" => service.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    }
}

fn needs_health_port(service: &Value) -> bool {
    text(service, "/spec/type") == "LoadBalancer" && text(service, "/spec/externalTrafficPolicy") == "Local"
}

async fn node_ports(claims: &Claims<'_>, before: &Held, service: &mut Value) -> Result<(), Refused> {
    let allocates = needs_node_ports(service);
    let keeps = allocates || text(service, "/spec/type") == "LoadBalancer";
    let mut list = ports(service).to_vec();
    // Two protocols on one port number share a node port, as DNS does.
    let mut shared: BTreeMap<u64, u16> = BTreeMap::new();
    let mut chosen: BTreeSet<u16> = list.iter().filter_map(|port| port_number(&port["nodePort"])).collect();
    for (at, port) in list.iter_mut().enumerate() {
        if !keeps {
            if let Some(port) = port.as_object_mut() {
                port.shift_remove("nodePort");
            }
            continue;
        }
        let number = port["port"].as_u64().unwrap_or_default();
        let field = format!("spec.ports[{at}].nodePort");
        let node_port = match port_number(&port["nodePort"]) {
            Some(asked) if before.ports.contains(&asked) => asked,
            Some(asked) => explicit_port(claims, asked, &field).await?,
            None if !allocates => continue,
            None => match shared.get(&number) {
                Some(known) => *known,
                None => free_port(claims, &chosen).await?,
            },
        };
        shared.insert(number, node_port);
        chosen.insert(node_port);
        port["nodePort"] = node_port.into();
    }
    if service["spec"]["ports"].is_array() {
        service["spec"]["ports"] = Value::Array(list);
    }
    health_port(claims, before, &chosen, service).await
}

async fn health_port(
    claims: &Claims<'_>,
    before: &Held,
    chosen: &BTreeSet<u16>,
    service: &mut Value,
) -> Result<(), Refused> {
    let asked = service.pointer("/spec/healthCheckNodePort").and_then(port_number);
    if !needs_health_port(service) {
        if let Some(spec) = service["spec"].as_object_mut() {
            spec.shift_remove("healthCheckNodePort");
        }
        return Ok(());
    }
    let port = match asked {
        Some(asked) if before.ports.contains(&asked) => asked,
        Some(asked) => explicit_port(claims, asked, "spec.healthCheckNodePort").await?,
        None => free_port(claims, chosen).await?,
    };
    service["spec"]["healthCheckNodePort"] = port.into();
    Ok(())
}

async fn explicit_port(claims: &Claims<'_>, asked: u16, field: &str) -> Result<u16, Refused> {
    let range = &claims.settings.nodeports;
    let refuse = |why: &str| Refused::from(FieldError::invalid(field, &json!(asked), why));
    if !range.contains(&asked) {
        return Err(refuse(&format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            range.start(),
            range.end()
        )));
    }
    if claims.is_taken(PORT_PREFIX, &asked.to_string()).await? {
        return Err(refuse("provided port is already allocated"));
    }
    Ok(asked)
}

async fn free_port(claims: &Claims<'_>, chosen: &BTreeSet<u16>) -> Result<u16, Refused> {
    let range = &claims.settings.nodeports;
    for _ in 0..RANDOM_TRIES {
        let port = rand::random_range(range.clone());
        if !chosen.contains(&port) && !claims.is_taken(PORT_PREFIX, &port.to_string()).await? {
            return Ok(port);
        }
    }
    let taken = claims.all_taken(PORT_PREFIX).await?;
    let start = rand::random_range(range.clone());
    let mut ports = (start..=*range.end()).chain(*range.start()..start);
    let free = ports.find(|port| !chosen.contains(port) && !taken.contains(&port.to_string()));
    free.ok_or_else(|| {
        let range = format!("{}-{}", range.start(), range.end());
        ApiError::internal(format!("failed to allocate a nodePort: range {range} is full")).into()
    })
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
