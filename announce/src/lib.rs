//! Answers ARP and neighbour discovery for load-balancer addresses that this machine stands for, and tells
//! the link when it takes one over.
//!
//! The addresses stand on no device and nothing is written into the kernel: the answers come from packet
//! sockets that end with the process. (The kernel's own proxy entries answer only for what it would route out
//! of another device, and late.) What then comes in for such an address is served by the programs on the
//! uplink.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod filter;
mod frame;
mod speaker;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use skerry_vocabulary::chain;
use tokio::{
    sync::watch::{Receiver, Sender},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::{frame::Question, speaker::Speaker};

/// How often an address is announced when it is taken over, and the pause between: a frame may get lost, and
/// switches that have just learnt of the other place may be slow.
const ROUNDS: u8 = 5;
const ROUND_PAUSE: Duration = Duration::from_secs(1);
/// Between two tries to open sockets.
const RETRY: Duration = Duration::from_secs(5);
/// `ENETDOWN`: the device went down; the socket lives on and works again when it is up.
const NETWORK_DOWN: i32 = nix::libc::ENETDOWN;

/// Counts what is said.
pub trait Count: Send + Sync + 'static {
    /// So many addresses are answered for now.
    fn answered_for(&self, addresses: usize);
    /// An address was announced unasked, once.
    fn announced(&self);
    /// A question (ARP, or neighbour solicitation) was answered, once.
    fn answered(&self);
}

/// What is to be answered for, and where.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Wanted {
    /// Number of the device; 0: none yet.
    device: u32,
    /// `None`: nobody has said yet.
    addresses: Option<BTreeSet<IpAddr>>,
    /// They were answered for from here until a moment ago: the link knows.
    is_resumed: bool,
}

/// Tells the task what is to be announced.
#[derive(Clone, Debug)]
pub struct Announcer(Arc<Sender<Wanted>>);

impl Announcer {
    /// Starts the task; when `tasks` is dropped, nobody answers any more.
    pub fn start(tasks: &mut JoinSet<()>, count: Arc<dyn Count>) -> Announcer {
        let (sender, wanted) = tokio::sync::watch::channel(Wanted::default());
        let task = Task {
            wanted,
            speaker: Speaker::default(),
            known: BTreeSet::new(),
            rounds: BTreeMap::new(),
            round_at: None,
            retry_at: None,
            count,
        };
        tasks.spawn(task.run());
        Announcer(Arc::new(sender))
    }

    /// The device, by number, whose link is asked and told; 0: none. What its addresses are doesn't matter.
    pub fn set_device(&self, device: u32) {
        self.0.send_if_modified(|wanted| std::mem::replace(&mut wanted.device, device) != device);
    }

    /// Whether it has changed anything.
    pub fn set_addresses(&self, addresses: BTreeSet<IpAddr>) -> bool {
        self.0.send_if_modified(|wanted| {
            let addresses = Some(addresses);
            let changed = wanted.addresses != addresses;
            (wanted.addresses, wanted.is_resumed) = (addresses, false);
            changed
        })
    }

    /// Answers for what a predecessor did, until the first [`Announcer::set_addresses`]; after that it does
    /// nothing. Somebody else may have been elected meanwhile, so nothing is announced unasked. Whether it
    /// did anything.
    pub fn resume(&self, addresses: BTreeSet<IpAddr>) -> bool {
        self.0.send_if_modified(|wanted| {
            let is_first = wanted.addresses.is_none() && !addresses.is_empty();
            if is_first {
                (wanted.addresses, wanted.is_resumed) = (Some(addresses), true);
            }
            is_first
        })
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
    count: Arc<dyn Count>,
}

impl Task {
    async fn run(mut self) {
        loop {
            let (round_at, retry_at) = (self.round_at, self.retry_at);
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
            }
        }
    }

    fn follow(&mut self) {
        self.retry_at = None;
        let Wanted { device, addresses, is_resumed } = self.wanted.borrow_and_update().clone();
        let Some(addresses) = addresses.filter(|_| device != 0) else { return };
        if is_resumed {
            self.known.clone_from(&addresses);
        }
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
        self.count.answered_for(addresses.len());
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
            Ok(true) => self.count.answered(),
            Ok(false) => {}
            Err(error) => tracing::debug!(error = chain(&error), address = %question.target, "not answered"),
        }
    }

    /// One round; an address that could not be announced keeps its rounds.
    fn announce(&mut self) {
        let (speaker, count) = (&self.speaker, &self.count);
        self.rounds.retain(|address, left| match speaker.announce(*address) {
            Ok(()) => {
                count.announced();
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

    /// After the device was down, neighbours may know nothing any more: all is announced again as soon as it
    /// works.
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

/// Returns at the deadline; never where there is none.
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
