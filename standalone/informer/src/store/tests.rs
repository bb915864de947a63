//! What readers and listeners see of lists, watches and own writes.

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
    store.listed(Vec::<ConfigMap>::new(), 5);
    store.wrote(object("a", 6, "red"));
    assert!(store.get(&key("a")).is_some());
    assert_eq!(red(&store), 1);
}

#[test]
fn a_server_that_was_set_back_is_believed() {
    let store = store();
    store.listed(vec![object("a", 90, "red"), object("b", 95, "red")], 100);
    store.wrote(object("c", 120, "red"));
    store.listed(vec![object("a", 40, "blue")], 50);
    assert_eq!((red(&store), store.keys()), (0, vec![key("a")]));
    store.applied(object("a", 51, "red"));
    assert_eq!(red(&store), 1, "and followed from there");
    store.wrote(object("d", 52, "red"));
    store.listed(vec![object("a", 51, "red")], 51);
    assert!(store.exists(&key("d")), "what is written after a list stays");
}

#[test]
fn answer_that_arrives_after_the_watch_told_of_the_end_makes_no_ghost() {
    let store = store();
    store.listed(Vec::<ConfigMap>::new(), 5);
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
fn broken(name: &str, revision: u64, color: &str) -> Item<ConfigMap> {
    Item::Unreadable { partial: object(name, revision, color), error: "broken".into() }
}

#[test]
fn unreadable_object_is_there_and_named_once_a_revision() {
    let store = store();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    store.on_change(move |change: &Change<ConfigMap>| {
        log.lock().unwrap().push((change.old.is_some(), change.new.is_some(), change.is_gone()));
    });
    let named = store.listed(vec![broken("a", 3, "red"), object("b", 4, "red").into()], 5);
    assert_eq!(named, [Unread { key: key("a"), revision: 3, error: "broken".into() }]);
    assert!(store.is_synced(), "one broken object keeps no list from being complete");
    assert!(store.listed(vec![broken("a", 3, "red"), object("b", 4, "red").into()], 6).is_empty());
    assert!(store.exists(&key("a")) && store.get(&key("a")).is_none());
    assert_eq!((red(&store), store.unreadable().len()), (1, 1));
    let red = [("color".to_owned(), "red".to_owned())].into();
    assert_eq!(store.unreadable_with_labels("ns", &red).len(), 1);
    assert!(store.applied(broken("b", 7, "red")).is_some());
    assert!(store.applied(object("b", 8, "red")).is_none());
    store.deleted(&object("a", 9, "red"));
    assert!(!store.exists(&key("a")));
    assert_eq!(
        *seen.lock().unwrap(),
        [
            (false, false, false),
            (false, true, false),
            (true, false, false),
            (false, true, false),
            (true, false, true)
        ]
    );
}
