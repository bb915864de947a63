//! What every part of the node agent shares.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use k8s_cri::v1;
use k8s_openapi::api::{
    core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, PodStatus, Secret},
    node::v1::RuntimeClass,
};
use tokio::sync::{broadcast, watch};

use crate::{
    Config,
    admission::{Ledger, sysctls},
    cri::{Cri, RuntimeSetup, events::RuntimeEvent},
    logs::Keeper,
    machine::Machine,
    objects::Objects,
    pods::{
        mailbox::Mailbox,
        resize::{Amounts, Room},
        timeline::Timeline,
    },
    recorder::Recorder,
    spec::{PodId, dns::ClusterDns, fields::Allocatable},
    stats::Sampler,
    volumes::LocalVolumes,
};

/// Exits that a slow reader of logs may be behind; beyond that it asks the runtime.
const EXITS: usize = 256;
/// Events of ids that nobody owns yet: a sandbox can end before its maker was told its id.
const STRAYS: usize = 256;

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
    pub claims: Objects<PersistentVolumeClaim>,
    pub volumes: Objects<PersistentVolume>,
    pub runtime_classes: Objects<RuntimeClass>,
    /// Variables of the API server's own Service, for every container.
    pub service_env: watch::Receiver<Option<BTreeMap<String, String>>>,
    /// Ids of containers that the runtime itself says have ended, for those who follow a log.
    pub exits: broadcast::Sender<String>,
    /// Sees to the logs of running containers.
    pub log_keeper: Keeper,
    /// What pods use, for those who ask.
    pub sampler: Sampler,
    /// By uid: the node's pods as the API server has them.
    pods: Mutex<BTreeMap<String, Arc<Pod>>>,
    /// Newest status of each pod by namespace and name.
    statuses: Mutex<HashMap<(String, String), Arc<PodStatus>>>,
    /// By uid: when what happened to the pods that are here.
    timelines: Mutex<HashMap<String, Timeline>>,
    /// By uid: what the node's pods have been given of its resources.
    given: Mutex<HashMap<String, Amounts>>,
    /// Which worker is told about a container or sandbox id.
    owners: Mutex<Owners>,
}

#[derive(Default)]
struct Owners {
    by_id: HashMap<String, Arc<Mailbox>>,
    strays: VecDeque<RuntimeEvent>,
}

impl Owners {
    fn own(&mut self, id: &str, mailbox: &Arc<Mailbox>) {
        self.by_id.insert(id.to_owned(), mailbox.clone());
        for event in self.strays.iter().filter(|event| event.container_id() == id) {
            mailbox.tell(|inbox| inbox.hear(event));
        }
        self.strays.retain(|event| event.container_id() != id);
    }

    fn heard(&mut self, event: RuntimeEvent) {
        if let Some(mailbox) = self.by_id.get(event.container_id()) {
            return mailbox.tell(|inbox| inbox.hear(&event));
        }
        self.strays.truncate(STRAYS - 1);
        self.strays.push_front(event);
    }
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
            claims: Objects::namespaced(parts.client.clone()),
            volumes: Objects::of_cluster(parts.client.clone()),
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
            log_keeper: Keeper::default(),
            sampler: Sampler::default(),
            pods: Mutex::default(),
            statuses: Mutex::default(),
            timelines: Mutex::default(),
            given: Mutex::default(),
            owners: Mutex::default(),
        }
    }

    /// From now on events of this id go to that worker, and those that came before it was known.
    pub fn own(&self, id: &str, mailbox: &Arc<Mailbox>) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).own(id, mailbox);
    }

    pub fn disown(&self, id: &str) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).by_id.remove(id);
    }

    /// Hands an event to the worker that owns its id.
    pub fn heard(&self, event: RuntimeEvent) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).heard(event);
    }

    /// A pod of the node as it is by now; `None` once it has left.
    pub fn note_pod(&self, uid: &str, pod: Option<Arc<Pod>>) {
        self.note_first_sight(uid, pod.as_deref());
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        match pod {
            Some(pod) => _ = pods.insert(uid.to_owned(), pod),
            None => _ = pods.remove(uid),
        }
    }

    /// One that has begun was seen before, by an agent that has ended since.
    fn note_first_sight(&self, uid: &str, pod: Option<&Pod>) {
        let mut timelines = self.timelines.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pod) = pod else {
            timelines.remove(uid);
            return;
        };
        let has_begun = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        timelines.entry(uid.to_owned()).or_insert_with(|| Timeline {
            seen: (!has_begun).then(jiff::Timestamp::now),
            ..Timeline::default()
        });
    }

    /// Writes down when something happened to a pod that is here.
    pub fn note_time(&self, uid: &str, note: impl FnOnce(&mut Timeline)) {
        let mut timelines = self.timelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(timeline) = timelines.get_mut(uid) {
            note(timeline);
        }
    }

    /// When what happened to the pod; `None`: it is not here.
    pub fn timeline(&self, uid: &str) -> Option<Timeline> {
        self.timelines.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// The node's pods, each with the status that the node has worked out.
    pub fn pods(&self) -> Vec<(Arc<Pod>, Option<Arc<PodStatus>>)> {
        let pods: Vec<Arc<Pod>> =
            self.pods.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        let with_status = |pod: Arc<Pod>| {
            let PodId { namespace, name, .. } = PodId::of(&pod);
            let status = statuses.get(&(namespace, name)).cloned();
            (pod, status)
        };
        pods.into_iter().map(with_status).collect()
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

    /// What a pod has been given of the node's resources; `None` once it needs them no more.
    pub fn note_given(&self, uid: &str, amounts: Option<Amounts>) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        match amounts {
            Some(amounts) => _ = given.insert(uid.to_owned(), amounts),
            None => _ = given.remove(uid),
        }
    }

    /// What the node has for this pod and the others.
    pub fn room(&self, uid: &str) -> Room {
        let allocatable = self.allocatable();
        let mut room = Room {
            allocatable: Amounts {
                cpu_millis: allocatable.cpu_millis.into(),
                memory_bytes: allocatable.memory_bytes.into(),
            },
            used: Amounts::default(),
        };
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, amounts) in given.iter().filter(|(other, _)| *other != uid) {
            room.used.cpu_millis += amounts.cpu_millis;
            room.used.memory_bytes += amounts.memory_bytes;
        }
        room
    }

    /// Why a container does not run yet, or not again yet.
    pub fn waiting_reason(&self, namespace: &str, pod: &str, container: &str) -> Option<String> {
        let key = (namespace.to_owned(), pod.to_owned());
        let status = self.statuses.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()?;
        let others = status.init_container_statuses.iter().chain(&status.ephemeral_container_statuses);
        let all = status.container_statuses.iter().chain(others).flatten();
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

    /// The volumes that are folders of this node.
    pub fn local_volumes(&self) -> LocalVolumes {
        LocalVolumes { node: self.config.node_name.clone(), folder: self.config.local_volumes_dir.clone() }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::memory::Expected;

    #[test]
    fn an_end_that_comes_before_its_owner_is_told_to_it() {
        let (mut owners, mailbox) = (Owners::default(), Arc::new(Mailbox::default()));
        let exit = |id: &str| RuntimeEvent::Exit { container_id: id.to_owned() };
        owners.heard(exit("s0"));
        (0..STRAYS * 2).for_each(|id| owners.heard(exit(&format!("other{id}"))));
        assert_eq!(owners.strays.len(), STRAYS);
        owners.own("s0", &mailbox);
        assert!(mailbox.take().changed.is_empty(), "too long ago");
        owners.heard(exit("s1"));
        owners.heard(RuntimeEvent::Oom { container_id: "s1".to_owned() });
        owners.own("s1", &mailbox);
        assert_eq!(mailbox.take().changed["s1"], Expected { end: true, oom: true });
        owners.heard(exit("s1"));
        assert_eq!(mailbox.take().changed["s1"], Expected::END);
    }
}
