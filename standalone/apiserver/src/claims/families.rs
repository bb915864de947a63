//! IP families of a Service (KEP-563): which ones it gets, and what an update may change of them.

use std::net::IpAddr;

use serde_json::{Value, json};
use skerry_schema::FieldError;

use super::{Refused, strings};
use crate::{api::Settings, object::text};

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";
/// Families there are, and so addresses and families that a Service may name.
const MOST: usize = 2;
const NOT_CONFIGURED: &str = "not configured on this cluster";

pub(super) fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn other(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

/// The three fields that hang together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fields {
    policy: String,
    families: Vec<String>,
    ips: Vec<String>,
}

impl Fields {
    fn of(service: &Value) -> Fields {
        let list = |pointer| strings(service, pointer).map(str::to_owned).collect::<Vec<_>>();
        let mut ips = list("/spec/clusterIPs");
        let single = text(service, "/spec/clusterIP");
        if ips.is_empty() && !single.is_empty() {
            ips.push(single.to_owned());
        }
        let policy = text(service, "/spec/ipFamilyPolicy").to_owned();
        Fields { policy, families: list("/spec/ipFamilies"), ips }
    }

    fn is_headless(&self) -> bool {
        self.ips.first().is_some_and(|ip| ip == "None")
    }
}

/// Settles policy, families and the addresses asked for (those given up are taken out), and writes them into
/// the Service. `old`: what is updated. Returns the families in their order.
pub(super) fn families(
    settings: &Settings,
    old: Option<&Value>,
    service: &mut Value,
) -> Result<Vec<String>, Refused> {
    let old = old.filter(|old| text(old, "/spec/type") != "ExternalName").map(Fields::of);
    let mut new = Fields::of(service);
    // A Service that takes what there is does not change because the cluster did.
    let rests = old.as_ref().is_some_and(|old| *old == new && new.policy == PREFER && !new.ips.is_empty());
    if !rests {
        let selects =
            service.pointer("/spec/selector").and_then(Value::as_object).is_some_and(|s| !s.is_empty());
        settle(settings, old.as_ref(), &mut new, !selects)?;
    }
    service["spec"]["ipFamilyPolicy"] = new.policy.into();
    service["spec"]["ipFamilies"] = json!(new.families);
    if !new.ips.is_empty() {
        service["spec"]["clusterIPs"] = json!(new.ips);
    }
    Ok(new.families)
}

fn settle(
    settings: &Settings,
    old: Option<&Fields>,
    new: &mut Fields,
    is_selectorless: bool,
) -> Result<(), Refused> {
    if new.policy.is_empty() {
        new.policy = match old.map(|old| old.policy.as_str()) {
            Some(policy) if !policy.is_empty() => policy.to_owned(),
            _ if new.is_headless() && is_selectorless => REQUIRE.to_owned(),
            _ => SINGLE.to_owned(),
        };
    }
    let mut errors = shape(new);
    if let Some(old) = old {
        give_up(old, new, &mut errors);
        keep(old, new, &mut errors);
    }
    if new.policy == SINGLE {
        for (many, what) in [(new.ips.len() > 1, "cluster IPs"), (new.families.len() > 1, "IP families")] {
            if many {
                let detail = format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
                );
                errors.push(policy_error(new, &detail));
            }
        }
    }
    check(errors)?;
    let available = available(settings);
    infer(new, &available)?;
    let first = available.first().copied().unwrap_or("IPv4");
    if new.is_headless() && is_selectorless {
        // Whoever writes its endpoints knows the families; the cluster need not have them.
        if new.families.is_empty() {
            new.families.push(first.to_owned());
        }
        extend(new, true);
        return Ok(());
    }
    let mut errors = Vec::new();
    if new.policy == REQUIRE && available.len() < MOST {
        errors.push(policy_error(new, "this cluster is not configured for dual-stack services"));
    }
    for (at, family) in new.families.iter().enumerate() {
        if !available.contains(&family.as_str()) {
            errors.push(FieldError::invalid(
                format!("spec.ipFamilies[{at}]"),
                &json!(family),
                NOT_CONFIGURED,
            ));
        }
    }
    check(errors)?;
    if new.families.is_empty() {
        new.families.push(first.to_owned());
    }
    extend(new, available.len() == MOST);
    Ok(())
}

fn check(errors: Vec<FieldError>) -> Result<(), Refused> {
    if errors.is_empty() { Ok(()) } else { Err(Refused::Fields(errors)) }
}

fn policy_error(new: &Fields, detail: &str) -> FieldError {
    FieldError::invalid("spec.ipFamilyPolicy", &json!(new.policy), detail)
}

/// Families that the cluster has service addresses of, its own first.
fn available(settings: &Settings) -> Vec<&'static str> {
    let mut available = Vec::new();
    for cidr in &settings.service_cidrs {
        if !available.contains(&family(cidr.ip())) {
            available.push(family(cidr.ip()));
        }
    }
    available
}

/// The second family, where the policy wants two.
fn extend(new: &mut Fields, is_there: bool) {
    if let [only] = new.families.as_slice()
        && new.policy != SINGLE
        && is_there
    {
        new.families.push(other(only).to_owned());
    }
}

/// What is wrong whatever was there before.
fn shape(new: &Fields) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (field, list) in [("spec.ipFamilies", &new.families), ("spec.clusterIPs", &new.ips)] {
        if list.len() > MOST {
            errors.push(FieldError::invalid(field, &json!(list), "may only hold up to 2 values"));
        }
    }
    for (at, family) in new.families.iter().enumerate() {
        if new.families.iter().take(at).any(|before| before == family) {
            errors.push(FieldError::duplicate(format!("spec.ipFamilies[{at}]"), &json!(family)));
        }
    }
    if new.is_headless() {
        if new.ips.len() > 1 {
            let detail = "'None' must be the first and only value";
            errors.push(FieldError::invalid("spec.clusterIPs", &json!(new.ips), detail));
        }
        return errors;
    }
    let mut found = Vec::new();
    for (at, ip) in new.ips.iter().enumerate() {
        let field = format!("spec.clusterIPs[{at}]");
        let Ok(address) = ip.parse::<IpAddr>() else {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(field, &json!(ip), detail));
            continue;
        };
        if let Some(asked) = new.families.get(at).filter(|asked| *asked != family(address)) {
            let detail = format!("expected an {asked} value as indicated by `ipFamilies[{at}]`");
            errors.push(FieldError::invalid(field, &json!(ip), &detail));
        }
        found.push(family(address));
    }
    if let [first, second] = found.as_slice()
        && first == second
    {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid("spec.clusterIPs", &json!(new.ips), detail));
    }
    errors
}

/// An update to SingleStack lets the second family go; one that drops it without saying so is a mistake.
fn give_up(old: &Fields, new: &mut Fields, errors: &mut Vec<FieldError>) {
    if new.policy == SINGLE {
        if new.ips == old.ips {
            new.ips.truncate(1);
        }
        if new.families == old.families {
            new.families.truncate(1);
        }
        return;
    }
    let fewer = |new: &[String], old: &[String]| !new.is_empty() && new.len() < old.len();
    for (lost, what) in
        [(fewer(&new.ips, &old.ips), "cluster IP"), (fewer(&new.families, &old.families), "IP family")]
    {
        if lost {
            let detail = format!("must be 'SingleStack' to release the secondary {what}");
            errors.push(policy_error(new, &detail));
        }
    }
}

/// The first address and family stay, and the second is added or taken away, not exchanged.
fn keep(old: &Fields, new: &Fields, errors: &mut Vec<FieldError>) {
    // Nothing is allocated for a headless Service.
    if old.is_headless() && new.is_headless() {
        return;
    }
    for (field, old, new) in
        [("spec.ipFamilies", &old.families, &new.families), ("spec.clusterIPs", &old.ips, &new.ips)]
    {
        for (at, (before, after)) in old.iter().zip(new).enumerate() {
            if before != after && !before.is_empty() {
                let value = if field == "spec.clusterIPs" { json!(new) } else { json!(after) };
                errors.push(FieldError::invalid(format!("{field}[{at}]"), &value, "may not change once set"));
            }
        }
    }
}

/// Families that only the addresses asked for tell.
fn infer(new: &mut Fields, available: &[&str]) -> Result<(), Refused> {
    if new.is_headless() {
        return Ok(());
    }
    let mut errors = Vec::new();
    for (at, ip) in new.ips.iter().enumerate().skip(new.families.len()) {
        let Ok(address) = ip.parse::<IpAddr>() else { continue };
        let family = family(address);
        if available.contains(&family) {
            new.families.push(family.to_owned());
        } else {
            let detail = format!("{family} is {NOT_CONFIGURED}");
            errors.push(FieldError::invalid(format!("spec.clusterIPs[{at}]"), &json!(new.ips), &detail));
        }
    }
    check(errors)
}
