//! What the server keeps by itself: the system's namespaces and priority classes, the class of local volumes,
//! the ServiceCIDR of its own ranges, and the `kubernetes` Service with its Endpoints and its slice.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::StreamExt;
use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use skerry_store::{Expect, Op, StoreError};
use skerry_vocabulary::time;

use crate::{
    api::{Api, built_in},
    claims,
    create::prepare,
    error::ApiError,
    object::{self, metadata_mut, text},
};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
const MAX_TRIES: usize = 8;
pub(crate) const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Makes what is missing.
pub async fn bootstrap(api: &Api) -> Result<(), ApiError> {
    for name in NAMESPACES {
        ensure(api, ("", "v1", "namespaces"), json!({"metadata": {"name": name}}), &[]).await?;
    }
    for (name, value, description) in [
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ] {
        let class = json!({"metadata": {"name": name}, "value": value, "description": description,
            "preemptionPolicy": "PreemptLowerPriority"});
        ensure(api, ("scheduling.k8s.io", "v1", "priorityclasses"), class, &[]).await?;
    }
    let class = json!({
        "metadata": {"name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "skerry.io/local-path", "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
    });
    ensure(api, ("storage.k8s.io", "v1", "storageclasses"), class, &[]).await?;
    ensure(
        api,
        ("networking.k8s.io", "v1", "servicecidrs"),
        claims::default_ranges(&api.settings),
        &["/spec/cidrs"],
    )
    .await?;
    claims::ip_address::repair(api).await?;
    keep_kubernetes_service(api).await?;
    // Without it names are not found, and everything else goes on.
    if let Some(service) = dns_service(&api.settings.service_cidrs)
        && let Err(error) = ensure(api, ("", "v1", "services"), service, &[]).await
    {
        tracing::warn!(%error, "the Service kube-system/kube-dns can't be made: who has its address?");
    }
    Ok(())
}

/// The Service of the cluster's DNS, where none is yet: somebody's own stays as it is. It has no selector:
/// the controllers write its endpoints, which are the nodes that say that they answer. `None` where the
/// ranges have no room for it.
fn dns_service(ranges: &[IpNetwork]) -> Option<Value> {
    let ips: Vec<String> =
        ranges.iter().filter_map(|range| claims::dns_service_ip(*range)).map(|ip| ip.to_string()).collect();
    let first = ips.first()?;
    let policy = if ips.len() > 1 { "RequireDualStack" } else { "SingleStack" };
    Some(json!({
        "metadata": {"name": "kube-dns", "namespace": "kube-system",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "SkerryDNS"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9153"}},
        "spec": {"type": "ClusterIP", "clusterIP": first, "clusterIPs": ips, "ipFamilyPolicy": policy,
            "sessionAffinity": "None",
            // A client's own node answers it, as long as it can.
            "trafficDistribution": "PreferSameNode",
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                {"name": "metrics", "port": 9153, "protocol": "TCP"}]},
    }))
}

/// Puts the `kubernetes` Service, its Endpoints and its EndpointSlice back whenever somebody changes them.
pub async fn guard_kubernetes_service(api: Arc<Api>) {
    loop {
        let after = api.store.revision();
        if let Err(error) = keep_kubernetes_service(&api).await {
            tracing::warn!(%error, "the kubernetes service could not be kept");
        }
        let (Ok(mut service), Ok(mut endpoints), Ok(mut slice)) = (
            api.store.watch("/registry/services/default/kubernetes", after),
            api.store.watch("/registry/endpoints/default/kubernetes", after),
            api.store.watch("/registry/endpointslices.discovery.k8s.io/default/kubernetes", after),
        ) else {
            // Compacted between the two lines, or the store has failed: look again, but not at full speed.
            tokio::select! {
                () = api.shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY_PAUSE) => continue,
            }
        };
        let changed = async {
            loop {
                let item = tokio::select! {
                    item = service.next() => item,
                    item = endpoints.next() => item,
                    item = slice.next() => item,
                };
                if !matches!(item, Some(skerry_store::WatchItem::Progress(_))) {
                    break;
                }
            }
        };
        tokio::select! {
            () = api.shutdown.cancelled() => return,
            () = changed => {}
        }
    }
}

async fn keep_kubernetes_service(api: &Api) -> Result<(), ApiError> {
    // The API is reached by one address, so its Service has one: in the cluster's first family.
    let ip = api.settings.service_cidrs.first().map(|cidr| claims::first_service_ip(*cidr).to_string());
    let service = json!({
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": ip.iter().collect::<Vec<_>>(),
            "sessionAffinity": "None", "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": api.settings.port}]},
    });
    ensure(api, ("", "v1", "services"), service, &["/spec/ports"]).await?;
    let advertise = api.settings.advertise;
    if !can_be_an_endpoint(advertise) {
        tracing::warn!(%advertise, "pods can't reach the API at this address: the Service kubernetes has no endpoint");
        return Ok(());
    }
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": advertise.to_string()}],
            "ports": [{"name": "https", "port": api.settings.port, "protocol": "TCP"}]}],
    });
    ensure(api, ("", "v1", "endpoints"), endpoints, &["/subsets", "/metadata/labels"]).await?;
    let slice = json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if advertise.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [advertise.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": api.settings.port, "protocol": "TCP"}],
    });
    ensure(
        api,
        ("discovery.k8s.io", "v1", "endpointslices"),
        slice,
        &["/endpoints", "/ports", "/metadata/labels"],
    )
    .await
}

/// Endpoints are addresses that other machines can reach; the API takes no others from anybody.
fn can_be_an_endpoint(address: std::net::IpAddr) -> bool {
    let is_link_local = match address {
        std::net::IpAddr::V4(v4) => v4.is_link_local(),
        std::net::IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || is_link_local)
}

/// Makes the object if it is missing; what stands at `fixed` pointers is put right if it differs.
async fn ensure(
    api: &Api,
    resource: (&str, &str, &str),
    wanted: Value,
    fixed: &[&str],
) -> Result<(), ApiError> {
    let kind = built_in(resource.0, resource.1, resource.2)?;
    let (namespace, name) =
        (text(&wanted, "/metadata/namespace").to_owned(), object::name(&wanted).to_owned());
    let key = object::key(kind, &namespace, &name);
    let (mut found, mut lost) = (api.store.get(&key).await?, BTreeSet::new());
    for _ in 0..MAX_TRIES {
        let mut object = wanted.clone();
        object["kind"] = kind.kind.into();
        object["apiVersion"] = kind.api_version().into();
        let (mut ops, expect) = match &found {
            Some(entry) => {
                let current = crate::api::parse(kind, entry)?;
                object = current.clone();
                for pointer in fixed {
                    overwrite(&mut object, &current, &wanted, pointer);
                }
                if object == current {
                    return Ok(());
                }
                (Vec::new(), Expect::Revision(entry.mod_revision))
            }
            None => {
                if let Some(metadata) = metadata_mut(&mut object) {
                    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
                    metadata.insert("creationTimestamp".into(), time::seconds(jiff::Timestamp::now()).into());
                }
                (prepare(api, kind, &mut object, &lost).await?, Expect::Absent)
            }
        };
        let value = object::encode(kind, object);
        ops.insert(0, Op::Put { key: key.as_str().into(), value, expect });
        match api.commit(ops).await {
            Ok(_) => return Ok(()),
            Err(StoreError::Conflict { key: taken, actual }) if *taken == *key => found = actual,
            Err(StoreError::Conflict { key: taken, .. }) => drop(lost.insert(taken.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::internal(format!("{key} is being changed faster than it can be put right")))
}

/// Takes `wanted`'s part at `pointer`, unless the current one says the same and more (defaults).
fn overwrite(object: &mut Value, current: &Value, wanted: &Value, pointer: &str) {
    let Some(part) = wanted.pointer(pointer) else { return };
    if current.pointer(pointer).is_some_and(|found| includes(found, part)) {
        return;
    }
    match object.pointer_mut(pointer) {
        Some(place) => *place = part.clone(),
        None => {
            if let Some((parent, field)) = pointer.rsplit_once('/')
                && let Some(parent) = object.pointer_mut(parent).and_then(Value::as_object_mut)
            {
                parent.insert(field.to_owned(), part.clone());
            }
        }
    }
}

fn includes(found: &Value, part: &Value) -> bool {
    match (found, part) {
        (Value::Object(found), Value::Object(part)) => {
            part.iter().all(|(key, value)| found.get(key).is_some_and(|found| includes(found, value)))
        }
        (Value::Array(found), Value::Array(part)) => {
            found.len() == part.len() && found.iter().zip(part).all(|(found, part)| includes(found, part))
        }
        (found, part) => found == part,
    }
}
