//! What `/metrics` shows, by upstream's names: requests, how long they took, what is being watched, what the
//! store holds.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{
        TypedMetric,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::Registry,
};
use skerry_schema::{Kind, find};
use skerry_store::{Range, Store, StoreError};

use crate::{
    config::Readiness,
    request::{ResourceRequest, Target, Verb},
};

/// The form that metrics are written in.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in seconds.
const DURATIONS_S: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0];
/// Entries that are counted between two looks at the store.
const STORE_PAGE: usize = 5_000;

/// Paths that are no resources and have a row of their own; the rest share one.
const PATHS: &[(&str, &str)] = &[
    ("api", "/api"),
    ("apis", "/apis"),
    ("healthz", "/healthz"),
    ("livez", "/livez"),
    ("metrics", "/metrics"),
    ("openapi", "/openapi"),
    ("readyz", "/readyz"),
    ("skerry", "/skerry"),
    ("version", "/version"),
];

/// What a request is counted under. All values come from tables of ours: a client can't make rows at will.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct Route {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    /// `cluster`, `namespace` or `resource` (one object).
    scope: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Answered {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    code: u32,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Stored {
    group: String,
    resource: String,
}

impl Route {
    pub fn of(method: &http::Method, target: Option<&Target>) -> Self {
        match target {
            Some(Target::Resource(request)) => {
                match find(&request.group, &request.version, &request.resource) {
                    Some(kind) => Self::of_resource(kind, request),
                    None => Self::of_path(method, ""),
                }
            }
            Some(Target::Path(segments)) => {
                let first = segments.first().map_or("", String::as_str);
                let path = PATHS.iter().find(|(segment, _)| *segment == first).map_or("", |(_, path)| path);
                Self::of_path(method, path)
            }
            Some(Target::UnknownMethod) | None => Self::of_path(method, ""),
        }
    }

    fn of_resource(kind: &'static Kind, request: &ResourceRequest) -> Self {
        let subresource = kind.subresource(&request.subresource).map_or("", |sub| sub.name);
        let is_list = matches!(request.verb, Verb::List | Verb::Watch);
        Self {
            verb: verb(request.verb),
            group: kind.group,
            version: kind.version,
            resource: kind.plural,
            subresource,
            scope: if !request.name.is_empty() && !is_list {
                "resource"
            } else if request.namespace.is_empty() {
                "cluster"
            } else {
                "namespace"
            },
        }
    }

    fn of_path(method: &http::Method, path: &'static str) -> Self {
        let verb = match *method {
            http::Method::GET | http::Method::HEAD => "GET",
            http::Method::POST => "POST",
            _ => "other",
        };
        Self { verb, group: "", version: "", resource: "", subresource: path, scope: "" }
    }
}

/// As upstream's metrics name it.
fn verb(verb: Verb) -> &'static str {
    match verb {
        Verb::List => "LIST",
        Verb::Watch => "WATCH",
        Verb::DeleteCollection => "DELETECOLLECTION",
        other => other.method(),
    }
}

/// What the parts beside the API server could not read.
#[derive(Debug)]
struct Unreadable(Readiness);

impl Collector for Unreadable {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let help = "Revisions of objects that a part of the server could not read";
        let kind = ConstCounter::<u64>::TYPE;
        let mut metric = encoder.encode_descriptor("skerry_unreadable_objects", help, None, kind)?;
        for (part, count) in self.0.unreadable() {
            ConstCounter::new(count).encode(metric.encode_family(&[("part", part)])?)?;
        }
        Ok(())
    }
}

pub struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    durations: Family<Route, Histogram>,
    long_running: Family<Route, Gauge>,
    objects: Family<Stored, Gauge>,
    bytes: Family<Stored, Gauge>,
    revision: Gauge<u64, AtomicU64>,
}

impl Metrics {
    pub fn new(beside: Readiness) -> Self {
        let durations = Family::new_with_constructor((|| Histogram::new(DURATIONS_S)) as fn() -> Histogram);
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            durations,
            long_running: Family::default(),
            objects: Family::default(),
            bytes: Family::default(),
            revision: Gauge::default(),
        };
        metrics.registry.register_collector(Box::new(Unreadable(beside)));
        let registry = metrics.registry.sub_registry_with_prefix("apiserver");
        registry.register(
            "request",
            "Requests by what they asked for and the code of the answer",
            metrics.requests.clone(),
        );
        registry.register(
            "request_duration_seconds",
            "From a request's head to its answer's; watches and streams are left out",
            metrics.durations.clone(),
        );
        registry.register(
            "longrunning_requests",
            "Watches and log streams under way",
            metrics.long_running.clone(),
        );
        registry.register("resource_objects", "Objects in the store", metrics.objects.clone());
        registry.register(
            "resource_size_estimate_bytes",
            "Bytes of the stored objects",
            metrics.bytes.clone(),
        );
        registry.register("storage_revision", "The newest revision of the store", metrics.revision.clone());
        metrics
    }

    pub fn answered(&self, route: Route, code: u16, took: Option<Duration>) {
        let Route { verb, group, version, resource, subresource, scope } = route;
        let code = code.into();
        let answered = Answered { verb, group, version, resource, subresource, scope, code };
        self.requests.get_or_create(&answered).inc();
        if let Some(took) = took {
            self.durations.get_or_create(&route).observe(took.as_secs_f64());
        }
    }

    /// Counts a long-running request until the answer is dropped.
    pub fn begin_long_running(&self, route: Route) -> UnderWay {
        let gauge = self.long_running.get_or_create_owned(&route);
        gauge.inc();
        UnderWay(gauge)
    }

    /// The text of a scrape. Reads the whole store, page by page.
    pub async fn text(&self, store: &dyn Store) -> Result<String, StoreError> {
        self.read_store(store).await?;
        let mut text = String::new();
        // Writing to a String cannot fail.
        encode(&mut text, &self.registry).ok();
        Ok(text)
    }

    async fn read_store(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mut sizes: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        let mut range = Range { prefix: "/registry/".into(), limit: STORE_PAGE, ..Range::default() };
        loop {
            let listing = store.list(range.clone()).await?;
            for entry in &listing.entries {
                let resource = entry.key.split('/').nth(2).unwrap_or_default();
                let bytes = i64::try_from(entry.value.len()).unwrap_or(i64::MAX);
                match sizes.get_mut(resource) {
                    Some((objects, sum)) => {
                        *objects += 1;
                        *sum += bytes;
                    }
                    None => drop(sizes.insert(resource.to_owned(), (1, bytes))),
                }
            }
            range.revision = Some(listing.revision);
            range.after = listing.entries.last().map(|entry| entry.key.to_string());
            if listing.remaining == 0 || range.after.is_none() {
                self.revision.inner().store(listing.revision, Ordering::Relaxed);
                break;
            }
        }
        self.objects.clear();
        self.bytes.clear();
        for (storage, (objects, bytes)) in sizes {
            let (resource, group) = storage.split_once('.').unwrap_or((storage.as_str(), ""));
            let label = Stored { group: group.to_owned(), resource: resource.to_owned() };
            self.objects.get_or_create(&label).set(objects);
            self.bytes.get_or_create(&label).set(bytes);
        }
        Ok(())
    }
}

/// A long-running request that is counted.
pub struct UnderWay(Gauge);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_part_could_not_read_is_counted_beside_the_servers_own() {
        let parts =
            Readiness::default().with_unreadable("controllers", || 7).with_unreadable("scheduler", || 0);
        let metrics = Metrics::new(parts);
        let mut text = String::new();
        encode(&mut text, &metrics.registry).unwrap();
        for line in [
            "skerry_unreadable_objects_total{part=\"controllers\"} 7",
            "skerry_unreadable_objects_total{part=\"scheduler\"} 0",
            "# TYPE apiserver_storage_revision gauge",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} in {text}");
        }
    }
}
