//! The ConfigMaps, Secrets, claims and the RuntimeClass that one pod names, kept live.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Container, PersistentVolume, PersistentVolumeClaim, Pod, Secret},
    node::v1::RuntimeClass,
};
use skerry_informer::volume::{claim_names, own_claim_names};
use tokio::{sync::watch, task::JoinSet};

use super::mailbox::Mailbox;
use crate::{
    agent::Agent,
    objects::{Known, Watched},
    spec::{PodId, env::References, ephemeral},
    volumes::bound,
};

/// How long a start waits for objects that were not read yet; their arrival starts it again.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// Live views of what the pod names, with a task that tells its worker of changes.
pub struct PodObjects {
    config_maps: Vec<(String, Arc<Watched<ConfigMap>>)>,
    secrets: Vec<(String, Arc<Watched<Secret>>)>,
    claims: Vec<(String, Arc<Watched<PersistentVolumeClaim>>)>,
    /// Of claims that are bound, by the volume's name.
    volumes: Mutex<BTreeMap<String, Arc<Watched<PersistentVolume>>>>,
    runtime_class: Option<Arc<Watched<RuntimeClass>>>,
    names: Names,
    tasks: JoinSet<()>,
}

/// By kind; what is optional is watched too, since it may come later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
    pub claims: BTreeSet<String>,
    /// Those of them that are made for this pod alone, and its name and uid.
    pub own: (BTreeSet<String>, String, String),
    pub runtime_class: Option<String>,
}

impl PodObjects {
    pub fn new(agent: &Agent, pod: &Pod, mailbox: &Arc<Mailbox>) -> PodObjects {
        let mut objects = PodObjects {
            config_maps: Vec::new(),
            secrets: Vec::new(),
            claims: Vec::new(),
            volumes: Mutex::default(),
            runtime_class: None,
            names: Names::default(),
            tasks: JoinSet::new(),
        };
        objects.follow(agent, pod, mailbox);
        objects
    }

    /// Watches what the pod names now (ephemeral changes of a pod can hardly add names, but a new image's
    /// spec is new).
    pub fn follow(&mut self, agent: &Agent, pod: &Pod, mailbox: &Arc<Mailbox>) {
        let names = names(pod);
        if names == self.names {
            return;
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        self.tasks = JoinSet::new();
        let map = |name: &String| (name.clone(), agent.config_maps.watch(namespace, name));
        self.config_maps = names.config_maps.iter().map(map).collect();
        let secret = |name: &String| (name.clone(), agent.secrets.watch(namespace, name));
        self.secrets = names.secrets.iter().map(secret).collect();
        let claim = |name: &String| (name.clone(), agent.claims.watch(namespace, name));
        self.claims = names.claims.iter().map(claim).collect();
        self.runtime_class = names.runtime_class.as_ref().map(|name| agent.runtime_classes.watch("", name));
        if let Some(watched) = &self.runtime_class {
            self.tasks.spawn(tell(watched.subscribe(), mailbox.clone()));
        }
        for (_, watched) in &self.config_maps {
            self.tasks.spawn(tell(watched.subscribe(), mailbox.clone()));
        }
        for (_, watched) in &self.secrets {
            self.tasks.spawn(tell(watched.subscribe(), mailbox.clone()));
        }
        for (_, watched) in &self.claims {
            self.tasks.spawn(tell(watched.subscribe(), mailbox.clone()));
        }
        self.names = names;
    }

    /// The pod's RuntimeClass; the text says why it can't be had (upstream's for one that is not there).
    pub async fn runtime_class(&self, name: &str) -> Result<Arc<RuntimeClass>, String> {
        let known = match &self.runtime_class {
            Some(watched) => settled(watched).await,
            None => Known::Absent,
        };
        match known {
            Known::Present(class) => Ok(class),
            Known::Absent => Err(format!("runtimeclass.node.k8s.io {name:?} not found")),
            Known::Failed(text) => Err(format!("failed to lookup RuntimeClass {name}: {text}")),
            Known::Loading => Err(format!("failed to lookup RuntimeClass {name}: not read in time")),
        }
    }

    /// What exists of it, once each object has been read or `READ_LIMIT` is over.
    pub async fn references(&self, agent: &Agent) -> References {
        let mut references = References::default();
        for (name, watched) in &self.config_maps {
            if let Some(map) = read(watched).await {
                references.config_maps.insert(name.clone(), map);
            }
        }
        for (name, watched) in &self.secrets {
            if let Some(secret) = read(watched).await {
                references.secrets.insert(name.clone(), secret);
            }
        }
        for (name, watched) in &self.claims {
            references.claims.insert(name.clone(), self.volume(agent, name, watched).await);
        }
        references
    }

    /// The volume that a claim is bound to; the text says why there is none.
    async fn volume(
        &self,
        agent: &Agent,
        name: &str,
        claim: &Watched<PersistentVolumeClaim>,
    ) -> Result<Arc<PersistentVolume>, String> {
        let claim = match settled(claim).await {
            Known::Present(claim) => claim,
            Known::Absent => return Err("it is not found".to_owned()),
            Known::Failed(text) => return Err(format!("failed to fetch PVC from API server: {text}")),
            Known::Loading => return Err("it is not read in time".to_owned()),
        };
        let (own, pod, uid) = &self.names.own;
        if own.contains(name) {
            skerry_informer::volume::is_own(&claim, pod, uid)?;
        }
        let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
        let mut volume = Known::Absent;
        if skerry_informer::volume::is_bound(&claim) {
            let watched = {
                let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
                volumes.entry(name.clone()).or_insert_with(|| agent.volumes.watch("", &name)).clone()
            };
            volume = settled(&watched).await;
            if !matches!(volume, Known::Present(_)) {
                // Its right to read it came with the binding, perhaps after the first try: the next is a new
                // one.
                self.volumes.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            }
        }
        let volume = match volume {
            Known::Present(volume) => Some(volume),
            Known::Failed(text) => return Err(format!("failed to fetch PV {name} from API server: {text}")),
            Known::Absent | Known::Loading => None,
        };
        bound(&claim, volume.as_deref()).map_err(str::to_owned)?;
        volume.ok_or_else(|| "PVC is not bound".to_owned())
    }
}

async fn read<K: Clone>(watched: &Watched<K>) -> Option<Arc<K>> {
    match settled(watched).await {
        Known::Present(object) => Some(object),
        Known::Failed(text) => {
            tracing::warn!(error = text, "object of a pod not read");
            None
        }
        Known::Loading | Known::Absent => None,
    }
}

/// What is known of it once it has been read, or `READ_LIMIT` is over.
async fn settled<K: Clone>(watched: &Watched<K>) -> Known<K> {
    let mut known = watched.subscribe();
    let read = known.wait_for(|known| !matches!(known, Known::Loading));
    match tokio::time::timeout(READ_LIMIT, read).await {
        Ok(Ok(known)) => known.clone(),
        _ => Known::Loading,
    }
}

async fn tell<K: Debug>(mut known: watch::Receiver<Known<K>>, mailbox: Arc<Mailbox>) {
    // The first reading is awaited by the start itself.
    if known.wait_for(|known| !matches!(known, Known::Loading)).await.is_err() {
        return;
    }
    known.mark_unchanged();
    while known.changed().await.is_ok() {
        mailbox.tell(|inbox| inbox.objects_changed = true);
    }
}

/// Everything that environment, volumes and pulls of the pod refer to.
pub fn names(pod: &Pod) -> Names {
    let mut names = Names::default();
    let Some(spec) = &pod.spec else { return names };
    names.claims.extend(claim_names(pod));
    let own: BTreeSet<String> = own_claim_names(pod).collect();
    if !own.is_empty() {
        let id = PodId::of(pod);
        names.own = (own, id.name, id.uid);
    }
    let pulls = spec.image_pull_secrets.iter().flatten();
    names.secrets.extend(pulls.map(|secret| secret.name.clone()));
    names.runtime_class = spec.runtime_class_name.clone().filter(|name| !name.is_empty());
    let ephemeral: Vec<Container> = ephemeral::containers(pod).collect();
    let others = spec.init_containers.iter().flatten().chain(&ephemeral);
    for container in spec.containers.iter().chain(others) {
        for source in container.env_from.iter().flatten() {
            names.config_maps.extend(source.config_map_ref.iter().map(|reference| reference.name.clone()));
            names.secrets.extend(source.secret_ref.iter().map(|reference| reference.name.clone()));
        }
        for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            names.config_maps.extend(from.config_map_key_ref.iter().map(|reference| reference.name.clone()));
            names.secrets.extend(from.secret_key_ref.iter().map(|reference| reference.name.clone()));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        names.config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        names.secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for source in sources {
            names.config_maps.extend(source.config_map.iter().map(|map| map.name.clone()));
            names.secrets.extend(source.secret.iter().map(|secret| secret.name.clone()));
        }
    }
    names
}
