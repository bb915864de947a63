//! The shared cache of one kind: objects, indexes, change notifications, read-your-writes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use kube::Resource;
use kube::api::ObjectMeta;
use tokio::sync::watch;

use crate::ObjectKey;

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
}

/// A change of one object, handed to every listener after the cache has it.
#[derive(Debug)]
pub struct Change<K> {
    pub key: ObjectKey,
    /// `None` when the object is new.
    pub old: Option<Arc<K>>,
    /// `None` when the object is gone.
    pub new: Option<Arc<K>>,
}

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

struct State<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    index: HashMap<Term, HashSet<ObjectKey>>,
    /// Revision up to which the watch has told us everything.
    seen: u64,
    /// Uids that a delete of our own has ended and whose last watch event is still to come. Emptied by that event and
    /// by every list, so it is bounded by the deletes in flight.
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

    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    pub fn list(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    pub fn keys(&self) -> Vec<ObjectKey> {
        self.read().objects.keys().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every object of one namespace, by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.read();
        let from = ObjectKey::new(namespace, "");
        state
            .objects
            .range(from..)
            .take_while(|(key, _)| &*key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Every object with this term, ordered by key.
    pub fn by_term(&self, term: &Term) -> Vec<Arc<K>> {
        let state = self.read();
        let Some(keys) = state.index.get(term) else { return Vec::new() };
        let mut keys: Vec<_> = keys.iter().collect();
        keys.sort();
        keys.into_iter().filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    /// Objects of a namespace that have all of `wanted`'s labels; walks only the rarest label's objects. All of the
    /// namespace when `wanted` is empty. Needs label terms.
    pub fn with_labels(&self, namespace: &str, wanted: &BTreeMap<String, String>) -> Vec<Arc<K>> {
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
        let Some(rarest) = rarest else { return self.in_namespace(namespace) };
        let mut found = self.by_term(&rarest);
        found.retain(|object| crate::matches_labels(wanted, object.meta().labels.as_ref()));
        found
    }

    /// Takes the API server's answer to a create, update, patch or graceful delete of ours into the cache.
    ///
    /// Revisions of one kind grow in the order of writes (KEP-5504), so an answer that is not newer than what the watch
    /// has already told is dropped: the watch may even have told of the object's end since.
    pub fn wrote(&self, object: K) {
        self.put(object, Origin::Write);
    }

    /// Takes out an object that a delete of ours ended at once. Its late watch events are ignored until the last.
    pub fn ended(&self, key: &ObjectKey, uid: &str) {
        let change = {
            let mut state = self.write();
            if state.objects.get(key).and_then(|o| o.meta().uid.as_deref()) != Some(uid) {
                return;
            }
            state.ended.insert(uid.to_owned());
            self.remove_locked(&mut state, key)
        };
        self.notify(change);
    }

    /// Watch told that the object is there or has changed.
    pub fn applied(&self, object: K) {
        self.put(object, Origin::Watch);
    }

    /// Watch told that the object is gone.
    pub fn deleted(&self, object: &K) {
        let key = ObjectKey::of(object);
        let change = {
            let mut state = self.write();
            state.seen = state.seen.max(revision(object.meta()));
            if let Some(uid) = &object.meta().uid {
                state.ended.remove(uid);
            }
            // A newer object of the same name may stand here already, written by ourselves.
            match state.objects.get(&key) {
                Some(there) if there.meta().uid == object.meta().uid => self.remove_locked(&mut state, &key),
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

    /// A complete list: replaces the cache, but keeps objects that we wrote after its revision.
    pub fn listed(&self, objects: Vec<K>, revision_of_list: u64) {
        let present: HashSet<ObjectKey> = objects.iter().map(ObjectKey::of).collect();
        let gone: Vec<Option<Change<K>>> = {
            let mut state = self.write();
            state.seen = revision_of_list;
            state.ended.clear();
            let gone: Vec<ObjectKey> = state
                .objects
                .iter()
                .filter(|(key, o)| !present.contains(key) && revision(o.meta()) <= revision_of_list)
                .map(|(key, _)| key.clone())
                .collect();
            gone.iter().map(|key| self.remove_locked(&mut state, key)).collect()
        };
        for change in gone {
            self.notify(change);
        }
        for object in objects {
            self.put(object, Origin::List);
        }
        self.synced.send_replace(true);
    }

    fn put(&self, mut object: K, origin: Origin) {
        (self.trim)(&mut object);
        let key = ObjectKey::of(&object);
        let new_revision = revision(object.meta());
        let change = {
            let mut state = self.write();
            match origin {
                Origin::Write if new_revision <= state.seen => return,
                Origin::Watch => state.seen = state.seen.max(new_revision),
                Origin::Write | Origin::List => {}
            }
            if object.meta().uid.as_ref().is_some_and(|uid| state.ended.contains(uid)) {
                return;
            }
            if let Some(there) = state.objects.get(&key) {
                let there = revision(there.meta());
                // 0: a server whose revisions are no numbers; then the order of arrival decides.
                if there != 0 && there >= new_revision {
                    return;
                }
            }
            let new = Arc::new(object);
            let old = state.objects.insert(key.clone(), new.clone());
            let old_terms = old.as_deref().map(self.terms).unwrap_or_default();
            let new_terms = (self.terms)(&new);
            unindex(&mut state.index, &key, old_terms.iter().filter(|t| !new_terms.contains(t)));
            for term in new_terms.into_iter().filter(|t| !old_terms.contains(t)) {
                state.index.entry(term).or_default().insert(key.clone());
            }
            Change { key, old, new: Some(new) }
        };
        self.notify(Some(change));
    }

    fn remove_locked(&self, state: &mut State<K>, key: &ObjectKey) -> Option<Change<K>> {
        let old = state.objects.remove(key)?;
        unindex(&mut state.index, key, (self.terms)(&old).iter());
        Some(Change { key: key.clone(), old: Some(old), new: None })
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

#[derive(Clone, Copy)]
enum Origin {
    Write,
    Watch,
    List,
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
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str, revision: u64, color: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                uid: Some(format!("uid-{name}")),
                resource_version: Some(revision.to_string()),
                labels: Some([("color".to_owned(), color.to_owned())].into()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn store() -> Arc<Store<ConfigMap>> {
        Store::new(
            |object| {
                let namespace: Arc<str> = object.metadata.namespace.as_deref().unwrap_or("").into();
                object
                    .metadata
                    .labels
                    .iter()
                    .flatten()
                    .map(|(key, value)| Term::Label {
                        namespace: namespace.clone(),
                        key: key.clone(),
                        value: value.clone(),
                    })
                    .collect()
            },
            |_| {},
        )
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("ns", name)
    }

    fn red(store: &Store<ConfigMap>) -> usize {
        store.with_labels("ns", &[("color".to_owned(), "red".to_owned())].into()).len()
    }

    #[test]
    fn own_write_is_read_back_before_the_watch_tells_of_it() {
        let store = store();
        store.listed(vec![], 5);
        store.wrote(object("a", 6, "red"));
        assert!(store.get(&key("a")).is_some());
        assert_eq!(red(&store), 1);
    }

    #[test]
    fn answer_that_arrives_after_the_watch_told_of_the_end_makes_no_ghost() {
        let store = store();
        store.listed(vec![], 5);
        store.applied(object("a", 6, "red"));
        store.deleted(&object("a", 7, "red"));
        store.wrote(object("a", 6, "red"));
        assert!(store.get(&key("a")).is_none());
    }

    #[test]
    fn older_watch_event_does_not_undo_an_own_write() {
        let store = store();
        store.listed(vec![object("a", 4, "red")], 5);
        store.wrote(object("a", 9, "blue"));
        store.applied(object("a", 7, "red"));
        assert_eq!(red(&store), 0);
        store.applied(object("a", 10, "red"));
        assert_eq!(red(&store), 1);
    }

    #[test]
    fn object_ended_by_ourselves_stays_away_until_its_last_event() {
        let store = store();
        store.listed(vec![object("a", 4, "red")], 5);
        store.ended(&key("a"), "uid-a");
        store.applied(object("a", 6, "red"));
        assert!(store.get(&key("a")).is_none());
        store.deleted(&object("a", 7, "red"));
        assert!(store.is_empty());
    }

    #[test]
    fn list_drops_what_it_lacks_but_keeps_later_writes() {
        let store = store();
        store.listed(vec![object("a", 1, "red"), object("b", 2, "red")], 5);
        store.wrote(object("c", 12, "red"));
        store.listed(vec![object("b", 2, "red")], 10);
        assert_eq!(store.keys(), [key("b"), key("c")]);
        assert_eq!(red(&store), 2);
    }

    #[test]
    fn listeners_see_old_and_new_and_the_index_follows() {
        let store = store();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        store.on_change(move |change: &Change<ConfigMap>| {
            log.lock().unwrap().push((change.old.is_some(), change.new.is_some()));
        });
        store.applied(object("a", 1, "red"));
        store.applied(object("a", 2, "blue"));
        store.deleted(&object("a", 3, "blue"));
        assert_eq!(*seen.lock().unwrap(), [(false, true), (true, true), (true, false)]);
        assert_eq!(red(&store), 0);
        assert!(store.read().index.is_empty());
    }
}
