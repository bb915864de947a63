use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use proxy_state::{Cause, ObjectKey, State, Warning};
use skerry_client::{Bucket, Client, EventType, Form, Note, Rate, Regarding, Written, write_event};
use skerry_vocabulary::chain;
use tokio::{sync::Notify, time::Instant};

use crate::{agent::at, tell::metrics::Metrics};

/// Warnings that stand, shared by the loop that finds them and the task that tells the API server: a slow
/// server holds nobody up, and there is never more to tell than Services that have a warning.
#[derive(Clone, Default)]
pub(crate) struct Warnings(Arc<Shared>);

#[derive(Default)]
struct Shared {
    standing: Mutex<Standing>,
    changed: Notify,
}

#[derive(Default)]
struct Standing {
    of: BTreeMap<ObjectKey, Concern>,
    /// Services whose concern is not what the task knows.
    changed: BTreeSet<ObjectKey>,
}

/// What is to be told of one Service or Node.
#[derive(Clone, Default)]
struct Concern {
    uid: String,
    /// Each with the times it was found.
    warnings: Vec<(Warning, u64)>,
    /// Whether this node tells what all of them see.
    is_ours: bool,
}

impl Warnings {
    /// After a plan: looks at the services that it looked at, and at those with a warning where nodes
    /// changed, since another node may now be the one to tell. `besides`: what the state of a Service alone
    /// doesn't say, and what of Nodes is not believed.
    pub fn note(
        &self,
        state: &State,
        planned: BTreeSet<ObjectKey>,
        besides: &HashMap<ObjectKey, Vec<Warning>>,
        nodes_changed: bool,
        metrics: &Metrics,
    ) {
        let mut standing = self.lock();
        let mut planned = planned;
        if nodes_changed {
            planned.extend(standing.of.keys().cloned());
        }
        let mut is_changed = false;
        for key in planned {
            let mut found = state.warnings(&key);
            found.extend(besides.get(&key).into_iter().flatten().cloned());
            is_changed |= standing.set(state, key, found, nodes_changed);
        }
        if is_changed {
            for cause in Cause::ALL {
                let has = |concern: &&Concern| concern.warnings.iter().any(|(w, _)| w.cause == cause);
                metrics.set_warnings(cause.label(), standing.of.values().filter(has).count());
            }
            self.0.changed.notify_one();
        }
    }

    /// How often it was found.
    fn times(&self, key: &ObjectKey, cause: Cause) -> u64 {
        let standing = self.lock();
        let found = standing.of.get(key).into_iter().flat_map(|concern| &concern.warnings);
        found.filter(|(warning, _)| warning.cause == cause).map(|(_, times)| *times).max().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.0.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    /// Whether there is anything new to tell. Who tells is asked anew where `nodes_changed`.
    fn set(&mut self, state: &State, key: ObjectKey, found: Vec<Warning>, nodes_changed: bool) -> bool {
        if found.is_empty() {
            let was_there = self.of.remove(&key).is_some();
            if was_there {
                self.changed.insert(key);
            }
            return was_there;
        }
        let before = self.of.get(&key);
        let times = |cause: Cause| {
            let known =
                before.and_then(|before| before.warnings.iter().find(|(known, _)| known.cause == cause));
            known.map_or(0, |(_, times)| *times)
        };
        let warnings: Vec<(Warning, u64)> = found
            .into_iter()
            .map(|warning| {
                let times = times(warning.cause) + 1;
                (warning, times)
            })
            .collect();
        let is_ours = match before {
            Some(before) if !nodes_changed => before.is_ours,
            _ => state.tells_of(&key),
        };
        let now = Concern { uid: state.uid(&key), warnings, is_ours };
        let is_same = before.is_some_and(|before| before.says_what(&now));
        self.of.insert(key.clone(), now);
        if !is_same {
            self.changed.insert(key);
        }
        !is_same
    }
}

impl Concern {
    fn says_what(&self, other: &Concern) -> bool {
        let words = |concern: &Concern| concern.warnings.iter().map(|(w, _)| w.clone()).collect::<Vec<_>>();
        (self.is_ours, &self.uid) == (other.is_ours, &other.uid) && words(self) == words(other)
    }
}

/// How long until a warning that stands is told again, at first and at most. Events live for an hour.
const REPEAT_MIN: Duration = Duration::from_secs(5);
const REPEAT_MAX: Duration = Duration::from_secs(1800);
/// What a node may load the API server with (client-go's figures for one source are 25 and five minutes, for
/// one object).
const RATE: Rate = Rate { burst: 25, refill: Duration::from_secs(5) };

/// Writes an Event for each warning as it comes up, and counts it on while it stands, until it is dropped.
pub(crate) async fn tell(warnings: Warnings, client: Client, node_name: String, metrics: Arc<Metrics>) {
    let source = source(node_name);
    let mut teller = Teller { told: HashMap::new(), bucket: Bucket::new(RATE, Instant::now()) };
    loop {
        let next = teller.next_due();
        tokio::select! {
            () = warnings.0.changed.notified() => teller.take(&mut warnings.lock(), Instant::now()),
            () = at(next) => {}
        }
        while let Some((key, cause)) = teller.due(Instant::now()) {
            let Some(told) = teller.told.get(&(key.clone(), cause)) else { break };
            let note = note(&key, &told.uid, &told.warning);
            let times = told.times.max(warnings.times(&key, cause));
            let written = write_event(&client, &source, &note, told.name.as_deref(), times).await;
            match &written {
                Ok(_) => metrics.events_written.inc(),
                Err(error) => {
                    tracing::warn!(error = chain(error), of = %key, "event not written");
                    metrics.events_failed.inc()
                }
            };
            teller.written(&(key, cause), written.ok(), Instant::now());
        }
    }
}

/// Who tells: the agent of this Node.
fn source(node_name: String) -> skerry_client::Teller {
    skerry_client::Teller { controller: "skerry.io/proxy", instance: Some(node_name), form: Form::Series }
}

/// The Event of a Service's warning, or of a Node's.
fn note(of: &ObjectKey, uid: &str, warning: &Warning) -> Note {
    let (kind, action) = if of.namespace().is_empty() { ("Node", "Route") } else { ("Service", "Balance") };
    Note {
        about: Regarding {
            api_version: "v1".into(),
            kind: kind.into(),
            namespace: Some(of.namespace().to_owned()).filter(|namespace| !namespace.is_empty()),
            name: of.name().to_owned(),
            uid: uid.to_owned(),
            ..Regarding::default()
        },
        kind: EventType::Warning,
        reason: warning.cause.reason().into(),
        message: warning.note.clone(),
        action,
        at: Timestamp::now(),
    }
}

/// What was told of whom, and when it is told again. Time is an argument.
struct Teller {
    told: HashMap<(ObjectKey, Cause), Told>,
    bucket: Bucket,
}

struct Told {
    warning: Warning,
    uid: String,
    /// The Event's name, once it is written.
    name: Option<String>,
    /// How often it was told or still stood when its turn came.
    times: u64,
    due: Instant,
    repeat: Duration,
}

impl Teller {
    /// Takes over what changed.
    fn take(&mut self, standing: &mut Standing, now: Instant) {
        for key in std::mem::take(&mut standing.changed) {
            let concern = standing.of.get(&key);
            let told_here = |cause: Cause| concern.is_some_and(|c| c.is_ours || !cause.is_everywhere());
            for cause in Cause::ALL {
                let id = (key.clone(), cause);
                let found = concern
                    .and_then(|concern| concern.warnings.iter().find(|(warning, _)| warning.cause == cause))
                    .filter(|_| told_here(cause));
                let Some(((warning, _), uid)) = found.zip(concern.map(|concern| &concern.uid)) else {
                    self.told.remove(&id);
                    continue;
                };
                match self.told.get_mut(&id).filter(|told| told.uid == *uid) {
                    // Another note is another Event: the API lets nothing of one be changed but its count. It
                    // waits its turn.
                    Some(told) => {
                        if told.warning != *warning {
                            told.name = None;
                            told.warning = warning.clone();
                        }
                    }
                    None => {
                        let fresh = Told {
                            warning: warning.clone(),
                            uid: uid.clone(),
                            name: None,
                            times: 1,
                            due: now,
                            repeat: REPEAT_MIN,
                        };
                        self.told.insert(id, fresh);
                    }
                }
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let first = self.told.values().map(|told| told.due).min()?;
        Some(first.max(self.bucket.next()))
    }

    /// The next to be told, if there is a request left for it.
    fn due(&mut self, now: Instant) -> Option<(ObjectKey, Cause)> {
        let (id, told) = self.told.iter().min_by_key(|(_, told)| told.due)?;
        if told.due > now || !self.bucket.take(now) {
            return None;
        }
        Some(id.clone())
    }

    fn written(&mut self, id: &(ObjectKey, Cause), written: Option<Written>, now: Instant) {
        let Some(told) = self.told.get_mut(id) else { return };
        match written {
            // Gone within its hour, or its namespace with it.
            Some(Written::Gone) => told.name = None,
            Some(Written::As(name)) => told.name = Some(name),
            None => {}
        }
        told.times += 1;
        told.due = now + told.repeat;
        told.repeat = (told.repeat * 2).min(REPEAT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn concern(note: &str, is_ours: bool, cause: Cause) -> Concern {
        let warning = Warning { cause, note: note.to_owned() };
        Concern { uid: "uid".to_owned(), warnings: vec![(warning, 1)], is_ours }
    }

    fn with(standing: &mut Standing, name: &str, concern: Option<Concern>) {
        let key = ObjectKey::new("ns", name);
        match concern {
            Some(concern) => drop(standing.of.insert(key.clone(), concern)),
            None => drop(standing.of.remove(&key)),
        }
        standing.changed.insert(key);
    }

    fn teller(now: Instant) -> (Teller, Standing) {
        (Teller { told: HashMap::new(), bucket: Bucket::new(RATE, now) }, Standing::default())
    }

    #[test]
    fn a_warning_is_told_at_once_and_counted_on_ever_more_slowly_while_it_stands() {
        let start = Instant::now();
        let (mut teller, mut standing) = teller(start);
        with(&mut standing, "a", Some(concern("first", true, Cause::AddressTaken)));
        teller.take(&mut standing, start);
        let (mut now, mut gaps) = (start, Vec::new());
        for n in 0..12 {
            let id = teller.due(now).unwrap();
            assert_eq!(teller.told[&id].times, n + 1);
            teller.written(&id, Some(Written::As("a.1".to_owned())), now);
            assert_eq!(teller.due(now), None);
            let next = teller.next_due().unwrap();
            gaps.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(gaps, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 1800, 1800, 1800]);
        // In other words: another Event, not earlier than the next turn.
        with(&mut standing, "a", Some(concern("second", true, Cause::AddressTaken)));
        teller.take(&mut standing, now - Duration::from_secs(1));
        assert_eq!(teller.due(now - Duration::from_secs(1)), None);
        assert_eq!(teller.told.values().next().unwrap().name, None);
        with(&mut standing, "a", None);
        teller.take(&mut standing, now);
        assert!(teller.told.is_empty() && teller.next_due().is_none());
    }

    #[test]
    fn an_event_names_its_service_or_its_node_and_the_reason() {
        let warning = Warning { cause: Cause::AddressTaken, note: "taken".to_owned() };
        let of_service = note(&ObjectKey::new("ns", "web"), "u", &warning);
        assert_eq!((of_service.about.uid.as_str(), of_service.about.kind.as_ref()), ("u", "Service"));
        assert_eq!((of_service.reason.as_ref(), of_service.message.as_str()), ("AddressTaken", "taken"));
        assert_eq!((of_service.action, of_service.kind), ("Balance", EventType::Warning));
        let of_node = note(&ObjectKey::cluster("n2"), "", &warning);
        assert_eq!((of_node.about.kind.as_ref(), of_node.action), ("Node", "Route"));
        assert_eq!((of_node.about.namespace, of_node.about.uid.as_str()), (None, ""));
    }

    #[test]
    fn what_another_node_tells_is_not_told_here_unless_it_is_this_nodes_own() {
        let now = Instant::now();
        let (mut teller, mut standing) = teller(now);
        with(&mut standing, "a", Some(concern("all see it", false, Cause::AddressTaken)));
        with(&mut standing, "b", Some(concern("only we see it", false, Cause::DoesNotFit)));
        teller.take(&mut standing, now);
        assert_eq!(teller.due(now), Some((ObjectKey::new("ns", "b"), Cause::DoesNotFit)));
        assert_eq!(teller.told.len(), 1);
    }

    #[test]
    fn ten_thousand_warnings_are_told_a_burst_and_then_one_by_one() {
        let start = Instant::now();
        let (mut teller, mut standing) = teller(start);
        for n in 0..10_000 {
            with(&mut standing, &format!("s{n}"), Some(concern("full", true, Cause::DoesNotFit)));
        }
        teller.take(&mut standing, start);
        let mut told = 0;
        for second in 0..=600 {
            let now = start + Duration::from_secs(second);
            while let Some(id) = teller.due(now) {
                teller.written(&id, None, now);
                told += 1;
            }
            let next = teller.next_due().unwrap();
            assert!(next > now && next <= now + RATE.refill);
        }
        assert_eq!(told, RATE.burst as usize + 600 / 5);
    }
}
