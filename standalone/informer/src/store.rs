//! The shared cache of one kind: objects, indexes, change notifications, read-your-writes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use kube::Resource;
use kube::api::ObjectMeta;
use tokio::sync::watch;

use crate::{Item, ObjectKey, key_of};

/// What an object can be looked up by, besides its key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Term {
    /// Uid of the controlling owner (`ownerReferences` with `controller: true`).
    Owner(String),
    /// One label of an object in a namespace.
    Label { namespace: Arc<str>, key: String, value: String },
    /// Name of the node a pod is bound to, or that a slice or lease belongs to.
    Node(String),
    /// The object's own uid.
    Uid(String),
    /// A claim that a pod mounts, or that a volume is for.
    Claim(ObjectKey),
}

/// A change of one object, handed to every listener after the cache has it.
#[derive(Debug)]
pub struct Change<K> {
    pub key: ObjectKey,
    /// What was known of the object; `None` when it is new, or could not be read before.
    pub old: Option<Arc<K>>,
    /// `None` when the object is gone or can't be read.
    pub new: Option<Arc<K>>,
    /// What can be read of an object that is there but unreadable.
    pub unreadable: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// Whether the object is there no more.
    pub fn is_gone(&self) -> bool {
        self.new.is_none() && self.unreadable.is_none()
    }

    /// What is known of the object now, readable or not.
    pub fn known(&self) -> Option<&Arc<K>> {
        self.new.as_ref().or(self.unreadable.as_ref())
    }
}

/// A revision of an object that can't be read, met for the first time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unread {
    pub key: ObjectKey,
    pub revision: u64,
    pub error: Arc<str>,
}

/// Which of the entries, and what of them.
type View<K> = fn(&Entry<K>) -> Option<Arc<K>>;
type Listener<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

/// Objects of one kind with indexes. Readers take `Arc`s and never block for longer than a map look-up.
pub struct Store<K> {
    state: RwLock<State<K>>,
    terms: fn(&K) -> Vec<Term>,
    trim: fn(&mut K),
    listeners: OnceLock<Vec<Listener<K>>>,
    pending_listeners: Mutex<Vec<Listener<K>>>,
    synced: watch::Sender<bool>,
}

/// One object that is there.
struct Entry<K> {
    /// The object, or what could be read of it.
    known: Arc<K>,
    is_readable: bool,
}

impl<K> Entry<K> {
    fn readable(&self) -> Option<Arc<K>> {
        self.is_readable.then(|| self.known.clone())
    }

    fn unreadable(&self) -> Option<Arc<K>> {
        (!self.is_readable).then(|| self.known.clone())
    }
}

struct State<K> {
    objects: BTreeMap<ObjectKey, Entry<K>>,
    index: HashMap<Term, HashSet<ObjectKey>>,
    /// Revision up to which the watch has told us everything.
    seen: u64,
    /// Uids that a delete of our own has ended and whose last watch event is still to come. Emptied by that
    /// event and by every list, so it is bounded by the deletes in flight.
    ended: HashSet<String>,
}

impl<K: Resource> Store<K> {
    /// `terms` names what each object is indexed by; `trim` drops what nobody here reads, to save memory.
    pub fn new(terms: fn(&K) -> Vec<Term>, trim: fn(&mut K)) -> Arc<Self> {
        Arc::new(Self {
            state: RwLock::new(State {
                objects: BTreeMap::new(),
                index: HashMap::new(),
                seen: 0,
                ended: HashSet::new(),
            }),
            terms,
            trim,
            listeners: OnceLock::new(),
            pending_listeners: Mutex::new(Vec::new()),
            synced: watch::Sender::new(false),
        })
    }

    /// Calls `listener` after each change. Listeners are registered before the store is first filled.
    ///
    /// # Panics
    /// When the store already had its first change: the listener would have missed it.
    pub fn on_change(&self, listener: impl Fn(&Change<K>) + Send + Sync + 'static) {
        assert!(self.listeners.get().is_none(), "listeners are registered before the cache is filled");
        self.pending_listeners.lock().expect("not poisoned").push(Box::new(listener));
    }

    /// Returns once the first list is in the cache.
    pub async fn synced(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.synced.subscribe().wait_for(|done| *done).await;
    }

    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// The object, if it is there and can be read. Where `None` would be taken for "gone", ask
    /// [`Self::exists`].
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.read().objects.get(key).and_then(Entry::readable)
    }

    /// Whether the object is there, readable or not.
    pub fn exists(&self, key: &ObjectKey) -> bool {
        self.read().objects.contains_key(key)
    }

    /// What could be read of an object that is there and unreadable.
    pub fn unreadable_at(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.read().objects.get(key).and_then(Entry::unreadable)
    }

    /// What could be read of every object that is unreadable.
    pub fn unreadable(&self) -> Vec<Arc<K>> {
        self.read().objects.values().filter_map(Entry::unreadable).collect()
    }

    /// Every object that can be read.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.read().objects.values().filter_map(Entry::readable).collect()
    }

    /// Keys of all that is there, readable or not.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.read().objects.keys().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every readable object of one namespace, by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.of_namespace(namespace, Entry::readable)
    }

    /// Every readable object with this term, ordered by key.
    pub fn by_term(&self, term: &Term) -> Vec<Arc<K>> {
        self.of_term(term, Entry::readable)
    }

    /// What could be read of the unreadable objects with this term, ordered by key.
    pub fn unreadable_by_term(&self, term: &Term) -> Vec<Arc<K>> {
        self.of_term(term, Entry::unreadable)
    }

    /// Readable objects of a namespace that have all of `wanted`'s labels; walks only the rarest label's
    /// objects. All of the namespace when `wanted` is empty. Needs label terms.
    pub fn with_labels(&self, namespace: &str, wanted: &BTreeMap<String, String>) -> Vec<Arc<K>> {
        self.of_labels(namespace, wanted, Entry::readable)
    }

    /// The same of unreadable objects.
    pub fn unreadable_with_labels(&self, namespace: &str, wanted: &BTreeMap<String, String>) -> Vec<Arc<K>> {
        self.of_labels(namespace, wanted, Entry::unreadable)
    }

    fn of_namespace(&self, namespace: &str, view: View<K>) -> Vec<Arc<K>> {
        let state = self.read();
        let from = ObjectKey::new(namespace, "");
        let objects = state.objects.range(from..).take_while(|(key, _)| key.namespace() == namespace);
        objects.filter_map(|(_, entry)| view(entry)).collect()
    }

    fn of_term(&self, term: &Term, view: View<K>) -> Vec<Arc<K>> {
        let state = self.read();
        let Some(keys) = state.index.get(term) else { return Vec::new() };
        let mut keys: Vec<_> = keys.iter().collect();
        keys.sort();
        keys.into_iter().filter_map(|key| state.objects.get(key).and_then(view)).collect()
    }

    fn of_labels(&self, namespace: &str, wanted: &BTreeMap<String, String>, view: View<K>) -> Vec<Arc<K>> {
        let rarest = {
            let state = self.read();
            let count = |term: &Term| state.index.get(term).map_or(0, HashSet::len);
            let namespace: Arc<str> = namespace.into();
            wanted
                .iter()
                .map(|(key, value)| Term::Label {
                    namespace: namespace.clone(),
                    key: key.clone(),
                    value: value.clone(),
                })
                .min_by_key(count)
        };
        let Some(rarest) = rarest else { return self.of_namespace(namespace, view) };
        let mut found = self.of_term(&rarest, view);
        found.retain(|object| crate::matches_labels(wanted, object.meta().labels.as_ref()));
        found
    }

    /// Takes the API server's answer to a create, update, patch or graceful delete of ours into the cache.
    ///
    /// Revisions of one kind grow in the order of writes (KEP-5504), so an answer that is not newer than what
    /// the watch has already told is dropped: the watch may even have told of the object's end since.
    ///
    /// An answer that can't be read is left to the watch, which tells of it again: then it is named.
    pub fn wrote(&self, object: impl Into<Item<K>>) {
        let item: Item<K> = object.into();
        if matches!(item, Item::Readable(_)) {
            self.put(item, Origin::Write);
        }
    }

    /// Takes out an object that a delete of ours ended at once. Its late watch events are ignored until the
    /// last.
    pub fn ended(&self, key: &ObjectKey, uid: &str) {
        let change = {
            let mut state = self.write();
            if state.objects.get(key).and_then(|entry| entry.known.meta().uid.as_deref()) != Some(uid) {
                return;
            }
            state.ended.insert(uid.to_owned());
            self.remove_locked(&mut state, key)
        };
        self.notify(change);
    }

    /// Watch told that the object is there or has changed; what is to be named.
    pub(crate) fn applied(&self, object: impl Into<Item<K>>) -> Option<Unread> {
        self.put(object.into(), Origin::Watch)
    }

    /// Watch told that the object is gone.
    pub fn deleted(&self, object: &K) {
        let key = key_of(object);
        let change = {
            let mut state = self.write();
            state.seen = state.seen.max(revision(object.meta()));
            if let Some(uid) = &object.meta().uid {
                state.ended.remove(uid);
            }
            // A newer object of the same name may stand here already, written by ourselves.
            match state.objects.get(&key) {
                Some(there) if there.known.meta().uid == object.meta().uid => {
                    self.remove_locked(&mut state, &key)
                }
                _ => None,
            }
        };
        self.notify(change);
    }

    /// Watch told that everything up to `revision` is known.
    pub fn progressed(&self, revision: u64) {
        let mut state = self.write();
        state.seen = state.seen.max(revision);
    }

    /// A complete list: replaces the cache, but keeps objects that we wrote after its revision. What is to be
    /// named.
    ///
    /// A list that is older than what the server has told before is that of a server that was set back: then
    /// it counts.
    pub(crate) fn listed<I: Into<Item<K>>>(&self, objects: Vec<I>, revision_of_list: u64) -> Vec<Unread> {
        let objects: Vec<Item<K>> = objects.into_iter().map(Into::into).collect();
        let present: HashSet<ObjectKey> = objects.iter().map(key_of).collect();
        let origin;
        let gone: Vec<Option<Change<K>>> = {
            let mut state = self.write();
            let is_set_back = revision_of_list < state.seen;
            origin = if is_set_back { Origin::SetBack } else { Origin::List };
            state.seen = revision_of_list;
            state.ended.clear();
            let gone: Vec<ObjectKey> = state
                .objects
                .iter()
                .filter(|(key, entry)| {
                    let may_be_ours = revision(entry.known.meta()) > revision_of_list;
                    !present.contains(key) && (is_set_back || !may_be_ours)
                })
                .map(|(key, _)| key.clone())
                .collect();
            gone.iter().map(|key| self.remove_locked(&mut state, key)).collect()
        };
        for change in gone {
            self.notify(change);
        }
        let unread = objects.into_iter().filter_map(|object| self.put(object, origin)).collect();
        self.synced.send_replace(true);
        unread
    }

    fn put(&self, item: Item<K>, origin: Origin) -> Option<Unread> {
        let (mut object, error) = match item {
            Item::Readable(object) => (object, None),
            Item::Unreadable { partial, error } => (partial, Some(error)),
        };
        (self.trim)(&mut object);
        let key = key_of(&object);
        let new_revision = revision(object.meta());
        let change = {
            let mut state = self.write();
            match origin {
                Origin::Write if new_revision <= state.seen => return None,
                Origin::Watch => state.seen = state.seen.max(new_revision),
                Origin::Write | Origin::List | Origin::SetBack => {}
            }
            if object.meta().uid.as_ref().is_some_and(|uid| state.ended.contains(uid)) {
                return None;
            }
            if let Some(there) = state.objects.get(&key) {
                let there = revision(there.known.meta());
                // 0: a server whose revisions are no numbers; then the order of arrival decides.
                if there != 0 && there >= new_revision && origin != Origin::SetBack {
                    return None;
                }
            }
            let known = Arc::new(object);
            let entry = Entry { known: known.clone(), is_readable: error.is_none() };
            let old = state.objects.insert(key.clone(), entry);
            let old_terms = old.as_ref().map(|old| (self.terms)(&old.known)).unwrap_or_default();
            let new_terms = (self.terms)(&known);
            unindex(&mut state.index, &key, old_terms.iter().filter(|t| !new_terms.contains(t)));
            for term in new_terms.into_iter().filter(|t| !old_terms.contains(t)) {
                state.index.entry(term).or_default().insert(key.clone());
            }
            match error {
                // Who compares must not compare with what could not be read.
                None => {
                    let old = old.and_then(|old| old.readable());
                    Change { key: key.clone(), old, new: Some(known), unreadable: None }
                }
                Some(_) => {
                    let old = old.map(|old| old.known);
                    Change { key: key.clone(), old, new: None, unreadable: Some(known) }
                }
            }
        };
        self.notify(Some(change));
        error.map(|error| Unread { key, revision: new_revision, error })
    }

    fn remove_locked(&self, state: &mut State<K>, key: &ObjectKey) -> Option<Change<K>> {
        let old = state.objects.remove(key)?.known;
        unindex(&mut state.index, key, (self.terms)(&old).iter());
        Some(Change { key: key.clone(), old: Some(old), new: None, unreadable: None })
    }

    fn notify(&self, change: Option<Change<K>>) {
        let Some(change) = change else { return };
        let listeners = self
            .listeners
            .get_or_init(|| std::mem::take(&mut *self.pending_listeners.lock().expect("not poisoned")));
        for listener in listeners {
            listener(&change);
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State<K>> {
        self.state.read().expect("not poisoned")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State<K>> {
        self.state.write().expect("not poisoned")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Write,
    Watch,
    List,
    /// A list of a server whose revisions are older than what it told before.
    SetBack,
}

fn unindex<'a>(
    index: &mut HashMap<Term, HashSet<ObjectKey>>,
    key: &ObjectKey,
    terms: impl Iterator<Item = &'a Term>,
) {
    for term in terms {
        if let Some(keys) = index.get_mut(term) {
            keys.remove(key);
            if keys.is_empty() {
                index.remove(term);
            }
        }
    }
}

/// The object's revision, 0 when it has none or it is no number.
fn revision(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
