//! Cutting endpoints into slices: what is in a slice stays in it, so that a change touches as few slices as
//! can be. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde_json::{Value, json};
use skerry_informer::{ObjectKey, key_of};

use super::desired::Group;
use super::{MANAGED_BY, MANAGER, SERVICE_NAME};
use crate::owner::controller_reference;

/// Endpoints a slice holds at most.
pub const MAX_ENDPOINTS: usize = 100;
/// Label of slices of a headless Service.
const HEADLESS: &str = "service.kubernetes.io/headless";

#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<(ObjectKey, Value)>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// Whose slices they are, as new ones say it.
#[derive(Debug)]
pub struct Keeper {
    pub name: String,
    pub namespace: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub owner: OwnerReference,
}

impl Keeper {
    pub fn of_service(service: &Service) -> Self {
        Self {
            name: service.name_any(),
            namespace: service.namespace(),
            labels: labels(service),
            owner: controller_reference(service),
        }
    }
}

pub fn place(keeper: &Keeper, slices: &[Arc<EndpointSlice>], groups: Vec<Group>) -> Plan {
    let mut plan = Plan::default();
    let mut unclaimed: Vec<&Arc<EndpointSlice>> =
        slices.iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()).collect();
    for group in groups {
        let is_of_group = |slice: &&Arc<EndpointSlice>| {
            let ports = slice.ports.as_deref().unwrap_or_default();
            slice.address_type == group.family.name() && same_ports(ports, &group.ports)
        };
        let (mut of_group, rest): (Vec<_>, Vec<_>) = unclaimed.into_iter().partition(is_of_group);
        unclaimed = rest;
        if of_group.is_empty()
            && let Some(other) = unclaimed.iter().position(|slice| {
                let is_empty = slice.endpoints.as_ref().is_none_or(|endpoints| endpoints.is_empty());
                slice.address_type == group.family.name() && (is_empty || group.endpoints.is_empty())
            })
        {
            // A slice that said "none" says who, once there is someone; and the other way round.
            of_group.push(unclaimed.swap_remove(other));
        }
        place_group(keeper, &of_group, group, &mut plan);
    }
    plan.delete.extend(unclaimed.into_iter().cloned());
    plan
}

fn place_group(keeper: &Keeper, slices: &[&Arc<EndpointSlice>], group: Group, plan: &mut Plan) {
    let mut wanted: HashMap<String, Endpoint> = HashMap::with_capacity(group.endpoints.len());
    let mut order = Vec::with_capacity(group.endpoints.len());
    for endpoint in group.endpoints {
        let id = identity(&endpoint);
        if wanted.insert(id.clone(), endpoint).is_none() {
            order.push(id);
        }
    }
    // What stays where it is, brought up to date.
    let mut contents: Vec<Vec<Endpoint>> = slices
        .iter()
        .map(|slice| slice.endpoints.iter().flatten().filter_map(|e| wanted.remove(&identity(e))).collect())
        .collect();
    // Newcomers fill the fullest slices first.
    let mut newcomers: Vec<Endpoint> = order.iter().filter_map(|id| wanted.remove(id)).collect();
    let mut by_fullness: Vec<usize> = (0..contents.len()).collect();
    by_fullness.sort_by_key(|index| std::cmp::Reverse(contents[*index].len()));
    for index in by_fullness {
        let room = MAX_ENDPOINTS.saturating_sub(contents[index].len()).min(newcomers.len());
        contents[index].extend(newcomers.drain(..room));
    }
    let mut kept = 0;
    let empty_group = newcomers.is_empty() && contents.iter().all(Vec::is_empty);
    for (slice, endpoints) in slices.iter().zip(contents) {
        // The last slice of a Service without endpoints stays, and says that there are none.
        let keep = !endpoints.is_empty() || (empty_group && kept == 0);
        if !keep {
            plan.delete.push((*slice).clone());
            continue;
        }
        kept += 1;
        let mut patch = json!({});
        if slice.endpoints.clone().unwrap_or_default() != endpoints {
            patch["endpoints"] = json!(endpoints);
        }
        if !same_ports(slice.ports.as_deref().unwrap_or_default(), &group.ports) {
            patch["ports"] = json!(group.ports);
        }
        if let Some(changed) = changed_labels(slice.labels(), &keeper.labels) {
            patch["metadata"] = json!({"labels": changed});
        }
        if patch != json!({}) {
            plan.update.push((key_of(&***slice), patch));
        }
    }
    let mut chunks: Vec<Vec<Endpoint>> = newcomers.chunks(MAX_ENDPOINTS).map(<[Endpoint]>::to_vec).collect();
    if chunks.is_empty() && kept == 0 {
        chunks.push(Vec::new());
    }
    for endpoints in chunks {
        plan.create.push(EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", keeper.name)),
                namespace: keeper.namespace.clone(),
                labels: Some(keeper.labels.clone()),
                owner_references: Some(vec![keeper.owner.clone()]),
                ..Default::default()
            },
            address_type: group.family.name().into(),
            endpoints: Some(endpoints),
            ports: Some(group.ports.clone()),
        });
    }
}

/// What an endpoint is the same by, whatever else of it changes.
fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref()).unwrap_or("");
    format!("{uid} {}", endpoint.addresses.first().map_or("", String::as_str))
}

fn same_ports(a: &[EndpointPort], b: &[EndpointPort]) -> bool {
    a.len() == b.len() && a.iter().all(|port| b.contains(port))
}

/// The Service's own labels, and whether it is headless.
pub fn service_labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS);
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

/// These, and those that say whose slice it is and who keeps it.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service_labels(service);
    labels.insert(SERVICE_NAME.into(), service.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

/// The merge patch between two sets of labels.
fn changed_labels(has: &BTreeMap<String, String>, wants: &BTreeMap<String, String>) -> Option<Value> {
    skerry_informer::merge_diff(has, wants)
}
