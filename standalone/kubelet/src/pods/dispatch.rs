//! Hands pods and the runtime's events to the pods' workers.
//!
//! Pods come from their sources (`source`), events from containerd's stream. After each (re)subscription, and
//! every few minutes as a safety net, the runtime is listed once and the workers compare.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    admit::taken_before,
    mailbox::Mailbox,
    source::{self, Intake, News, Told},
    worker::Worker,
};
use crate::{
    agent::Agent,
    cri::{
        ListedPod, PodRuntime,
        events::{Events, RuntimeEvent},
        labels,
    },
};

/// Runtime events that wait for the dispatcher.
const EVENT_QUEUE: usize = 1024;
const RESUBSCRIBE: Duration = Duration::from_millis(100);
const LAST_RESUBSCRIBE: Duration = Duration::from_secs(5);

/// After a subscription the runtime is listed once more: an exit just before it gave no event, and CRI's own
/// status may not have told of it yet in the first list.
const SETTLE: Duration = Duration::from_secs(1);

enum FromRuntime {
    Event(RuntimeEvent),
    /// The whole state by pod uid.
    Listed(HashMap<String, ListedPod>),
}

/// Runs until shutdown; pods run on after it.
pub async fn run(agent: Arc<Agent>, shutdown: CancellationToken) {
    let (sender, mut from_runtime) = mpsc::channel(EVENT_QUEUE);
    let mut tasks = JoinSet::new();
    tasks.spawn(follow_runtime(agent.clone(), sender));
    let intake = Intake::of(1);
    let (client, node_name) = (agent.client.clone(), agent.config.node_name.clone());
    let (bound, ended) = (intake.clone(), shutdown.clone());
    tasks.spawn(async move { source::bound(client, &node_name, bound, ended).await });
    let mut dispatcher = Dispatcher {
        agent,
        workers: HashMap::new(),
        running: JoinSet::new(),
        by_task: HashMap::new(),
        held_back: Vec::new(),
        listed: None,
        synced: false,
        shutdown: shutdown.clone(),
    };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            news = intake.told() => dispatcher.news(news),
            message = from_runtime.recv() => match message {
                Some(message) => dispatcher.runtime(message),
                None => break,
            },
            Some(ended) = dispatcher.running.join_next_with_id() => dispatcher.ended(ended),
            // Half an agent that runs is worse than one that its supervisor starts afresh.
            Some(Err(error)) = tasks.join_next() => if error.is_panic() {
                std::panic::resume_unwind(error.into_panic());
            },
        }
    }
    // Workers stop between two steps; what is under way in the runtime goes on there.
    while dispatcher.running.join_next().await.is_some() {}
}

struct Dispatcher {
    agent: Arc<Agent>,
    workers: HashMap<String, Arc<Mailbox>>,
    running: JoinSet<()>,
    by_task: HashMap<tokio::task::Id, String>,
    /// Pods that came before the runtime was listed for the first time, or before the sources had told of all
    /// others.
    held_back: Vec<Arc<Pod>>,
    /// The runtime's state at start, taken from by each worker; `None` until it was listed.
    listed: Option<HashMap<String, ListedPod>>,
    /// Every source has told of all its pods once.
    synced: bool,
    shutdown: CancellationToken,
}

impl Dispatcher {
    fn news(&mut self, news: News) {
        // What ends makes room for what comes.
        let (wanted, gone): (Vec<_>, Vec<_>) =
            news.pods.into_iter().partition(|(_, told)| matches!(told, Told::Wanted(_)));
        for (uid, _) in gone {
            self.held_back.retain(|held| held.metadata.uid.as_deref() != Some(&uid));
            self.gone(&uid);
        }
        for (_, told) in wanted {
            if let Told::Wanted(pod) = told {
                self.apply(pod);
            }
        }
        if news.is_complete && !self.synced {
            self.synced = true;
            self.start_held_back();
            self.adopt_orphans();
        }
    }

    fn apply(&mut self, pod: Arc<Pod>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            self.agent.ledger.release(&uid);
        }
        self.agent.note_pod(&uid, Some(pod.clone()));
        if let Some(mailbox) = self.workers.get(&uid) {
            self.agent.ledger.follow(&pod);
            mailbox.tell(|inbox| inbox.pod = Some(pod));
            return;
        }
        match &mut self.listed {
            Some(listed) if self.synced => {
                let runtime = listed.remove(&uid).unwrap_or_default().runtime;
                self.start(pod, runtime, false);
            }
            _ => {
                self.held_back.retain(|held| held.metadata.uid != pod.metadata.uid);
                self.held_back.push(pod);
            }
        }
    }

    /// Starts what was held back once both sides have been heard in full: first what the node took before,
    /// since the rest is judged beside it, then the older before the younger.
    fn start_held_back(&mut self) {
        let Some(listed) = self.listed.as_ref().filter(|_| self.synced) else { return };
        let mut pods = std::mem::take(&mut self.held_back);
        let nothing = PodRuntime::default();
        pods.sort_by_key(|pod| {
            let held = listed.get(pod.metadata.uid.as_deref().unwrap_or_default());
            let taken = taken_before(pod, held.map_or(&nothing, |held| &held.runtime));
            (!taken, pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
        });
        for pod in pods {
            self.apply(pod);
        }
    }

    fn gone(&self, uid: &str) {
        self.agent.ledger.release(uid);
        match self.workers.get(uid) {
            Some(mailbox) => mailbox.tell(|inbox| inbox.gone = true),
            None => self.agent.note_pod(uid, None),
        }
    }

    fn start(&mut self, pod: Arc<Pod>, runtime: PodRuntime, gone: bool) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mailbox = Arc::new(Mailbox::default());
        if !gone && taken_before(&pod, &runtime) {
            self.agent.ledger.keep(&pod);
            // An agent that has ended since saw it first.
            self.agent.note_time(&uid, |times| times.seen = None);
        }
        let worker = Worker::new(self.agent.clone(), mailbox.clone(), pod, runtime, gone);
        let task = self.running.spawn(worker.run(self.shutdown.clone()));
        self.by_task.insert(task.id(), uid.clone());
        self.workers.insert(uid, mailbox);
    }

    fn ended(&mut self, ended: Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                tracing::error!(%error, "a pod's worker ended badly");
                error.id()
            }
        };
        if let Some(uid) = self.by_task.remove(&id) {
            self.workers.remove(&uid);
            // One that went while it was being judged was noted only after it had gone.
            self.agent.ledger.release(&uid);
            self.agent.note_pod(&uid, None);
            self.agent.log_keeper.keep(&uid, Vec::new());
        }
    }

    fn runtime(&mut self, message: FromRuntime) {
        match message {
            FromRuntime::Event(event) => self.agent.heard(event),
            FromRuntime::Listed(mut pods) => {
                // A worker may be ahead of this list: it reads its own records anew instead of taking them
                // from here.
                for (uid, mailbox) in &self.workers {
                    pods.remove(uid);
                    mailbox.tell(|inbox| inbox.check_all = true);
                }
                self.listed = Some(pods);
                self.start_held_back();
                self.adopt_orphans();
            }
        }
    }

    /// Pods that the runtime holds and the API server does not know any more: they are ended. Only once both
    /// sides have been heard in full.
    fn adopt_orphans(&mut self) {
        if !self.synced {
            return;
        }
        let Some(listed) = &mut self.listed else { return };
        for (uid, ListedPod { namespace, name, cgroup, runtime }) in std::mem::take(listed) {
            tracing::info!(namespace, name, uid, "pod is gone from the API server: ending it");
            let mut pod = Pod::default();
            pod.metadata.namespace = Some(namespace);
            pod.metadata.name = Some(name);
            pod.metadata.uid = Some(uid);
            pod.metadata.annotations = Some(BTreeMap::from([(labels::CGROUP.to_owned(), cgroup)]));
            self.start(Arc::new(pod), runtime, true);
        }
    }
}

/// Subscribes, lists, forwards; subscribes anew when containerd went away.
async fn follow_runtime(agent: Arc<Agent>, sender: mpsc::Sender<FromRuntime>) {
    let mut pause = RESUBSCRIBE;
    loop {
        match follow_once(&agent, &sender).await {
            Ok(()) => pause = RESUBSCRIBE,
            Err(error) => {
                tracing::warn!(error = skerry_vocabulary::chain(&error), "containerd's events interrupted");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_RESUBSCRIBE);
            }
        }
        if sender.is_closed() {
            return;
        }
    }
}

async fn follow_once(agent: &Agent, sender: &mpsc::Sender<FromRuntime>) -> Result<(), crate::cri::CriError> {
    let mut events = Events::subscribe(agent.cri.channel()).await?;
    tracing::debug!("subscribed to containerd's events");
    list(agent, sender).await?;
    let mut resync = std::pin::pin!(tokio::time::sleep(SETTLE));
    loop {
        tokio::select! {
            event = events.next() => match event? {
                Some(event) => _ = sender.send(FromRuntime::Event(event)).await,
                None => return Ok(()),
            },
            () = &mut resync => {
                list(agent, sender).await?;
                resync.as_mut().reset(Instant::now() + agent.config.resync_interval);
            }
            () = sender.closed() => return Ok(()),
        }
    }
}

async fn list(agent: &Agent, sender: &mpsc::Sender<FromRuntime>) -> Result<(), crate::cri::CriError> {
    let pods = agent.cri.list(&agent.config.node_name).await?;
    let _ = sender.send(FromRuntime::Listed(pods)).await;
    Ok(())
}
