//! The tables in memory: every key's versions back to the oldest revision kept, and the changes in revision
//! order. Pure: no locks, no files.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;

use crate::{Change, Entry, Expect, Listing, Op, Range, StoreError};

/// What of the past is kept: whichever bound is met first lets go of the oldest change.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Writes, not transactions: one of three keys counts three times.
    pub max_changes: usize,
    /// Sum of key and value lengths of the changes kept.
    pub max_bytes: usize,
}

#[derive(Clone, Debug)]
struct Version {
    mod_revision: u64,
    create_revision: u64,
    /// `None`: deleted at `mod_revision`.
    value: Option<Bytes>,
}

/// Newest last; never empty. Nearly every key has one.
#[derive(Debug)]
struct Versions {
    newest: Version,
    older: Vec<Version>,
}

impl Versions {
    fn at(&self, revision: u64) -> Option<&Version> {
        if self.newest.mod_revision <= revision {
            return Some(&self.newest);
        }
        self.older.iter().rev().find(|v| v.mod_revision <= revision)
    }

    fn push(&mut self, version: Version) {
        let old = std::mem::replace(&mut self.newest, version);
        self.older.push(old);
    }

    /// Takes the newest away; `false`: it was the only one.
    fn pop(&mut self) -> bool {
        match self.older.pop() {
            Some(version) => {
                self.newest = version;
                true
            }
            None => false,
        }
    }
}

/// A key's new state as the log records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub key: Arc<str>,
    pub create_revision: u64,
    pub mod_revision: u64,
    pub value: Option<Bytes>,
}

#[derive(Debug)]
pub struct Tree {
    keys: BTreeMap<Arc<str>, Versions>,
    /// Published changes, oldest first; all of revision > `oldest`.
    history: VecDeque<Arc<Change>>,
    history_bytes: usize,
    retention: Retention,
    /// Revisions below this cannot be listed or watched from.
    oldest: u64,
    /// The newest revision given out.
    assigned: u64,
    /// The newest revision that readers see.
    visible: u64,
}

impl Tree {
    pub fn new(retention: Retention) -> Tree {
        Tree {
            keys: BTreeMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            retention,
            oldest: 1,
            assigned: 1,
            visible: 1,
        }
    }

    pub fn visible(&self) -> u64 {
        self.visible
    }

    /// Puts a recovered write in place. Only before the first transaction.
    pub fn restore(&mut self, write: Write) {
        let revision = write.mod_revision;
        match write.value {
            Some(_) => {
                let version = Version {
                    mod_revision: revision,
                    create_revision: write.create_revision,
                    value: write.value,
                };
                self.keys.insert(write.key, Versions { newest: version, older: Vec::new() });
            }
            None => {
                self.keys.remove(&write.key);
            }
        }
        self.start_at(self.assigned.max(revision));
    }

    /// Sets the revision that the next transaction follows; what lies before cannot be watched from.
    pub fn start_at(&mut self, revision: u64) {
        self.assigned = revision;
        self.visible = revision;
        self.oldest = revision;
    }

    /// Checks every expectation against the newest writes (also those not yet visible) and applies the
    /// transaction under the next revision. The result stays invisible until [`Tree::publish`].
    pub fn apply(&mut self, ops: &[Op]) -> Result<(u64, Vec<Write>), StoreError> {
        for op in ops {
            let (Op::Put { key, expect, .. } | Op::Delete { key, expect }) = op;
            let newest = self.keys.get(key).map(|v| &v.newest).filter(|v| v.value.is_some());
            let holds = match (expect, newest) {
                (Expect::Any, _) | (Expect::Absent, None) => true,
                (Expect::Revision(revision), Some(version)) => version.mod_revision == *revision,
                (Expect::Absent, Some(_)) | (Expect::Revision(_), None) => false,
            };
            if !holds {
                let actual = newest.and_then(|version| entry(key, version));
                return Err(StoreError::Conflict { key: key.clone(), actual });
            }
        }
        let revision = self.assigned + 1;
        let mut writes = Vec::with_capacity(ops.len());
        for op in ops {
            let (key, value) = match op {
                Op::Put { key, value, .. } => (key, Some(value.clone())),
                Op::Delete { key, .. } => (key, None),
            };
            let newest = self.keys.get(key).map(|v| &v.newest).filter(|v| v.value.is_some());
            if value.is_none() && newest.is_none() {
                continue;
            }
            let create_revision = newest.map_or(revision, |v| v.create_revision);
            let version = Version { mod_revision: revision, create_revision, value: value.clone() };
            // The tree's own copy of the key lives on: an update brings no second allocation.
            let key = match self.keys.get_key_value(key) {
                Some((known, _)) => known.clone(),
                None => key.clone(),
            };
            match self.keys.get_mut(&key) {
                Some(versions) => versions.push(version),
                None => {
                    self.keys.insert(key.clone(), Versions { newest: version, older: Vec::new() });
                }
            }
            writes.push(Write { key, create_revision, mod_revision: revision, value });
        }
        self.assigned = revision;
        Ok((revision, writes))
    }

    /// Makes applied writes visible and returns the changes for watchers. In revision order.
    pub fn publish(&mut self, revision: u64, writes: Vec<Write>) -> Vec<Arc<Change>> {
        let mut changes = Vec::with_capacity(writes.len());
        for write in writes {
            let before = self.keys.get(&write.key).and_then(|versions| versions.at(revision - 1));
            let previous = before.and_then(|version| entry(&write.key, version));
            let change = match (write.value, previous) {
                (Some(value), previous) => Change::Put {
                    entry: Entry {
                        key: write.key,
                        value,
                        create_revision: write.create_revision,
                        mod_revision: revision,
                    },
                    previous,
                },
                (None, Some(previous)) => Change::Delete { revision, previous },
                (None, None) => continue,
            };
            changes.push(Arc::new(change));
        }
        for change in &changes {
            self.history_bytes += weight(change);
            self.history.push_back(change.clone());
        }
        self.visible = revision;
        while self.history.len() > self.retention.max_changes || self.history_bytes > self.retention.max_bytes
        {
            self.forget_oldest();
        }
        changes
    }

    /// Takes back every applied write above the visible revision; their revisions are not used again.
    pub fn roll_back(&mut self, writes: impl IntoIterator<Item = Write>) {
        // Newest first, so that each pop meets the version that its write pushed.
        let mut writes: Vec<Write> = writes.into_iter().collect();
        writes.sort_by_key(|write| std::cmp::Reverse(write.mod_revision));
        for write in writes {
            let only = match self.keys.get_mut(&write.key) {
                Some(versions) if versions.newest.mod_revision == write.mod_revision => !versions.pop(),
                Some(_) | None => false,
            };
            if only {
                self.keys.remove(&write.key);
            }
        }
    }

    pub fn get(&self, key: &str) -> Option<Entry> {
        let (key, versions) = self.keys.get_key_value(key)?;
        entry(key, versions.at(self.visible)?)
    }

    pub fn list(&self, range: &Range) -> Result<Listing, StoreError> {
        let revision = range.revision.unwrap_or(self.visible);
        self.check(revision)?;
        let start = match &range.after {
            Some(after) if after.as_str() >= range.prefix.as_str() => Bound::Excluded(after.as_str()),
            Some(_) | None => Bound::Included(range.prefix.as_str()),
        };
        let mut entries = Vec::new();
        let mut remaining = 0;
        for (key, versions) in self.keys.range::<str, _>((start, Bound::Unbounded)) {
            if !key.starts_with(range.prefix.as_str()) {
                break;
            }
            let Some(found) = versions.at(revision).and_then(|version| entry(key, version)) else { continue };
            if range.limit != 0 && entries.len() == range.limit {
                remaining += 1;
            } else {
                entries.push(found);
            }
        }
        Ok(Listing { entries, revision, remaining })
    }

    /// The visible changes of `prefix` after `after`, oldest first.
    pub fn since(&self, prefix: &str, after: u64) -> Result<Vec<Arc<Change>>, StoreError> {
        self.check(after)?;
        let start = self.history.partition_point(|change| change.revision() <= after);
        let matching = self.history.range(start..).filter(|change| change.key().starts_with(prefix));
        Ok(matching.cloned().collect())
    }

    pub fn compact(&mut self, revision: u64) {
        let revision = revision.min(self.visible);
        while self.history.front().is_some_and(|change| change.revision() <= revision) {
            self.forget_oldest();
        }
        self.oldest = self.oldest.max(revision);
    }

    /// The newest version of every key that is visible, in key order: a snapshot's content.
    pub fn dump(&self) -> Vec<Write> {
        let visible = |(key, versions): (&Arc<str>, &Versions)| {
            let version = versions.at(self.visible).filter(|v| v.value.is_some())?;
            Some(Write {
                key: key.clone(),
                create_revision: version.create_revision,
                mod_revision: version.mod_revision,
                value: version.value.clone(),
            })
        };
        self.keys.iter().filter_map(visible).collect()
    }

    /// A key's newest visible state as a write; a tombstone if it is gone.
    pub fn current(&self, key: &Arc<str>) -> Write {
        match self.keys.get(key).and_then(|versions| versions.at(self.visible)) {
            Some(version) => Write {
                key: key.clone(),
                create_revision: version.create_revision,
                mod_revision: version.mod_revision,
                value: version.value.clone(),
            },
            None => Write { key: key.clone(), create_revision: 0, mod_revision: self.visible, value: None },
        }
    }

    fn check(&self, revision: u64) -> Result<(), StoreError> {
        if revision < self.oldest {
            return Err(StoreError::Compacted { asked: revision, oldest: self.oldest });
        }
        if revision > self.visible {
            return Err(StoreError::Future { asked: revision, newest: self.visible });
        }
        Ok(())
    }

    fn forget_oldest(&mut self) {
        let Some(change) = self.history.pop_front() else { return };
        self.history_bytes -= weight(&change);
        let revision = change.revision();
        self.oldest = self.oldest.max(revision);
        let key = change.key();
        let Some(versions) = self.keys.get_mut(key) else { return };
        // At this revision and later the version written then, or a newer one, is what readers see.
        let keep = versions.older.partition_point(|v| v.mod_revision < revision);
        versions.older.drain(..keep);
        if versions.older.first().is_some_and(|v| v.value.is_none() && v.mod_revision <= self.oldest) {
            versions.older.remove(0);
        }
        if versions.older.is_empty() {
            versions.older.shrink_to_fit();
            let newest = &versions.newest;
            if newest.value.is_none() && newest.mod_revision <= self.oldest {
                self.keys.remove(key);
            }
        }
    }
}

fn entry(key: &Arc<str>, version: &Version) -> Option<Entry> {
    Some(Entry {
        key: key.clone(),
        value: version.value.clone()?,
        create_revision: version.create_revision,
        mod_revision: version.mod_revision,
    })
}

fn weight(change: &Change) -> usize {
    let value = match change {
        Change::Put { entry, .. } => entry.value.len(),
        Change::Delete { .. } => 0,
    };
    change.key().len() + value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const KEEP: Retention = Retention { max_changes: 1000, max_bytes: 1 << 20 };

    fn put(key: &str, value: &str, expect: Expect) -> Op {
        Op::Put { key: key.into(), value: Bytes::from(value.to_owned()), expect }
    }

    fn commit(tree: &mut Tree, ops: &[Op]) -> Result<u64, StoreError> {
        let (revision, writes) = tree.apply(ops)?;
        tree.publish(revision, writes);
        Ok(revision)
    }

    #[test]
    fn a_failed_expectation_changes_nothing() {
        let mut tree = Tree::new(KEEP);
        commit(&mut tree, &[put("/a", "1", Expect::Absent)]).unwrap();
        let before = tree.visible();
        let error = commit(&mut tree, &[put("/b", "1", Expect::Any), put("/a", "2", Expect::Absent)]);
        assert!(matches!(error, Err(StoreError::Conflict { actual: Some(_), .. })));
        assert_eq!(tree.visible(), before);
        assert!(tree.get("/b").is_none());
    }

    #[test]
    fn a_list_at_an_old_revision_shows_the_past() {
        let mut tree = Tree::new(KEEP);
        let first = commit(&mut tree, &[put("/p/a", "1", Expect::Any)]).unwrap();
        commit(&mut tree, &[put("/p/a", "2", Expect::Any), put("/p/b", "1", Expect::Any)]).unwrap();
        commit(&mut tree, &[Op::Delete { key: "/p/a".into(), expect: Expect::Any }]).unwrap();
        let range = Range { prefix: "/p/".into(), revision: Some(first), ..Range::default() };
        let listing = tree.list(&range).unwrap();
        assert_eq!(listing.entries.len(), 1);
        assert_eq!(listing.entries[0].value, "1");
        let now = tree.list(&Range { prefix: "/p/".into(), ..Range::default() }).unwrap();
        assert_eq!(now.entries.iter().map(|e| &*e.key).collect::<Vec<_>>(), ["/p/b"]);
    }

    #[test]
    fn a_limited_list_says_how_many_remain_and_goes_on_after_a_key() {
        let mut tree = Tree::new(KEEP);
        for n in 0..5 {
            commit(&mut tree, &[put(&format!("/p/{n}"), "x", Expect::Any)]).unwrap();
        }
        let page = |after: Option<&str>| Range {
            prefix: "/p/".into(),
            after: after.map(str::to_owned),
            limit: 2,
            revision: None,
        };
        let first = tree.list(&page(None)).unwrap();
        assert_eq!((first.entries.len(), first.remaining), (2, 3));
        let last = tree.list(&page(Some("/p/3"))).unwrap();
        assert_eq!((last.entries.len(), last.remaining), (1, 0));
    }

    #[test]
    fn what_is_not_published_is_not_seen_and_can_be_taken_back() {
        let mut tree = Tree::new(KEEP);
        commit(&mut tree, &[put("/a", "1", Expect::Any)]).unwrap();
        let (_, one) = tree.apply(&[put("/a", "2", Expect::Any)]).unwrap();
        let (_, two) = tree.apply(&[put("/a", "3", Expect::Any), put("/b", "1", Expect::Any)]).unwrap();
        assert_eq!(tree.get("/a").unwrap().value, "1");
        tree.roll_back(one.into_iter().chain(two));
        assert_eq!(tree.get("/a").unwrap().value, "1");
        let next = commit(&mut tree, &[put("/a", "4", Expect::Any), put("/b", "2", Expect::Absent)]).unwrap();
        assert_eq!(next, 5, "revisions of failed transactions are not given out again");
        assert_eq!(tree.get("/a").unwrap().value, "4");
    }

    #[test]
    fn history_is_bounded_and_says_so() {
        let mut tree = Tree::new(Retention { max_changes: 3, max_bytes: 1 << 20 });
        for n in 0..10 {
            commit(&mut tree, &[put("/k", &n.to_string(), Expect::Any)]).unwrap();
        }
        assert!(matches!(tree.since("/", 2), Err(StoreError::Compacted { asked: 2, oldest: 8 })));
        assert_eq!(tree.since("/", 8).unwrap().len(), 3);
        assert!(tree.keys.get("/k").unwrap().older.len() <= 3);
    }

    #[test]
    fn a_deleted_key_leaves_no_trace_once_its_deletion_is_forgotten() {
        let mut tree = Tree::new(KEEP);
        commit(&mut tree, &[put("/k", "1", Expect::Any)]).unwrap();
        let gone = commit(&mut tree, &[Op::Delete { key: "/k".into(), expect: Expect::Any }]).unwrap();
        tree.compact(gone);
        assert!(tree.keys.is_empty());
    }

    proptest! {
        /// Every revision that can still be listed shows what a plain map held then.
        #[test]
        fn lists_equal_a_plain_map_at_every_kept_revision(
            ops in prop::collection::vec((0u8..6, prop::option::of(0u8..250)), 1..80), keep in 1usize..40,
        ) {
            let mut tree = Tree::new(Retention { max_changes: keep, max_bytes: 1 << 20 });
            let mut model: HashMap<String, String> = HashMap::new();
            let mut past = vec![(tree.visible(), model.clone())];
            for (key, value) in ops {
                let key = format!("/{key}");
                let op = match value {
                    Some(value) => {
                        model.insert(key.clone(), value.to_string());
                        put(&key, &value.to_string(), Expect::Any)
                    }
                    None => {
                        model.remove(&key);
                        Op::Delete { key: key.as_str().into(), expect: Expect::Any }
                    }
                };
                let revision = commit(&mut tree, &[op]).unwrap();
                past.push((revision, model.clone()));
            }
            for (revision, model) in past {
                let range = Range { prefix: "/".into(), revision: Some(revision), ..Range::default() };
                match tree.list(&range) {
                    Ok(listing) => {
                        let seen: HashMap<String, String> = listing.entries.iter()
                            .map(|e| (e.key.to_string(), String::from_utf8_lossy(&e.value).into_owned())).collect();
                        prop_assert_eq!(seen, model);
                    }
                    Err(error) => prop_assert!(matches!(error, StoreError::Compacted { .. }), "{}", error),
                }
            }
        }
    }
}
