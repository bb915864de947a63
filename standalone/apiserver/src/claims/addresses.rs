//! Cluster IPs: the address asked for, a free one.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use skerry_schema::FieldError;

use super::{
    Claims, Held, RANDOM_TRIES, Refused,
    families::{families, family},
    ip_address,
    ranges::ranges,
    strings,
};
use crate::{error::ApiError, object::text};

/// Addresses looked at in a search of a whole range; a larger range is never full before memory is.
const MAX_SEARCH: u128 = 1 << 20;

pub(super) async fn addresses(
    claims: &Claims<'_>,
    before: &Held,
    old: Option<&Value>,
    service: &mut Value,
) -> Result<(), Refused> {
    let Some(spec) = service["spec"].as_object_mut() else { return Ok(()) };
    if spec.get("type").and_then(Value::as_str) == Some("ExternalName") {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.shift_remove(field);
        }
        return Ok(());
    }
    if let (Some(first), single) =
        (strings(service, "/spec/clusterIPs").next(), text(service, "/spec/clusterIP"))
        && !single.is_empty()
        && single != first
    {
        let detail = "first value must match `clusterIP`";
        return Err(FieldError::invalid("spec.clusterIPs[0]", &json!(first), detail).into());
    }
    let families = families(claims.settings, old, service)?;
    let wanted: Vec<String> = strings(service, "/spec/clusterIPs").map(str::to_owned).collect();
    if wanted.first().map(String::as_str) == Some("None") {
        service["spec"]["clusterIP"] = "None".into();
        service["spec"]["clusterIPs"] = json!(["None"]);
        return Ok(());
    }
    let asked = |at: usize| wanted.get(at).filter(|ip| !ip.is_empty());
    let kept = |at: usize| asked(at).filter(|ip| before.ips.contains(*ip));
    // Most updates choose no address.
    let ranges = match (0..families.len()).all(|at| kept(at).is_some()) {
        true => Vec::new(),
        false => ranges(claims.store, claims.settings).await?,
    };
    let mut chosen = Vec::new();
    for (at, family_wanted) in families.iter().enumerate() {
        if let Some(kept) = kept(at) {
            chosen.push(kept.clone());
            continue;
        }
        let ranges = ranges.iter().filter(|range| family(range.ip()) == family_wanted);
        let ranges: Vec<IpNetwork> = ranges.copied().collect();
        if ranges.is_empty() {
            return Err(no_such_family(at, family_wanted));
        }
        chosen.push(match asked(at) {
            Some(ip) => explicit_ip(claims, &ranges, ip, &wanted).await?,
            None => free_ip(claims, &ranges).await?,
        });
    }
    service["spec"]["clusterIP"] = chosen[0].as_str().into();
    service["spec"]["clusterIPs"] = json!(chosen);
    Ok(())
}

fn no_such_family(at: usize, family: &str) -> Refused {
    let detail = "not configured on this cluster";
    FieldError::invalid(format!("spec.ipFamilies[{at}]"), &json!(family), detail).into()
}

async fn explicit_ip(
    claims: &Claims<'_>,
    ranges: &[IpNetwork],
    ip: &str,
    given: &[String],
) -> Result<String, Refused> {
    let refuse = |why: String| {
        let detail = format!("failed to allocate IP {ip}: {why}");
        Refused::from(FieldError::invalid("spec.clusterIPs", &json!(given), &detail))
    };
    let Ok(address) = ip.parse::<IpAddr>() else {
        return Err(
            FieldError::invalid("spec.clusterIPs", &json!(given), "must be valid IP addresses").into()
        );
    };
    let may_be_in = |range: &IpNetwork| {
        let is_edge = address == range.network() || (address.is_ipv4() && address == range.broadcast());
        range.contains(address) && !is_edge
    };
    if !ranges.iter().any(may_be_in) {
        return Err(refuse(format!(
            "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
            listed(ranges)
        )));
    }
    if claims.is_taken(&ip_address::prefix()?, &address.to_string()).await? {
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

/// The tenth address: that of the cluster's DNS. `None` where the range has no such address.
pub fn dns_service_ip(range: IpNetwork) -> Option<IpAddr> {
    let address = address_at(range, 10);
    (range.contains(address) && address != range.broadcast()).then_some(address)
}

fn listed(ranges: &[IpNetwork]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A free address of the first range that has one.
async fn free_ip(claims: &Claims<'_>, ranges: &[IpNetwork]) -> Result<String, Refused> {
    for range in ranges {
        if let Some(ip) = free_ip_of(claims, *range).await? {
            return Ok(ip);
        }
    }
    let full = match ranges {
        [only] => format!("range {only} is full"),
        _ => format!("ranges {} are full", listed(ranges)),
    };
    Err(ApiError::internal(format!("failed to allocate a serviceIP: {full}")).into())
}

async fn free_ip_of(claims: &Claims<'_>, range: IpNetwork) -> Result<Option<String>, Refused> {
    let prefix = ip_address::prefix()?;
    let bits = if range.is_ipv4() { 32 } else { 128 } - u32::from(range.prefix());
    let size = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
    // Without the network's own address, the kubernetes service's, and the broadcast address.
    let (lowest, highest) = (2, size.saturating_sub(2));
    if lowest > highest {
        return Ok(None);
    }
    for _ in 0..RANDOM_TRIES {
        let ip = address_at(range, rand::random_range(lowest..=highest)).to_string();
        if !claims.is_taken(&prefix, &ip).await? {
            return Ok(Some(ip));
        }
    }
    let taken = claims.all_taken(&prefix).await?;
    // From a random place on and round, so that those who search at once do not all find the same one.
    let highest = highest.min(lowest + MAX_SEARCH);
    let start = rand::random_range(lowest..=highest);
    let mut addresses =
        (start..=highest).chain(lowest..start).map(|offset| address_at(range, offset).to_string());
    Ok(addresses.find(|ip| !taken.contains(ip)))
}
