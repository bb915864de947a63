//! What changed since the core looked last: each object at most once, so it is bounded by the number of
//! objects.

use std::collections::HashSet;
use std::sync::Mutex;

use skerry_informer::ObjectKey;
use tokio::sync::Notify;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Item {
    Node(ObjectKey),
    Pod(ObjectKey),
    Claim(ObjectKey),
    /// A volume or a class, by name.
    Volume(ObjectKey),
}

#[derive(Default)]
pub struct Inbox {
    items: Mutex<(Vec<Item>, HashSet<Item>)>,
    changed: Notify,
}

impl Inbox {
    pub fn put(&self, item: Item) {
        let mut items = self.items.lock().expect("not poisoned");
        if items.1.insert(item.clone()) {
            items.0.push(item);
            self.changed.notify_one();
        }
    }

    /// Everything that waits, in the order in which it was put first.
    pub fn drain(&self) -> Vec<Item> {
        let mut items = self.items.lock().expect("not poisoned");
        items.1.clear();
        std::mem::take(&mut items.0)
    }

    /// Returns when something was put since the last drain.
    pub async fn filled(&self) {
        self.changed.notified().await;
    }
}
