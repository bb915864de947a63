//! What every part of the node agent shares.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use k8s_cri::v1;
use k8s_openapi::api::{
    core::v1::{ConfigMap, PodStatus, Secret},
    node::v1::RuntimeClass,
};
use tokio::sync::{broadcast, watch};

use crate::{
    Config,
    admission::{Ledger, sysctls},
    cri::{Cri, RuntimeSetup},
    machine::Machine,
    objects::Objects,
    pods::mailbox::Mailbox,
    recorder::Recorder,
    spec::{PodId, dns::ClusterDns, fields::Allocatable},
};

/// Exits that a slow reader of logs may be behind; beyond that it asks the runtime.
const EXITS: usize = 256;

pub struct Agent {
    pub config: Config,
    pub cri: Cri,
    pub client: kube::Client,
    pub recorder: Recorder,
    pub machine: Machine,
    pub runtime: RuntimeSetup,
    /// Kernel parameters that pods may set here.
    pub sysctls: sysctls::Allowed,
    /// The pods that the node has taken.
    pub ledger: Ledger,
    pub config_maps: Objects<ConfigMap>,
    pub secrets: Objects<Secret>,
    pub runtime_classes: Objects<RuntimeClass>,
    /// Variables of the API server's own Service, for every container.
    pub service_env: watch::Receiver<Option<BTreeMap<String, String>>>,
    /// Ids of containers that the runtime itself says have ended, for those who follow a log.
    pub exits: broadcast::Sender<String>,
    /// Newest status of each pod by namespace and name.
    statuses: Mutex<HashMap<(String, String), Arc<PodStatus>>>,
    /// Which worker is told about a container or sandbox id.
    owners: Mutex<HashMap<String, Arc<Mailbox>>>,
}

/// The parts of an [`Agent`] that are made elsewhere.
pub struct AgentParts {
    pub config: Config,
    pub cri: Cri,
    pub client: kube::Client,
    pub recorder: Recorder,
    pub machine: Machine,
    pub runtime: RuntimeSetup,
    pub sysctls: sysctls::Allowed,
    pub service_env: watch::Receiver<Option<BTreeMap<String, String>>>,
}

impl Agent {
    pub fn new(parts: AgentParts) -> Agent {
        Agent {
            config_maps: Objects::namespaced(parts.client.clone()),
            secrets: Objects::namespaced(parts.client.clone()),
            runtime_classes: Objects::of_cluster(parts.client.clone()),
            ledger: Ledger::default(),
            config: parts.config,
            cri: parts.cri,
            client: parts.client,
            recorder: parts.recorder,
            machine: parts.machine,
            runtime: parts.runtime,
            sysctls: parts.sysctls,
            service_env: parts.service_env,
            exits: broadcast::channel(EXITS).0,
            statuses: Mutex::default(),
            owners: Mutex::default(),
        }
    }

    /// From now on events of this id go to that worker.
    pub fn own(&self, id: &str, mailbox: &Arc<Mailbox>) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), mailbox.clone());
    }

    pub fn disown(&self, id: &str) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub fn owner(&self, id: &str) -> Option<Arc<Mailbox>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// What the pod's status is by now; `None` once it has left the node.
    pub fn note_status(&self, id: &PodId, status: Option<Arc<PodStatus>>) {
        let key = (id.namespace.clone(), id.name.clone());
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        match status {
            Some(status) => _ = statuses.insert(key, status),
            None => _ = statuses.remove(&key),
        }
    }

    /// Why a container does not run yet, or not again yet.
    pub fn waiting_reason(&self, namespace: &str, pod: &str, container: &str) -> Option<String> {
        let key = (namespace.to_owned(), pod.to_owned());
        let status = self.statuses.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()?;
        let all =
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
        let found = all.into_iter().find(|status| status.name == container)?;
        found.state.as_ref()?.waiting.as_ref()?.reason.clone()
    }

    pub fn allocatable(&self) -> Allocatable {
        let reserved = &self.config.reserved;
        Allocatable {
            cpu_millis: self.machine.cpu_millis.saturating_sub(reserved.cpu_millis),
            memory_bytes: self.machine.memory_bytes.saturating_sub(reserved.memory_bytes),
        }
    }

    pub fn cluster_dns(&self) -> ClusterDns {
        ClusterDns { servers: self.config.cluster_dns.clone(), domain: self.config.cluster_domain.clone() }
    }

    /// The node's own resolver settings, read anew each time: they change with the network.
    pub fn host_dns(&self) -> v1::DnsConfig {
        let text = std::fs::read_to_string(&self.config.resolv_conf).unwrap_or_default();
        crate::spec::dns::parse_resolv_conf(&text)
    }
}
