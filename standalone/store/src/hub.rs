//! Watchers and what is handed to them.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_core::Stream;
use tokio::sync::mpsc;

use crate::{Change, WatchItem};

struct Watcher {
    prefix: String,
    queue: mpsc::Sender<WatchItem>,
    lagged: Arc<AtomicBool>,
}

/// All watchers of a store. Called under the store's lock, so that a watch misses nothing and sees nothing
/// twice.
pub struct Hub {
    watchers: Vec<Watcher>,
    /// Items that a watcher may leave unread before it is let go.
    queue: usize,
}

impl Hub {
    pub fn new(queue: usize) -> Hub {
        Hub { watchers: Vec::new(), queue }
    }

    /// A stream of `replay`, then a progress mark at `revision`, then what is published from now on.
    pub fn subscribe(&mut self, prefix: &str, replay: Vec<Arc<Change>>, revision: u64) -> Subscription {
        let (queue, live) = mpsc::channel(self.queue);
        let lagged = Arc::new(AtomicBool::new(false));
        self.watchers.push(Watcher { prefix: prefix.to_owned(), queue, lagged: lagged.clone() });
        let mut replay: VecDeque<WatchItem> = replay.into_iter().map(WatchItem::Change).collect();
        replay.push_back(WatchItem::Progress(revision));
        Subscription { replay, live, lagged, ended: false }
    }

    pub fn publish(&mut self, changes: &[Arc<Change>]) {
        for change in changes {
            self.watchers.retain(|watcher| {
                !change.key().starts_with(&watcher.prefix) || watcher.offer(WatchItem::Change(change.clone()))
            });
        }
    }

    pub fn progress(&mut self, revision: u64) {
        self.watchers.retain(|watcher| watcher.offer(WatchItem::Progress(revision)));
    }
}

impl Watcher {
    /// `false`: the watcher is gone, or too slow and now let go.
    fn offer(&self, item: WatchItem) -> bool {
        match self.queue.try_send(item) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lagged.store(true, Ordering::Release);
                false
            }
        }
    }
}

pub struct Subscription {
    replay: VecDeque<WatchItem>,
    live: mpsc::Receiver<WatchItem>,
    lagged: Arc<AtomicBool>,
    ended: bool,
}

impl Stream for Subscription {
    type Item = WatchItem;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WatchItem>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(item) = self.replay.pop_front() {
            return Poll::Ready(Some(item));
        }
        let item = std::task::ready!(self.live.poll_recv(context));
        if item.is_none() {
            self.ended = true;
            if self.lagged.load(Ordering::Acquire) {
                return Poll::Ready(Some(WatchItem::Lagged));
            }
        }
        Poll::Ready(item)
    }
}
