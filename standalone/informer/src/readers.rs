//! How the caches of this process do: which are not filled yet, which objects can't be read. For readiness
//! and metrics.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use kube::Resource;

use crate::{ObjectKey, Store, key_of};

/// Shared by all who watch with it; clones are the same.
#[derive(Clone, Default)]
pub struct Readers {
    shared: Arc<Shared>,
    is_optional: bool,
}

#[derive(Default)]
struct Shared {
    caches: Mutex<Vec<Box<dyn Look>>>,
    unreadable_total: AtomicU64,
}

/// One cache, looked at from outside; `None` once it is gone.
trait Look: Send {
    fn look(&self) -> Option<State>;
}

struct State {
    plural: String,
    is_filled: bool,
    unreadable: Vec<ObjectKey>,
}

struct Cache<K> {
    plural: String,
    is_optional: bool,
    store: Weak<Store<K>>,
}

impl<K: Resource + Send + Sync> Look for Cache<K> {
    fn look(&self) -> Option<State> {
        let store = self.store.upgrade()?;
        let unreadable = store.unreadable().iter().map(|object| key_of(&**object)).collect();
        let is_filled = store.is_synced() || self.is_optional;
        Some(State { plural: self.plural.clone(), is_filled, unreadable })
    }
}

/// What is wrong at one moment; each list without repetitions, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Plurals of kinds whose first list is not there yet: nothing is decided before it is.
    pub filling: Vec<String>,
    /// `services default/web`.
    pub unreadable: Vec<String>,
}

impl Readers {
    /// The same, for caches that nothing has to wait for.
    pub fn optional(&self) -> Self {
        Self { shared: self.shared.clone(), is_optional: true }
    }

    pub(crate) fn add<K: Resource + Send + Sync + 'static>(&self, path: &str, store: &Arc<Store<K>>) {
        let plural = path.rsplit('/').next().unwrap_or(path).to_owned();
        let mut caches = self.shared.caches.lock().expect("not poisoned");
        caches.retain(|cache| cache.look().is_some());
        let store = Arc::downgrade(store);
        caches.push(Box::new(Cache { plural, is_optional: self.is_optional, store }));
    }

    pub(crate) fn met_unreadable(&self) {
        self.shared.unreadable_total.fetch_add(1, Ordering::Relaxed);
    }

    /// Revisions of objects that could not be read, since the start.
    pub fn unreadable_total(&self) -> u64 {
        self.shared.unreadable_total.load(Ordering::Relaxed)
    }

    pub fn report(&self) -> Report {
        let caches = self.shared.caches.lock().expect("not poisoned");
        let states: Vec<State> = caches.iter().filter_map(|cache| cache.look()).collect();
        drop(caches);
        let filling = states.iter().filter(|state| !state.is_filled).map(|state| state.plural.clone());
        let names = |state: &State| {
            let name = |key: &ObjectKey| format!("{} {key}", state.plural);
            state.unreadable.iter().map(name).collect::<Vec<_>>()
        };
        let unreadable: BTreeSet<String> = states.iter().flat_map(names).collect();
        Report {
            filling: filling.collect::<BTreeSet<_>>().into_iter().collect(),
            unreadable: unreadable.into_iter().collect(),
        }
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").field("unreadable_total", &self.unreadable_total()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Item;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    #[test]
    fn report_names_what_is_not_filled_and_what_cannot_be_read() {
        let readers = Readers::default();
        let store = Store::<Service>::new(|_| Vec::new(), |_| {});
        readers.add("/api/v1/services", &store);
        readers.optional().add("/apis/x.io/v1/things", &Store::<Service>::new(|_| Vec::new(), |_| {}));
        assert_eq!(readers.report().filling, ["services"]);
        let broken = json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": {"ports": 7}});
        let items: Vec<Item<Service>> = vec![serde_json::from_value(broken).unwrap()];
        assert_eq!(store.listed(items, 1).len(), 1);
        let report = Report { filling: vec![], unreadable: vec!["services ns/web".to_owned()] };
        assert_eq!(readers.report(), report);
        drop(store);
        assert_eq!(readers.report(), Report::default(), "a cache that is gone says nothing");
    }
}
