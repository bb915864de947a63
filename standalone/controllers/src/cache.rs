//! The one cache that all controllers share: which kinds are watched, what they are indexed by, what is
//! dropped.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Client, Resource, ResourceExt};
use skerry_informer::{Kind, Narrow, Readers, Store, Term, reflect};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::loadbalancer;

/// Namespace of the nodes' leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Name of the ConfigMap with the cluster's CA, one in each namespace.
pub const ROOT_CA: &str = "kube-root-ca.crt";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Which objects of a kind are watched.
#[derive(Clone, Copy, Default)]
struct Part {
    /// All namespaces when there is none.
    namespace: Option<&'static str>,
    /// All names when there is none.
    name: Option<&'static str>,
}

const ALL: Part = Part { namespace: None, name: None };

impl Part {
    const fn of(namespace: &'static str) -> Self {
        Self { namespace: Some(namespace), name: None }
    }

    const fn named(name: &'static str) -> Self {
        Self { namespace: None, name: Some(name) }
    }

    const fn one(namespace: &'static str, name: &'static str) -> Self {
        Self { namespace: Some(namespace), name: Some(name) }
    }

    fn narrow(self) -> Narrow {
        Narrow { fields: self.name.map(|name| format!("metadata.name={name}")), ..Narrow::default() }
    }
}

/// The cache's kinds, a line each: `NAME: KIND, SCOPE, which objects, what they are indexed by, what is
/// dropped of them`.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident: $kind:ty, $scope:ident, $part:expr, $terms:expr, $trim:expr;)*) => {
        /// Caches and writes of every kind that a controller reads.
        pub struct Cache {
            $($(#[$doc])* pub $name: Kind<$kind>,)*
        }

        impl Cache {
            pub fn new(client: &Client) -> Self {
                Self { $($name: Kind::$scope(client, Store::new($terms, $trim)),)* }
            }

            /// Starts the watches; every listener must be registered by now.
            pub fn spawn(&self, readers: &Readers, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
                $({
                    let part: Part = $part;
                    let api = self.$name.api(part.namespace.unwrap_or_default());
                    let store = self.$name.store.clone();
                    tasks.spawn(reflect(api, store, part.narrow(), readers.clone(), shutdown.clone()));
                })*
            }

            /// Returns once every cache holds its first list: before that a decision would take "not listed
            /// yet" for "gone".
            pub async fn synced(&self) {
                $(self.$name.store.synced().await;)*
            }
        }
    };
}

kinds! {
    pods: Pod, namespaced, ALL, pod_terms, trim_pod;
    replica_sets: ReplicaSet, namespaced, ALL, owned_terms, trim;
    replication_controllers: ReplicationController, namespaced, ALL, no_terms, trim;
    deployments: Deployment, namespaced, ALL, owned_terms, trim;
    daemon_sets: DaemonSet, namespaced, ALL, no_terms, trim;
    stateful_sets: StatefulSet, namespaced, ALL, no_terms, trim;
    jobs: Job, namespaced, ALL, owned_terms, trim;
    cron_jobs: CronJob, namespaced, ALL, no_terms, trim;
    disruption_budgets: PodDisruptionBudget, namespaced, ALL, no_terms, trim;
    claims: PersistentVolumeClaim, namespaced, ALL, no_terms, trim;
    volumes: PersistentVolume, cluster, ALL, volume_terms, trim;
    classes: StorageClass, cluster, ALL, no_terms, trim;
    revisions: ControllerRevision, namespaced, ALL, owned_terms, trim;
    services: Service, namespaced, ALL, service_terms, trim;
    slices: EndpointSlice, namespaced, ALL, slice_terms, trim;
    service_cidrs: ServiceCIDR, cluster, ALL, no_terms, trim;
    endpoints: Endpoints, namespaced, ALL, no_terms, trim;
    nodes: Node, cluster, ALL, no_terms, trim_node;
    leases: Lease, namespaced, Part::of(LEASE_NAMESPACE), no_terms, trim;
    namespaces: Namespace, cluster, ALL, no_terms, trim;
    service_accounts: ServiceAccount, namespaced, ALL, no_terms, trim;
    root_cas: ConfigMap, namespaced, Part::named(ROOT_CA), no_terms, trim;
    /// Of the load balancers' addresses.
    load_balancer_config: ConfigMap, namespaced, LOAD_BALANCER_CONFIG, no_terms, trim;
}

const LOAD_BALANCER_CONFIG: Part = Part::one(loadbalancer::CONFIG_NAMESPACE, loadbalancer::CONFIG_NAME);

fn no_terms<K>(_: &K) -> Vec<Term> {
    Vec::new()
}

fn owned_terms<K: Resource>(object: &K) -> Vec<Term> {
    let mut terms = label_terms(object);
    terms.extend(owner_term(object));
    terms
}

fn owner_term<K: Resource>(object: &K) -> Option<Term> {
    crate::owner::controller_of(object).map(|owner| Term::Owner(owner.uid.clone()))
}

fn label_terms<K: Resource>(object: &K) -> Vec<Term> {
    let namespace: Arc<str> = object.meta().namespace.as_deref().unwrap_or("").into();
    let term = |(key, value): (&String, &String)| Term::Label {
        namespace: namespace.clone(),
        key: key.clone(),
        value: value.clone(),
    };
    object.meta().labels.iter().flatten().map(term).collect()
}

fn pod_terms(pod: &Pod) -> Vec<Term> {
    let mut terms = owned_terms(pod);
    if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) {
        terms.push(Term::Node(node.clone()));
    }
    terms.extend(crate::volume::claims_of(pod).map(Term::Claim));
    terms
}

fn volume_terms(volume: &PersistentVolume) -> Vec<Term> {
    crate::volume::claimed(volume).map(Term::Claim).into_iter().collect()
}

/// One pair of its selector: enough to find the services of a pod by the pod's labels.
fn service_terms(service: &Service) -> Vec<Term> {
    let namespace: Arc<str> = service.metadata.namespace.as_deref().unwrap_or("").into();
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let pair = selector.and_then(|selector| selector.first_key_value());
    let term =
        |(key, value): (&String, &String)| Term::Label { namespace, key: key.clone(), value: value.clone() };
    pair.map(term).into_iter().collect()
}

fn slice_terms(slice: &EndpointSlice) -> Vec<Term> {
    let service = slice.labels().get(crate::endpointslice::SERVICE_NAME);
    let namespace: Arc<str> = slice.metadata.namespace.as_deref().unwrap_or("").into();
    service
        .map(|value| Term::Label {
            namespace,
            key: crate::endpointslice::SERVICE_NAME.into(),
            value: value.clone(),
        })
        .into_iter()
        .collect()
}

fn trim<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    if let Some(annotations) = &mut object.meta_mut().annotations {
        annotations.remove(LAST_APPLIED);
    }
}

/// Controllers read of a container its name and ports; the rest (environment, probes, mounts) is most of a
/// pod.
fn trim_pod(pod: &mut Pod) {
    trim(pod);
    // A DaemonSet's pod that is not bound yet says there for which node it is.
    let keeps_affinity = crate::owner::controller_of(pod).is_some_and(|owner| owner.kind == "DaemonSet");
    if let Some(spec) = &mut pod.spec {
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            *container = Container {
                name: std::mem::take(&mut container.name),
                ports: container.ports.take(),
                restart_policy: container.restart_policy.take(),
                ..Default::default()
            };
        }
        spec.ephemeral_containers = None;
        spec.volumes = spec.volumes.take().map(|mut volumes| {
            volumes.retain(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
            volumes
        });
        spec.affinity = spec.affinity.take().filter(|_| keeps_affinity);
        spec.image_pull_secrets = None;
        spec.security_context = None;
        spec.topology_spread_constraints = None;
    }
    if let Some(status) = &mut pod.status {
        let statuses = status.container_statuses.iter_mut().chain(&mut status.init_container_statuses);
        for container in statuses.flatten() {
            container.image.clear();
            container.image_id.clear();
            container.container_id = None;
            container.last_state = None;
            container.volume_mounts = None;
        }
    }
}

fn trim_node(node: &mut Node) {
    trim(node);
    if let Some(status) = &mut node.status {
        status.images = None;
    }
}
