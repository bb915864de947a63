//! Answers ARP and neighbour discovery for the load-balancer addresses of which this node was elected
//! ([`proxy_state::State::announced`]), and tells the link when it takes one over.
//!
//! The addresses stand on no device and nothing is written into the kernel: the answers come from packet sockets that end with
//! the process. (The kernel's own proxy entries answer only for what it would route out of another device, and late.) What
//! then comes in for such an address is served by the programs on the uplink.

mod filter;
mod frame;
pub(crate) mod memory;
mod speaker;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch::{Receiver, Sender},
    task::JoinSet,
    time::Instant,
};

use self::{frame::Question, speaker::Speaker};
use crate::{agent::at, metrics::Metrics, watch::chain};

/// How often an address is announced when it is taken over, and the pause between: a frame may get lost, and switches that
/// have just learnt of the other place may be slow.
const ROUNDS: u8 = 5;
const ROUND_PAUSE: Duration = Duration::from_secs(1);
/// Between two tries to open sockets.
const RETRY: Duration = Duration::from_secs(5);
/// How long an agent that has just started waits for the API server before it answers for what its predecessor did.
const RECALL: Duration = Duration::from_secs(5);
/// `ENETDOWN`: the device went down; the socket lives on and works again when it is up.
const NETWORK_DOWN: i32 = nix::libc::ENETDOWN;

/// What is to be answered for, and where.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Wanted {
    /// Number of the device; 0: none yet.
    device: u32,
    /// `None`: the API server was not heard yet.
    addresses: Option<BTreeSet<IpAddr>>,
}

/// Tells the task what is to be announced.
pub(crate) struct Announcer(Sender<Wanted>);

impl Announcer {
    /// Starts the task; when it is dropped, nobody answers any more. `memory`: a file of its own.
    pub fn start(tasks: &mut JoinSet<()>, memory: PathBuf, metrics: Arc<Metrics>) -> Announcer {
        let (sender, wanted) = tokio::sync::watch::channel(Wanted::default());
        let task = Task {
            wanted,
            speaker: Speaker::default(),
            known: BTreeSet::new(),
            rounds: BTreeMap::new(),
            round_at: None,
            retry_at: None,
            recall_at: Some(Instant::now() + RECALL),
            memory,
            metrics,
        };
        tasks.spawn(task.run());
        Announcer(sender)
    }

    pub fn set_device(&self, device: u32) {
        self.0.send_if_modified(|wanted| std::mem::replace(&mut wanted.device, device) != device);
    }

    pub fn set_addresses(&self, addresses: BTreeSet<IpAddr>) {
        self.0.send_if_modified(|wanted| {
            let addresses = Some(addresses);
            let changed = wanted.addresses != addresses;
            wanted.addresses = addresses;
            changed
        });
    }
}

struct Task {
    wanted: Receiver<Wanted>,
    speaker: Speaker,
    known: BTreeSet<IpAddr>,
    /// Announcements still to be made.
    rounds: BTreeMap<IpAddr, u8>,
    round_at: Option<Instant>,
    retry_at: Option<Instant>,
    recall_at: Option<Instant>,
    memory: PathBuf,
    metrics: Arc<Metrics>,
}

impl Task {
    async fn run(mut self) {
        loop {
            let (round_at, retry_at, recall_at) = (self.round_at, self.retry_at, self.recall_at);
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.follow(),
                    Err(_) => return,
                },
                heard = self.speaker.hear() => match heard {
                    Ok(question) => self.answer(&question),
                    Err(error) => self.lost(&error),
                },
                () = at(round_at) => self.announce(),
                () = at(retry_at) => self.follow(),
                () = at(recall_at) => self.recall(),
            }
        }
    }

    /// The API server is away: the last state stays in force. Another node may have been elected meanwhile, if it is away for
    /// us alone, so nothing is announced unasked.
    fn recall(&mut self) {
        self.recall_at = None;
        self.known = memory::read(&self.memory);
        if !self.known.is_empty() {
            let addresses = self.known.len();
            tracing::warn!(
                addresses,
                "the API server was not heard yet: answering for what was announced last"
            );
            self.follow();
        }
    }

    fn follow(&mut self) {
        self.retry_at = None;
        let Wanted { device, addresses } = self.wanted.borrow_and_update().clone();
        if device == 0 {
            return;
        }
        if addresses.is_some() {
            self.recall_at = None;
        }
        if let Some(addresses) = &addresses
            && let Err(error) = memory::write(&self.memory, addresses)
        {
            tracing::warn!(%error, path = %self.memory.display(), "what is announced can't be noted");
        }
        let addresses = addresses.unwrap_or_else(|| self.known.clone());
        for gone in self.known.difference(&addresses) {
            tracing::info!(address = %gone, "no longer announced from here");
        }
        for new in addresses.difference(&self.known) {
            tracing::info!(address = %new, "announced from here");
        }
        self.rounds.retain(|address, _| addresses.contains(address));
        self.rounds.extend(addresses.difference(&self.known).map(|address| (*address, ROUNDS)));
        if let Err(error) = self.speaker.tune(device, &addresses) {
            tracing::error!(error = chain(&error), retry_in = ?RETRY, "load-balancer addresses are not answered for");
            self.speaker.close();
            self.retry_at = Some(Instant::now() + RETRY);
        }
        self.metrics.announced.set(addresses.len() as i64);
        self.known = addresses;
        self.announce();
    }

    fn answer(&mut self, question: &Question) {
        if !self.known.contains(&question.target) {
            return;
        }
        if question.is_claim() {
            tracing::warn!(
                address = %question.target, mac = ?question.asker_mac,
                "another machine announces a load-balancer address of ours: if it is no node of this cluster, take the \
                 address from it or out of the pool"
            );
            return;
        }
        match self.speaker.answer(question) {
            Ok(true) => drop(self.metrics.neighbour_answers.inc()),
            Ok(false) => {}
            Err(error) => tracing::debug!(error = chain(&error), address = %question.target, "not answered"),
        }
    }

    /// One round; an address that could not be announced keeps its rounds.
    fn announce(&mut self) {
        let (speaker, metrics) = (&self.speaker, &self.metrics);
        self.rounds.retain(|address, left| match speaker.announce(*address) {
            Ok(()) => {
                metrics.announcements.inc();
                *left -= 1;
                *left > 0
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), %address, "not announced; will be tried again");
                true
            }
        });
        self.round_at = (!self.rounds.is_empty()).then(|| Instant::now() + ROUND_PAUSE);
    }

    /// After the device was down, neighbours may know nothing any more: all is announced again as soon as it works.
    fn lost(&mut self, error: &io::Error) {
        tracing::debug!(%error, "packet socket");
        self.rounds = self.known.iter().map(|address| (*address, ROUNDS)).collect();
        self.round_at = Some(Instant::now() + ROUND_PAUSE);
        if error.raw_os_error() != Some(NETWORK_DOWN) {
            self.speaker.close();
            self.retry_at = Some(Instant::now() + RETRY);
        }
    }
}
