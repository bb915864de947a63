//! A ClusterIP in use is an IPAddress object of that name (KEP-1880): one more of it cannot be made.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use futures::StreamExt;
use serde_json::{Value, json};
use skerry_store::{Change, Expect, Op, Range, StoreError, WatchItem};
use skerry_vocabulary::time;

use super::Held;
use crate::{
    api::{self, Api, built_in},
    bootstrap::RETRY_PAUSE,
    error::ApiError,
    object::{self, text},
};

/// Where addresses in use stood before they were objects.
const FORMER_PREFIX: &str = "/claims/service-ips/";
/// Writes of one transaction.
const BATCH: usize = 100;

/// Where the objects stand, with a trailing slash.
pub fn prefix() -> Result<String, ApiError> {
    Ok(object::prefix(built_in("networking.k8s.io", "v1", "ipaddresses")?, ""))
}

/// The write that takes an address for a Service, if nobody has it.
pub fn take(ip: &str, namespace: &str, service: &str) -> Result<Op, ApiError> {
    let kind = built_in("networking.k8s.io", "v1", "ipaddresses")?;
    let family = if ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) { "IPv6" } else { "IPv4" };
    let object = json!({
        "metadata": {
            "name": ip, "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": time::seconds(jiff::Timestamp::now()),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": family,
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": service}},
    });
    let key = object::key(kind, "", ip);
    Ok(Op::Put { key: key.into(), value: object::encode(kind, object), expect: Expect::Absent })
}

/// Makes the objects that Services' addresses lack: those of a store that an older version wrote, and those
/// that somebody deleted while no server ran.
pub async fn repair(api: &Api) -> Result<(), ApiError> {
    let kind = built_in("", "v1", "services")?;
    let list = async |prefix: String| api.store.list(Range { prefix, ..Range::default() }).await;
    let prefix = prefix()?;
    let objects = list(prefix.clone()).await?;
    let there: HashSet<&str> =
        objects.entries.iter().filter_map(|entry| entry.key.strip_prefix(&prefix)).collect();
    for entry in &list(object::prefix(kind, "")).await?.entries {
        let service = api::parse(kind, entry)?;
        if Held::by(&service).ips.iter().any(|ip| !there.contains(ip.as_str())) {
            put_back(api, &service).await?;
        }
    }
    let former = list(FORMER_PREFIX.to_owned()).await?;
    for batch in former.entries.chunks(BATCH) {
        let gone = batch.iter().map(|entry| Op::Delete { key: entry.key.clone(), expect: Expect::Any });
        api.commit(gone.collect()).await?;
    }
    Ok(())
}

async fn put_back(api: &Api, service: &Value) -> Result<(), ApiError> {
    for ip in Held::by(service).ips {
        let take = take(&ip, text(service, "/metadata/namespace"), object::name(service))?;
        match api.commit(vec![take]).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Puts an object back that is deleted while a Service has the address.
pub async fn guard(api: Arc<Api>) {
    while !api.shutdown.is_cancelled() {
        if let Err(error) = guard_once(&api).await {
            tracing::warn!(%error, "the addresses in use could not be watched");
        }
        // The watch fell behind, or the store has failed: look again, but not at full speed.
        tokio::select! {
            () = api.shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY_PAUSE) => {}
        }
        if let Err(error) = repair(&api).await {
            tracing::warn!(%error, "the addresses in use could not be gone through");
        }
    }
}

async fn guard_once(api: &Api) -> Result<(), ApiError> {
    let addresses = built_in("networking.k8s.io", "v1", "ipaddresses")?;
    let services = built_in("", "v1", "services")?;
    let mut changes = api.store.watch(&prefix()?, api.store.revision())?;
    loop {
        let change = tokio::select! {
            () = api.shutdown.cancelled() => return Ok(()),
            item = changes.next() => match item {
                Some(WatchItem::Change(change)) => change,
                Some(WatchItem::Progress(_)) => continue,
                Some(WatchItem::Lagged) | None => return Ok(()),
            },
        };
        let Change::Delete { previous, .. } = &*change else { continue };
        let parent = api::parse(addresses, previous)?;
        let parent = &parent["spec"]["parentRef"];
        let service = object::key(services, text(parent, "/namespace"), text(parent, "/name"));
        if let Some(entry) = api.store.get(&service).await? {
            put_back(api, &api::parse(services, &entry)?).await?;
        }
    }
}
