//! `service.kubernetes.io/topology-mode: Auto` (KEP-2433): each zone gets a share of the endpoints as large
//! as its share of the nodes' CPU, its own ones first. Where that would load an endpoint too much nobody gets
//! hints. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForZone};
use kube::ResourceExt;
use skerry_informer::milli;

use super::desired::{Family, Group, zone};

/// Annotations that ask for hints: the present name, then the deprecated one.
const MODES: [&str; 2] =
    ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];
/// Nodes with these labels run no workloads: their CPU does not count.
const EXCLUDED: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
/// An endpoint may get so much more than its fair share.
const OVERLOAD: f64 = 0.2;

/// Zones and their shares of the CPU that there is; they add up to 1.
pub type Shares = BTreeMap<String, f64>;

/// Whether the Service asks for hints. `trafficDistribution` has no effect then.
pub fn is_auto(service: &Service) -> bool {
    let mode = MODES.iter().find_map(|name| service.annotations().get(*name));
    mode.is_some_and(|mode| mode == "Auto" || mode == "auto")
}

/// What of a node the shares depend on: its zone and CPU in thousandths. `None`: it does not count.
pub fn facts(node: &Node) -> Option<(Option<String>, i64)> {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_ready =
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let is_excluded = EXCLUDED.iter().any(|label| node.labels().contains_key(*label));
    if !is_ready || is_excluded {
        return None;
    }
    let cpu = node.status.as_ref().and_then(|status| status.allocatable.as_ref()?.get("cpu")).and_then(milli);
    Some((zone(node).filter(|zone| !zone.is_empty()).map(str::to_owned), cpu.unwrap_or(0)))
}

/// # Errors
/// Why the nodes give no shares, in Kubernetes' words.
pub fn shares(nodes: &[Arc<Node>]) -> Result<Shares, &'static str> {
    const UNKNOWN: &str =
        "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
    let mut zones: BTreeMap<String, i64> = BTreeMap::new();
    for (zone, cpu) in nodes.iter().filter_map(|node| facts(node)) {
        let (Some(zone), 1..) = (zone, cpu) else { return Err(UNKNOWN) };
        *zones.entry(zone).or_default() += cpu;
    }
    match zones.len() {
        0 => Err(UNKNOWN),
        1 => Err("Nodes only ready in one zone"),
        _ => {
            let total: i64 = zones.values().sum();
            Ok(zones.into_iter().map(|(zone, cpu)| (zone, cpu as f64 / total as f64)).collect())
        }
    }
}

/// Sets the hints of every ready endpoint, family by family; takes them all off a family where that can't be
/// done well. The reasons for that, in Kubernetes' words.
pub fn hint(groups: &mut [Group], shares: &Result<Shares, &'static str>) -> Vec<String> {
    let mut problems = Vec::new();
    for family in [Family::V4, Family::V6] {
        let of_family = groups.iter_mut().filter(|group| group.family == family);
        let mut endpoints: Vec<&mut Endpoint> = of_family.flat_map(|group| &mut group.endpoints).collect();
        endpoints.iter_mut().for_each(|endpoint| endpoint.hints = None);
        endpoints.retain(|endpoint| endpoint.conditions.as_ref().is_some_and(|is| is.ready == Some(true)));
        if endpoints.is_empty() {
            continue;
        }
        // By address: which of a zone's endpoints serve another one does not change without need.
        endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        match assign(&endpoints, shares) {
            Ok(zones) => {
                for (endpoint, name) in endpoints.into_iter().zip(zones) {
                    let for_zones = Some(vec![ForZone { name }]);
                    endpoint.hints = Some(EndpointHints { for_zones, for_nodes: None });
                }
            }
            Err(problem) => problems.push(format!("{problem}, addressType: {}", family.name())),
        }
    }
    problems
}

/// For each endpoint the zone that it is to serve.
fn assign(endpoints: &[&mut Endpoint], shares: &Result<Shares, &'static str>) -> Result<Vec<String>, String> {
    let shares = shares.as_ref().map_err(|problem| (*problem).to_owned())?;
    let count = endpoints.len();
    if shares.len() > count {
        let zones = shares.len();
        return Err(format!("Insufficient number of endpoints ({count} endpoints, {zones} zones)"));
    }
    if shares.values().map(|share| least(*share, count)).sum::<i64>() > count as i64 {
        return Err(
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold"
                .to_owned(),
        );
    }
    let own = endpoints.iter().map(|endpoint| endpoint.zone.clone().filter(|zone| !zone.is_empty()));
    let Some(mut zones) = own.collect::<Option<Vec<String>>>() else {
        return Err("One or more endpoints do not have a zone specified".to_owned());
    };
    let mut surplus: BTreeMap<String, i64> =
        targets(shares, &zones).into_iter().map(|(zone, target)| (zone, -target)).collect();
    for zone in &zones {
        *surplus.entry(zone.clone()).or_default() += 1;
    }
    while let Some((giver, taker)) = next_move(&surplus) {
        let Some(given) = zones.iter().rposition(|zone| *zone == giver) else { break };
        zones[given].clone_from(&taker);
        *surplus.entry(giver).or_default() -= 1;
        *surplus.entry(taker).or_default() += 1;
    }
    Ok(zones)
}

/// From the zone that has most too many to the one that has most too few.
fn next_move(surplus: &BTreeMap<String, i64>) -> Option<(String, String)> {
    let giver = surplus.iter().max_by_key(|zone| zone.1).filter(|zone| *zone.1 > 0)?;
    let taker = surplus.iter().min_by_key(|zone| zone.1).filter(|zone| *zone.1 < 0)?;
    Some((giver.0.clone(), taker.0.clone()))
}

/// How few of so many endpoints a zone may have, if they are not to be overloaded.
fn least(share: f64, count: usize) -> i64 {
    (share * count as f64 / (1.0 + OVERLOAD)).ceil() as i64
}

/// How many endpoints each zone is to have: no fewer than it needs, and then as near to its share as whole
/// numbers allow. Of zones that lack equally much the one comes first that has more of its `own`.
fn targets(shares: &Shares, own: &[String]) -> BTreeMap<String, i64> {
    let count = own.len();
    let mut targets: BTreeMap<String, i64> =
        shares.iter().map(|(zone, share)| (zone.clone(), least(*share, count))).collect();
    let left = count as i64 - targets.values().sum::<i64>();
    for _ in 0..left {
        let lacks = |zone: &String| shares[zone] * count as f64 - targets[zone] as f64;
        let has = |zone: &String| own.iter().filter(|own| *own == zone).count();
        let next = shares
            .keys()
            .max_by(|a, b| lacks(a).total_cmp(&lacks(b)).then_with(|| has(a).cmp(&has(b))))
            .cloned();
        if let Some(next) = next {
            *targets.entry(next).or_default() += 1;
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn node(zone: &str, cpu: &str, extra: Value) -> Arc<Node> {
        let mut node = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}},
            "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": "True"}]}});
        for (pointer, value) in extra.as_object().unwrap() {
            *node.pointer_mut(pointer).unwrap() = value.clone();
        }
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn endpoint(n: usize, zone: &str, ready: bool) -> Endpoint {
        serde_json::from_value(json!({"addresses": [format!("10.0.{}.{}", n / 250, n % 250)], "zone": zone,
            "conditions": {"ready": ready}, "hints": {"forZones": [{"name": "stale"}]}}))
        .unwrap()
    }

    /// Endpoints of these zones in one group, with the hints they get, or the problem.
    fn hinted(zones: &[&str], shares: &Result<Shares, &'static str>) -> Result<Vec<String>, String> {
        let endpoints = zones.iter().enumerate().map(|(n, zone)| endpoint(n, zone, true)).collect();
        let mut groups = [Group { family: Family::V4, ports: vec![], endpoints }];
        let problems = hint(&mut groups, shares);
        let hints = groups[0].endpoints.iter().filter_map(|endpoint| endpoint.hints.clone()?.for_zones);
        let hints: Vec<String> = hints.map(|zones| zones[0].name.clone()).collect();
        match problems.into_iter().next() {
            Some(problem) => {
                assert!(hints.is_empty(), "all or none");
                Err(problem)
            }
            None => Ok(hints),
        }
    }

    fn even(zones: &[&str]) -> Result<Shares, &'static str> {
        Ok(zones.iter().map(|zone| ((*zone).to_owned(), 1.0 / zones.len() as f64)).collect())
    }

    #[test]
    fn shares_are_those_of_the_ready_workers_cpu() {
        let nodes = [
            node("a", "2", json!({})),
            node("b", "4", json!({})),
            node("b", "2", json!({})),
            node("c", "8", json!({"/status/conditions/0/status": "False"})),
            node("c", "8", json!({"/metadata/labels": {"node-role.kubernetes.io/control-plane": ""}})),
        ];
        assert_eq!(shares(&nodes).unwrap(), [("a".to_owned(), 0.25), ("b".to_owned(), 0.75)].into());
        assert_eq!(shares(&nodes[1..3]), Err("Nodes only ready in one zone"));
        let nameless = [nodes[0].clone(), nodes[1].clone(), node("", "2", json!({}))];
        assert!(shares(&nameless).unwrap_err().starts_with("Insufficient Node information"));
        assert!(shares(&[]).is_err());
    }

    #[test]
    fn endpoints_serve_their_own_zone_where_they_are_spread_as_the_nodes_are() {
        assert_eq!(hinted(&["a", "b", "a", "b"], &even(&["a", "b"])).unwrap(), ["a", "b", "a", "b"]);
        let seven = ["a", "a", "b", "b", "a", "b", "a"];
        assert_eq!(hinted(&seven, &even(&["a", "b"])).unwrap(), seven, "as near as can be");
    }

    #[test]
    fn zones_with_too_many_give_to_those_with_too_few() {
        assert_eq!(hinted(&["a", "a", "a", "b"], &even(&["a", "b"])).unwrap(), ["a", "a", "b", "b"]);
        assert_eq!(hinted(&["a", "a", "a"], &even(&["a", "b", "c"])).unwrap().len(), 3);
    }

    #[test]
    fn without_enough_endpoints_or_zones_nobody_gets_hints() {
        let text = |zones: &[&str], shares: &Result<Shares, &'static str>| hinted(zones, shares).unwrap_err();
        assert_eq!(
            text(&["a"], &even(&["a", "b"])),
            "Insufficient number of endpoints (1 endpoints, 2 zones), addressType: IPv4"
        );
        assert!(text(&["a", "", "b", "a"], &even(&["a", "b"])).contains("do not have a zone"));
        let skewed = Ok([("a".to_owned(), 0.34), ("b".to_owned(), 0.33), ("c".to_owned(), 0.33)].into());
        assert!(
            text(&["a", "b", "c", "a"], &skewed).starts_with("Unable to allocate minimum required endpoints")
        );
        assert!(text(&["a", "b"], &Err("Nodes only ready in one zone")).starts_with("Nodes only"));
    }

    #[test]
    fn unready_endpoints_have_no_hints_and_count_for_nothing() {
        let endpoints = vec![endpoint(0, "a", true), endpoint(1, "b", false), endpoint(2, "b", true)];
        let mut groups = [Group { family: Family::V4, ports: vec![], endpoints }];
        assert!(hint(&mut groups, &even(&["a", "b"])).is_empty());
        let has: Vec<bool> = groups[0].endpoints.iter().map(|endpoint| endpoint.hints.is_some()).collect();
        assert_eq!(has, [true, false, true]);
    }

    proptest! {
        #[test]
        fn no_zone_gets_so_few_that_its_endpoints_are_overloaded(
            own in prop::collection::vec(0usize..4, 4..60),
            cpu in prop::collection::vec(1u32..64, 4),
        ) {
            let total: u32 = cpu.iter().sum();
            let shares: Shares =
                cpu.iter().enumerate().map(|(n, cpu)| (n.to_string(), f64::from(*cpu) / f64::from(total))).collect();
            let names: Vec<String> = own.iter().map(usize::to_string).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            if let Ok(hints) = hinted(&names, &Ok(shares.clone())) {
                prop_assert_eq!(hints.len(), own.len());
                for (zone, share) in shares {
                    let has = hints.iter().filter(|hint| **hint == zone).count() as f64;
                    let fair = share * own.len() as f64;
                    prop_assert!(has >= 1.0 && fair / has <= 1.0 + OVERLOAD + 1e-9, "zone {zone}: {has} of {fair}");
                    prop_assert!(has - fair < 1.0, "zone {zone}: {has} of {fair}");
                }
            }
        }
    }
}
