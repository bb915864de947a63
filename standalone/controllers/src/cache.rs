//! The one cache that all controllers share: which kinds are watched, what they are indexed by, what is dropped.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, Endpoints, Namespace, Node, PersistentVolumeClaim, Pod, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{Api, Client, Resource, ResourceExt};
use skerry_informer::{Kind, Narrow, Readers, Store, Term, reflect};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::loadbalancer;

/// Namespace of the nodes' leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Name of the ConfigMap with the cluster's CA, one in each namespace.
pub const ROOT_CA: &str = "kube-root-ca.crt";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Caches and writes of every kind that a controller reads.
pub struct Cache {
    pub pods: Kind<Pod>,
    pub replica_sets: Kind<ReplicaSet>,
    pub deployments: Kind<Deployment>,
    pub daemon_sets: Kind<DaemonSet>,
    pub stateful_sets: Kind<StatefulSet>,
    pub jobs: Kind<Job>,
    pub disruption_budgets: Kind<PodDisruptionBudget>,
    pub claims: Kind<PersistentVolumeClaim>,
    pub revisions: Kind<ControllerRevision>,
    pub services: Kind<Service>,
    pub slices: Kind<EndpointSlice>,
    pub endpoints: Kind<Endpoints>,
    pub service_cidrs: Kind<ServiceCIDR>,
    pub nodes: Kind<Node>,
    /// Only those of [`LEASE_NAMESPACE`].
    pub leases: Kind<Lease>,
    pub namespaces: Kind<Namespace>,
    pub service_accounts: Kind<ServiceAccount>,
    /// Only those named [`ROOT_CA`].
    pub root_cas: Kind<ConfigMap>,
    /// Only [`loadbalancer::CONFIG_NAME`].
    pub load_balancer_config: Kind<ConfigMap>,
}

impl Cache {
    pub fn new(client: &Client) -> Self {
        Self {
            pods: Kind::namespaced(client, Store::new(pod_terms, trim_pod)),
            replica_sets: Kind::namespaced(client, Store::new(owned_terms, trim)),
            deployments: Kind::namespaced(client, Store::new(owned_terms, trim)),
            daemon_sets: Kind::namespaced(client, Store::new(no_terms, trim)),
            stateful_sets: Kind::namespaced(client, Store::new(no_terms, trim)),
            jobs: Kind::namespaced(client, Store::new(no_terms, trim)),
            disruption_budgets: Kind::namespaced(client, Store::new(no_terms, trim)),
            claims: Kind::namespaced(client, Store::new(no_terms, trim)),
            revisions: Kind::namespaced(client, Store::new(owned_terms, trim)),
            services: Kind::namespaced(client, Store::new(service_terms, trim)),
            slices: Kind::namespaced(client, Store::new(slice_terms, trim)),
            service_cidrs: Kind::cluster(client, Store::new(no_terms, trim)),
            endpoints: Kind::namespaced(client, Store::new(no_terms, trim)),
            nodes: Kind::cluster(client, Store::new(no_terms, trim_node)),
            leases: Kind::namespaced(client, Store::new(no_terms, trim)),
            namespaces: Kind::cluster(client, Store::new(no_terms, trim)),
            service_accounts: Kind::namespaced(client, Store::new(no_terms, trim)),
            root_cas: Kind::namespaced(client, Store::new(no_terms, trim)),
            load_balancer_config: Kind::namespaced(client, Store::new(no_terms, trim)),
        }
    }

    /// Starts the watches; every listener must be registered by now.
    pub fn spawn(
        &self,
        client: &Client,
        readers: &Readers,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) {
        macro_rules! watch {
            ($kind:expr, $api:expr, $narrow:expr) => {
                tasks.spawn(reflect($api, $kind.store.clone(), $narrow, readers.clone(), shutdown.clone()))
            };
        }
        let all = Narrow::default;
        watch!(self.pods, Api::all(client.clone()), all());
        watch!(self.replica_sets, Api::all(client.clone()), all());
        watch!(self.deployments, Api::all(client.clone()), all());
        watch!(self.daemon_sets, Api::all(client.clone()), all());
        watch!(self.stateful_sets, Api::all(client.clone()), all());
        watch!(self.jobs, Api::all(client.clone()), all());
        watch!(self.disruption_budgets, Api::all(client.clone()), all());
        watch!(self.claims, Api::all(client.clone()), all());
        watch!(self.revisions, Api::all(client.clone()), all());
        watch!(self.services, Api::all(client.clone()), all());
        watch!(self.slices, Api::all(client.clone()), all());
        watch!(self.service_cidrs, Api::all(client.clone()), all());
        watch!(self.endpoints, Api::all(client.clone()), all());
        watch!(self.nodes, Api::all(client.clone()), all());
        watch!(self.leases, Api::namespaced(client.clone(), LEASE_NAMESPACE), all());
        watch!(self.namespaces, Api::all(client.clone()), all());
        watch!(self.service_accounts, Api::all(client.clone()), all());
        let root_ca = Narrow { fields: Some(format!("metadata.name={ROOT_CA}")), ..all() };
        watch!(self.root_cas, Api::all(client.clone()), root_ca);
        let config = Narrow { fields: Some(format!("metadata.name={}", loadbalancer::CONFIG_NAME)), ..all() };
        let namespace = loadbalancer::CONFIG_NAMESPACE;
        watch!(self.load_balancer_config, Api::namespaced(client.clone(), namespace), config);
    }

    /// Returns once every cache holds its first list: before that a decision would take "not listed yet" for "gone".
    pub async fn synced(&self) {
        self.pods.store.synced().await;
        self.replica_sets.store.synced().await;
        self.deployments.store.synced().await;
        self.daemon_sets.store.synced().await;
        self.stateful_sets.store.synced().await;
        self.jobs.store.synced().await;
        self.disruption_budgets.store.synced().await;
        self.claims.store.synced().await;
        self.revisions.store.synced().await;
        self.services.store.synced().await;
        self.slices.store.synced().await;
        self.service_cidrs.store.synced().await;
        self.endpoints.store.synced().await;
        self.nodes.store.synced().await;
        self.leases.store.synced().await;
        self.namespaces.store.synced().await;
        self.service_accounts.store.synced().await;
        self.root_cas.store.synced().await;
        self.load_balancer_config.store.synced().await;
    }
}

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
    terms
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

/// Controllers read of a container its name and ports; the rest (environment, probes, mounts) is most of a pod.
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
        spec.volumes = None;
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
