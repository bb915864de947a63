//! EndpointSlices of the cluster's DNS: its endpoints are the nodes that say that they answer.
//!
//! A node's agent says so by an annotation of its own Node, with the port as value. It could not write the
//! slices itself: a node that may write one may take over any Service.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::ResourceExt;
use skerry_informer::{Change, Next, ObjectKey, Queue, WriteError};

use super::desired::{Family, Group, families, hints, selector, zone};
use super::place::{Keeper, Plan, place};
use super::{MANAGED_BY, carry_out, is_kept_by, slices_of};
use crate::context::Context;

/// The Service that pods' resolv.conf names.
const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
/// Our value of [`MANAGED_BY`].
const MANAGER: &str = "dns.skerry.io";
/// Annotation of a Node: names are answered at its addresses, on this port.
const PORT: &str = "dns.skerry.io/port";
/// Ports of the Service by their names: these lead there.
const PORTS: [&str; 2] = ["dns", "dns-tcp"];

fn key() -> ObjectKey {
    ObjectKey::new(NAMESPACE, NAME)
}

pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let cache = &context.cache;
    let keys = queue.clone();
    cache.services.store.on_change(move |change: &Change<Service>| {
        if change.key == key() {
            keys.add(key());
        }
    });
    let keys = queue.clone();
    cache.slices.store.on_change(move |change: &Change<EndpointSlice>| {
        let ours = change.old.iter().chain(change.known()).any(|slice| is_kept_by(slice, MANAGER));
        if ours {
            keys.add(key());
        }
    });
    let keys = queue.clone();
    cache.nodes.store.on_change(move |change: &Change<Node>| {
        let facts = |node: &Option<Arc<Node>>| node.as_deref().map(facts);
        // Heartbeats change nothing.
        if change.unreadable.is_none() && facts(&change.old) != facts(&change.new) {
            keys.add(key());
        }
    });
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    // Slices of a Service that is gone are the garbage collector's.
    let Some(service) = cache.services.store.get(&key) else { return Ok(Next::Change) };
    let slices = slices_of(&context, &key, MANAGER);
    let plan = match selector(&service) {
        // Somebody has given it pods of his own.
        Some(_) => Plan { delete: slices, ..Default::default() },
        None => {
            let mut keeper = Keeper::of_service(&service);
            keeper.labels.insert(MANAGED_BY.into(), MANAGER.into());
            place(&keeper, &slices, groups(&service, &cache.nodes.store.list()))
        }
    };
    carry_out(&context, &*service, plan).await
}

/// What of a node its endpoints depend on.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    port: Option<i32>,
    addresses: Vec<IpAddr>,
    is_ready: bool,
    zone: Option<String>,
}

fn facts(node: &Node) -> Facts {
    let status = node.status.as_ref();
    let addresses = status.and_then(|status| status.addresses.as_ref()).into_iter().flatten();
    let internal = addresses.filter(|address| address.type_ == "InternalIP");
    let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    Facts {
        port: node.annotations().get(PORT).and_then(|text| text.parse::<u16>().ok()).map(i32::from),
        addresses: internal.filter_map(|address| address.address.parse().ok()).collect(),
        is_ready: ready.any(|condition| condition.status == "True"),
        zone: zone(node).map(str::to_owned),
    }
}

fn groups(service: &Service, nodes: &[Arc<Node>]) -> Vec<Group> {
    let distribution = service.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref());
    let mut nodes: Vec<&Arc<Node>> = nodes.iter().collect();
    nodes.sort_by_key(|node| node.name_any());
    let mut groups = Vec::new();
    for family in families(service) {
        for node in &nodes {
            let Facts { port: Some(port), addresses, is_ready, zone } = facts(node) else { continue };
            let is_of_family = |ip: &&IpAddr| ip.is_ipv4() == (family == Family::V4);
            let Some(ip) = addresses.iter().find(is_of_family) else { continue };
            let name = node.name_any();
            let endpoint = Endpoint {
                addresses: vec![ip.to_string()],
                conditions: Some(EndpointConditions {
                    ready: Some(is_ready),
                    serving: Some(is_ready),
                    terminating: Some(false),
                }),
                hints: if is_ready { hints(distribution, Some(&name), zone.as_deref()) } else { None },
                node_name: Some(name),
                zone,
                ..Default::default()
            };
            Group::add(&mut groups, family, &ports(service, port), endpoint);
        }
    }
    groups
}

fn ports(service: &Service, dns: i32) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
    ports
        .map(|port| {
            let name = port.name.clone().unwrap_or_default();
            let number = if PORTS.contains(&name.as_str()) { dns } else { port.port };
            EndpointPort {
                name: Some(name),
                port: Some(number),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, annotations: Value, ready: &str, addresses: &[&str]) -> Arc<Node> {
        let addresses: Vec<Value> =
            addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        let node = json!({"metadata": {"name": name, "annotations": annotations},
            "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": ready}]}});
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn service(families: Value) -> Service {
        let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53},
            {"name": "metrics", "port": 9153}]);
        let service = json!({"metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": {"ports": ports,
            "ipFamilies": families, "trafficDistribution": "PreferSameNode"}});
        serde_json::from_value(service).unwrap()
    }

    #[test]
    fn nodes_that_answer_are_endpoints_each_for_itself_first() {
        let nodes = [
            node("b", json!({PORT: "10053"}), "Unknown", &["10.0.0.2", "fd00::2"]),
            node("a", json!({PORT: "10053"}), "True", &["10.0.0.1"]),
            node("c", json!({}), "True", &["10.0.0.3"]),
            node("d", json!({PORT: "nonsense"}), "True", &["10.0.0.4"]),
            node("e", json!({PORT: "20053"}), "True", &["10.0.0.5"]),
        ];
        let groups = groups(&service(json!(["IPv4", "IPv6"])), &nodes);
        let said: Vec<Value> = groups
            .iter()
            .map(|group| {
                let ports: Vec<i32> = group.ports.iter().filter_map(|port| port.port).collect();
                let of = |endpoint: &Endpoint| {
                    let hint = endpoint.hints.as_ref().and_then(|hints| hints.for_nodes.as_ref());
                    let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
                    json!([endpoint.addresses[0], ready, hint.map(|hints| &hints[0].name)])
                };
                json!([group.family.name(), ports, group.endpoints.iter().map(of).collect::<Vec<_>>()])
            })
            .collect();
        let expected = json!([
            ["IPv4", [10053, 10053, 9153], [["10.0.0.1", true, "a"], ["10.0.0.2", false, null]]],
            ["IPv4", [20053, 20053, 9153], [["10.0.0.5", true, "e"]]],
            ["IPv6", [10053, 10053, 9153], [["fd00::2", false, null]]],
        ]);
        assert_eq!(json!(said), expected);
    }
}
