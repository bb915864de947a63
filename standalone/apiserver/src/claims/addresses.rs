//! Cluster IPs: the address asked for, a free one.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use skerry_schema::FieldError;

use super::{
    Claims, Held, IP_PREFIX, RANDOM_TRIES, Refused,
    families::{families, family},
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
    let mut chosen = Vec::new();
    for (at, family_wanted) in families.iter().enumerate() {
        let asked = wanted.get(at).filter(|ip| !ip.is_empty());
        if let Some(kept) = asked.filter(|ip| before.ips.contains(*ip)) {
            chosen.push(kept.clone());
            continue;
        }
        let range = claims.settings.service_cidrs.iter().find(|cidr| family(cidr.ip()) == family_wanted);
        let range = *range.ok_or_else(|| no_such_family(at, family_wanted))?;
        chosen.push(match asked {
            Some(ip) => explicit_ip(claims, range, ip, &wanted).await?,
            None => free_ip(claims, range).await?,
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
            FieldError::invalid("spec.clusterIPs", &json!(given), "must be valid IP addresses").into()
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
