//! Cluster IPs: families, the address asked for, a free one.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use skerry_schema::FieldError;

use super::{Claims, Held, IP_PREFIX, RANDOM_TRIES, Refused, strings};
use crate::{api::Settings, error::ApiError, object::text};

/// Addresses looked at in a search of a whole range; a larger range is never full before memory is.
const MAX_SEARCH: u128 = 1 << 20;

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

pub(super) async fn addresses(
    claims: &Claims<'_>,
    before: &Held,
    service: &mut Value,
) -> Result<(), Refused> {
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
