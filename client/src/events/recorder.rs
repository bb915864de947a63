//! The task that writes events for many, none of whom waits.
//!
//! The same text about the same object raises the count of the event that is there. One object gets no more
//! than a burst and then few events, so that one that flaps takes nothing from the others; all together stay
//! below a rate.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use kube::Client;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    EventType, Note, Regarding, Teller, WriteError, Written,
    rate::{Bucket, Buckets, Rate},
    write,
};

/// Events on their way to the task, and as many distinct ones that wait for the API server; more are dropped
/// and counted.
const QUEUE: usize = 1024;
/// Events remembered for counting, and objects for their rate; the oldest is forgotten first.
const REMEMBERED: usize = 4096;
/// Of one object, as client-go's: 25, and one more each five minutes.
const OF_ONE: Rate = Rate { burst: 25, refill: Duration::from_secs(300) };
/// Of all objects, as the upstream node agent's: 100, and 50 a second.
const OF_ALL: Rate = Rate { burst: 100, refill: Duration::from_millis(20) };
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Hands events to the task that writes them; never blocks, never fails the caller.
#[derive(Clone, Debug)]
pub struct Recorder {
    notes: mpsc::Sender<Note>,
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    /// `reason` is one word in CamelCase, `message` a sentence for people.
    pub fn event(
        &self,
        about: Regarding,
        kind: EventType,
        reason: impl Into<Cow<'static, str>>,
        message: String,
    ) {
        let (reason, at) = (reason.into(), Timestamp::now());
        if self.notes.try_send(Note { about, kind, reason, message, action: "", at }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Events that were dropped: too many waited, or one object had too many.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A recorder and the task that writes its events until `shutdown` (what is queued then is lost: events are
/// news, not state), or until the last clone of the recorder is gone and everything is written.
pub fn record(
    client: Client,
    teller: Teller,
    shutdown: CancellationToken,
) -> (Recorder, impl Future<Output = ()> + Send + 'static) {
    let (notes, queue) = mpsc::channel(QUEUE);
    let recorder = Recorder { notes, dropped: Arc::default() };
    let dropped = recorder.dropped.clone();
    let task = async move {
        let writing = Writing { client, teller, pending: Pending::new(Instant::now()), dropped };
        shutdown.run_until_cancelled(writing.run(queue)).await;
    };
    (recorder, task)
}

struct Writing {
    client: Client,
    teller: Teller,
    pending: Pending,
    dropped: Arc<AtomicU64>,
}

impl Writing {
    async fn run(mut self, mut queue: mpsc::Receiver<Note>) {
        let mut is_open = true;
        while is_open || self.pending.next_at().is_some() {
            tokio::select! {
                // What is new may raise the count of what waits.
                biased;
                note = queue.recv(), if is_open => match note {
                    Some(note) => self.take(note),
                    None => is_open = false,
                },
                () = at(self.pending.next_at()) => self.write_one().await,
            }
        }
    }

    fn take(&mut self, note: Note) {
        if !self.pending.add(note, Instant::now()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn write_one(&mut self) {
        let Some(due) = self.pending.due(Instant::now()) else { return };
        let Due { note, name, times } = &due;
        let written = write(&self.client, &self.teller, note, name.as_deref(), *times).await;
        if let Err(error) = &written {
            let error = skerry_vocabulary::chain(error);
            tracing::debug!(error, reason = %note.reason, about = note.about.name, "event was not recorded");
        }
        self.pending.written(due, written, Instant::now());
    }
}

/// At a moment; never where there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// What makes two notes one event.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Print {
    about: Regarding,
    kind: EventType,
    reason: Cow<'static, str>,
    message: String,
}

impl Print {
    fn of(note: &Note) -> Print {
        // The revision changes with every write; it must not hide that the text is the same.
        let about = Regarding { resource_version: None, ..note.about.clone() };
        Print { about, kind: note.kind, reason: note.reason.clone(), message: note.message.clone() }
    }
}

/// What is to be written, and what is known of what was written. Time is an argument.
struct Pending {
    waiting: HashMap<Print, (Note, u64)>,
    order: VecDeque<Print>,
    known: Known,
    of_one: Buckets<Regarding>,
    of_all: Bucket,
    /// The server does not answer.
    not_before: Option<Instant>,
    pause: Duration,
}

/// One that is to be written now.
struct Due {
    note: Note,
    /// Of the event that is counted on.
    name: Option<String>,
    times: u64,
}

impl Pending {
    fn new(now: Instant) -> Pending {
        Pending {
            waiting: HashMap::new(),
            order: VecDeque::new(),
            known: Known::default(),
            of_one: Buckets::new(OF_ONE, REMEMBERED),
            of_all: Bucket::new(OF_ALL, now),
            not_before: None,
            pause: SHORTEST_PAUSE,
        }
    }

    /// Whether it will be told.
    fn add(&mut self, note: Note, now: Instant) -> bool {
        let print = Print::of(&note);
        let object = Regarding { field_path: None, ..print.about.clone() };
        if !self.of_one.take(object, now) {
            return false;
        }
        if let Some((waiting, times)) = self.waiting.get_mut(&print) {
            waiting.at = note.at;
            *times += 1;
            return true;
        }
        if self.order.len() >= QUEUE {
            return false;
        }
        self.order.push_back(print.clone());
        self.waiting.insert(print, (note, 1));
        true
    }

    fn next_at(&self) -> Option<Instant> {
        self.order.front()?;
        Some(self.of_all.next().max(self.not_before.unwrap_or(self.of_all.next())))
    }

    fn due(&mut self, now: Instant) -> Option<Due> {
        if self.not_before.is_some_and(|at| at > now) || self.order.is_empty() || !self.of_all.take(now) {
            return None;
        }
        let print = self.order.pop_front()?;
        let (note, times) = self.waiting.remove(&print)?;
        let known = self.known.of.get(&print).cloned();
        let (name, before) = known.map_or((None, 0), |(name, count)| (Some(name), count));
        Some(Due { note, name, times: before + times })
    }

    fn written(&mut self, due: Due, written: Result<Written, WriteError>, now: Instant) {
        let print = Print::of(&due.note);
        match written {
            Ok(Written::As(name)) => self.known.remember(print, name, due.times),
            // It has expired on the server: a new one takes its place, and counts from its own beginning.
            Ok(Written::Gone) => {
                let before = self.known.forget(&print);
                self.put_back(print, due.note, due.times.saturating_sub(before).max(1));
            }
            Err(error) if error.is_refusal() => {}
            Err(_) => {
                let before = self.known.of.get(&print).map_or(0, |(_, count)| *count);
                self.put_back(print, due.note, due.times.saturating_sub(before));
                self.not_before = Some(now + self.pause);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                return;
            }
        }
        self.not_before = None;
        self.pause = SHORTEST_PAUSE;
    }

    fn put_back(&mut self, print: Print, note: Note, times: u64) {
        self.order.push_front(print.clone());
        self.waiting.insert(print, (note, times));
    }
}

/// Names and counts of events that were written.
#[derive(Default)]
struct Known {
    of: HashMap<Print, (String, u64)>,
    order: VecDeque<Print>,
}

impl Known {
    fn remember(&mut self, print: Print, name: String, count: u64) {
        if self.of.insert(print.clone(), (name, count)).is_none() {
            self.order.push_back(print);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.of.remove(&oldest);
        }
    }

    /// How often it was told.
    fn forget(&mut self, print: &Print) -> u64 {
        self.order.retain(|known| known != print);
        self.of.remove(print).map_or(0, |(_, count)| count)
    }
}

#[cfg(test)]
mod tests;
