//! Which kinds the API server has, with a metadata cache of each that can be watched.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject, PartialObjectMeta};
use kube::core::discovery::{ApiCapabilities, Scope, verbs};
use kube::{Client, Discovery, ResourceExt};
use skerry_informer::{
    Change, Item as Read, Narrow, ObjectKey, Queue, Readers, Store, Term, key_of, reflect,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{FOREGROUND, Item, ORPHAN};

pub type Meta = PartialObjectMeta<DynamicObject>;

/// Events are many, short-lived and own nothing.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];
/// Between two looks at what kinds there are, when one of them failed or while definitions change.
const AGAIN: Duration = Duration::from_secs(1);

/// A kind that the API server has.
pub struct WatchedKind {
    pub resource: ApiResource,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    store: Option<Arc<Store<Meta>>>,
    watch: CancellationToken,
}

impl WatchedKind {
    /// Its cache, if it can be watched.
    pub fn store(&self) -> Option<&Arc<Store<Meta>>> {
        self.store.as_ref()
    }

    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|has| has == verb)
    }
}

/// Listener for changes of any object of any watched kind.
pub type OnChange = Arc<dyn Fn(&WatchedKindName, &Change<Meta>) + Send + Sync>;

/// `group/version/plural`.
pub type WatchedKindName = Arc<str>;

#[derive(Default)]
pub struct Inventory {
    kinds: RwLock<HashMap<WatchedKindName, Arc<WatchedKind>>>,
    changed: Notify,
}

impl Inventory {
    pub fn kind(&self, name: &str) -> Option<Arc<WatchedKind>> {
        self.read().get(name).cloned()
    }

    /// The kind of this group, whatever its version.
    pub fn by_kind(&self, group: &str, kind: &str) -> Option<Arc<WatchedKind>> {
        self.read().values().find(|k| k.resource.group == group && k.resource.kind == kind).cloned()
    }

    pub fn all(&self) -> Vec<(WatchedKindName, Arc<WatchedKind>)> {
        self.read().iter().map(|(name, kind)| (name.clone(), kind.clone())).collect()
    }

    /// Every object that names this uid as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<(Item, Arc<Meta>)> {
        let term = Term::Owner(uid.to_owned());
        let mut found = Vec::new();
        for (name, kind) in self.all() {
            let Some(store) = kind.store() else { continue };
            for meta in store.by_term(&term).into_iter().chain(store.unreadable_by_term(&term)) {
                found.push((Item { resource: name.clone(), key: key_of(&*meta) }, meta));
            }
        }
        found
    }

    /// Returns once each kind that is known now is in its cache.
    pub async fn synced(&self) {
        while self.read().is_empty() {
            self.changed.notified().await;
        }
        for (_, kind) in self.all() {
            let Some(store) = kind.store() else { continue };
            tokio::select! {
                () = store.synced() => {}
                () = kind.watch.cancelled() => {}
            }
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<WatchedKindName, Arc<WatchedKind>>> {
        self.kinds.read().expect("not poisoned")
    }
}

/// Queues what a change may have made garbage.
pub fn queue_on_change(inventory: &Arc<Inventory>, queue: Arc<Queue<Item>>) -> OnChange {
    let weak = Arc::downgrade(inventory);
    Arc::new(move |name, change| {
        let item = Item { resource: name.clone(), key: change.key.clone() };
        let Some(inventory) = weak.upgrade() else { return };
        let owned =
            |meta: &Meta| meta.metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
        let waits = |meta: &Meta| {
            meta.metadata.deletion_timestamp.is_some()
                && meta.finalizers().iter().any(|f| f == FOREGROUND || f == ORPHAN)
        };
        match (&change.old, &change.new) {
            (old, Some(new)) => {
                if owned(new) || waits(new) {
                    queue.add(item);
                }
                if waits(new) && !old.as_deref().is_some_and(waits) {
                    queue_dependents(&inventory, new, &queue);
                }
            }
            (Some(old), None) if change.is_gone() => {
                queue_dependents(&inventory, old, &queue);
                // Owners that wait for their dependents may go now.
                for owner in old.metadata.owner_references.iter().flatten() {
                    let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
                    let Some(kind) = inventory.by_kind(group, &owner.kind) else { continue };
                    let namespace = if kind.namespaced { change.key.namespace() } else { "" };
                    let key = ObjectKey::new(namespace, &owner.name);
                    queue.add(Item { resource: kind_name(&kind.resource), key });
                }
            }
            (_, None) => {}
        }
    })
}

fn queue_dependents(inventory: &Inventory, owner: &Meta, queue: &Queue<Item>) {
    for (dependent, _) in inventory.dependents(owner.metadata.uid.as_deref().unwrap_or("")) {
        queue.add(dependent);
    }
}

fn kind_name(resource: &ApiResource) -> WatchedKindName {
    format!("{}/{}/{}", resource.group, resource.version, resource.plural).into()
}

/// Keeps the inventory equal to what the API server has, until `shutdown`: looks at the start and whenever a
/// custom resource definition or an aggregated API changes.
pub async fn discover(
    client: Client,
    inventory: Arc<Inventory>,
    listeners: Vec<OnChange>,
    readers: Readers,
    shutdown: CancellationToken,
) {
    let mut watches = JoinSet::new();
    let definitions_changed = Arc::new(Notify::new());
    let mut first = true;
    loop {
        let found = shutdown.run_until_cancelled(look(&client)).await;
        match found {
            None => break,
            Some(Ok(found)) => {
                let start = Start { client: &client, listeners: &listeners, readers: &readers };
                take(&start, &inventory, found, &definitions_changed, &mut watches, &shutdown);
                inventory.changed.notify_waiters();
                inventory.changed.notify_one();
                if first {
                    first = false;
                    debug!(kinds = inventory.all().len(), "kinds of the API server are known");
                }
            }
            Some(Err(error)) => {
                warn!(%error, "kinds of the API server could not be read; trying again in {AGAIN:?}");
                definitions_changed.notify_one();
            }
        }
        let woken = async {
            definitions_changed.notified().await;
            // A definition is served a moment after it is stored.
            tokio::time::sleep(AGAIN).await;
        };
        if shutdown.run_until_cancelled(woken).await.is_none() {
            break;
        }
    }
    while watches.join_next().await.is_some() {}
}

async fn look(client: &Client) -> kube::Result<Vec<(ApiResource, ApiCapabilities)>> {
    // One request for all groups where the server has aggregated discovery, one a group where not.
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        Err(_) => Discovery::new(client.clone()).run().await?,
    };
    Ok(discovery.groups().flat_map(|group| group.resources_by_stability()).collect())
}

/// What a watch is started with.
struct Start<'a> {
    client: &'a Client,
    listeners: &'a [OnChange],
    readers: &'a Readers,
}

fn take(
    start: &Start<'_>,
    inventory: &Arc<Inventory>,
    found: Vec<(ApiResource, ApiCapabilities)>,
    definitions_changed: &Arc<Notify>,
    watches: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) {
    let Start { client, listeners, readers } = *start;
    let mut kinds = inventory.kinds.write().expect("not poisoned");
    let mut gone: Vec<WatchedKindName> = kinds.keys().cloned().collect();
    for (resource, capabilities) in found {
        let name = kind_name(&resource);
        gone.retain(|known| *known != name);
        if kinds.contains_key(&name) {
            continue;
        }
        let can = |verb| capabilities.supports_operation(verb);
        let ignored = IGNORED.contains(&(&resource.group, &resource.plural));
        let watched = can(verbs::LIST) && can(verbs::WATCH) && can(verbs::DELETE) && !ignored;
        let token = shutdown.child_token();
        let store = watched.then(|| {
            let store = Store::new(super::terms, trim);
            for listener in listeners {
                let (listener, name) = (listener.clone(), name.clone());
                store.on_change(move |change: &Change<Meta>| listener(&name, change));
            }
            if matches!(&*resource.plural, "customresourcedefinitions" | "apiservices") {
                let changed = definitions_changed.clone();
                store.on_change(move |_: &Change<Meta>| changed.notify_one());
            }
            let api: Api<Read<Meta>> = Api::all_with(client.clone(), &resource);
            watches.spawn(reflect(api, store.clone(), Narrow::default(), readers.clone(), token.clone()));
            store
        });
        let kind = WatchedKind {
            namespaced: matches!(capabilities.scope, Scope::Namespaced),
            verbs: capabilities.operations,
            resource,
            store,
            watch: token,
        };
        kinds.insert(name, Arc::new(kind));
    }
    for name in gone {
        if let Some(kind) = kinds.remove(&name) {
            kind.watch.cancel();
        }
    }
}

/// Of an object's metadata only what ownership and deletion need.
fn trim(meta: &mut Meta) {
    meta.types = None;
    let metadata = &mut meta.metadata;
    metadata.managed_fields = None;
    metadata.annotations = None;
    metadata.labels = None;
    metadata.generate_name = None;
    metadata.self_link = None;
    metadata.creation_timestamp = None;
}
