use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_core::Stream;

/// A key and its value at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Sorted and compared as bytes. What it is made of is the caller's.
    pub key: Arc<str>,
    /// Never looked into.
    pub value: Bytes,
    /// The transaction that made the key.
    pub create_revision: u64,
    /// The transaction that wrote this value: the API's `resourceVersion`.
    pub mod_revision: u64,
}

/// What must hold of a key for the transaction to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Whether or not the key is there.
    Any,
    /// The key is not there.
    Absent,
    /// Present, with this `mod_revision`.
    Revision(u64),
}

/// One write.
#[derive(Clone, Debug)]
pub enum Op {
    /// Makes or overwrites a key.
    Put {
        /// What is written; see [`Entry::key`].
        key: Arc<str>,
        /// May be empty: that is not a deletion.
        value: Bytes,
        /// Of what the key held before.
        expect: Expect,
    },
    /// Removes a key; nothing where it is not there, if that is as expected.
    Delete {
        /// What is removed; see [`Entry::key`].
        key: Arc<str>,
        /// Of what the key held before.
        expect: Expect,
    },
}

/// All or nothing. Every write of a transaction gets the same revision; a key may stand in it once.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// One for each key that is written.
    pub ops: Vec<Op>,
}

/// The keys that start with `prefix` and sort after `after` (exclusive), at most `limit` (0: all), at
/// `revision` (`None`: the newest).
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// Empty: all keys.
    pub prefix: String,
    /// `None`: from the first on. A key that is gone meanwhile will do: `continue` tokens name one.
    pub after: Option<String>,
    /// Counts entries; more are told by [`Listing::remaining`].
    pub limit: usize,
    /// One that is not compacted.
    pub revision: Option<u64>,
}

/// Entries in key order, the revision they are true of, and how many more there are behind a limit.
#[derive(Clone, Debug)]
pub struct Listing {
    /// At most [`Range::limit`].
    pub entries: Vec<Entry>,
    /// Where a watch goes on from.
    pub revision: u64,
    /// 0: these are all.
    pub remaining: usize,
}

/// A committed write as a watcher sees it. One allocation serves every watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key was made or overwritten.
    Put {
        /// With the value and revisions that it has now.
        entry: Entry,
        /// What the key held before; `None`: it was made now.
        previous: Option<Entry>,
    },
    /// A key was removed.
    Delete {
        /// The revision of the deletion.
        revision: u64,
        /// What the key held last.
        previous: Entry,
    },
}

impl Change {
    /// Of the transaction that the write was in: several changes may have the same.
    pub fn revision(&self) -> u64 {
        match self {
            Change::Put { entry, .. } => entry.mod_revision,
            Change::Delete { revision, .. } => *revision,
        }
    }

    /// The key that was written.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Change::Put { entry, .. } => &entry.key,
            Change::Delete { previous, .. } => &previous.key,
        }
    }
}

/// What a [`Watch`] yields, in revision order.
#[derive(Clone, Debug)]
pub enum WatchItem {
    /// Of a key that starts with the watch's prefix.
    Change(Arc<Change>),
    /// All changes up to this revision have been yielded (sent after a replay, and after
    /// [`Store::request_progress`]).
    Progress(u64),
    /// The watcher fell so far behind that the store let go of it: list again. The stream ends here.
    Lagged,
}

/// What [`Store::watch`] gives. Dropping it ends the watch.
pub type Watch = Pin<Box<dyn Stream<Item = WatchItem> + Send>>;

/// Why the store has not done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An [`Expect`] did not hold. Nothing was written.
    #[error("key {key} is not as expected")]
    Conflict {
        /// The first of the transaction of which it did not hold.
        key: Arc<str>,
        /// What it is instead; `None`: absent.
        actual: Option<Entry>,
    },
    /// The past that was asked for is not kept any more ([`Store::compact`], [`Retention`](crate::Retention)).
    #[error("revision {asked} is compacted, the oldest is {oldest}")]
    Compacted {
        /// The revision that was asked for.
        asked: u64,
        /// The first that lists and watches may begin at.
        oldest: u64,
    },
    /// A revision that the store has not given yet, as after it was put back from a backup.
    #[error("revision {asked} is not reached yet, the newest is {newest}")]
    Future {
        /// The revision that was asked for.
        asked: u64,
        /// The newest that is visible.
        newest: u64,
    },
    /// The disk (or etcd) refused. After a failed flush nobody knows what reached the disk: the store takes
    /// no more writes until it is opened again.
    #[error("store: {operation}")]
    Io {
        /// What was tried, and with which file.
        operation: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// An earlier [`StoreError::Io`] has ended all writing; reading goes on.
    #[error("the store failed earlier ({why}): restart the server, it recovers what was confirmed")]
    Failed {
        /// That earlier error.
        why: Arc<str>,
    },
    /// Another process has the folder open.
    #[error("the store {path} is in use by another server: stop that one first")]
    InUse {
        /// The folder.
        path: String,
    },
    /// A file does not hold what was written to it: nothing is served of it, and nothing changed.
    #[error(
        "{path} is damaged at offset {offset} in what was durable: put the whole folder back from a backup, or make a file \
         SALVAGE beside it and start again to go on with what can be read, or move the folder away to begin an empty store"
    )]
    Damaged {
        /// The file.
        path: String,
        /// Of the first byte of the record that can't be read.
        offset: u64,
    },
    /// What is there is not what was confirmed: nothing is served of it, and nothing changed.
    #[error(
        "{problem}: put the whole folder {folder} back from a backup, or `touch {folder}/SALVAGE` and start again to go on \
         with what can be read, or move it away to begin an empty store"
    )]
    Incomplete {
        /// Which file is missing, damaged or another than the one that was written.
        problem: String,
        /// The store's folder.
        folder: String,
    },
    /// The disk, or a quota, has no room for the transaction: it was not carried out, later ones may be.
    #[error("the store is out of space: free some on the file system of {path}")]
    Full {
        /// The store's folder.
        path: String,
    },
}

/// Keys to bytes in one order of revisions. What it shows is durable and is never undone, but for keys that
/// its configuration excepts ([`Options::relaxed_prefixes`](crate::Options::relaxed_prefixes)).
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest revision whose changes are visible.
    fn revision(&self) -> u64;

    /// At the newest visible revision. `None`: not there.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// In key order, at [`Range::revision`].
    ///
    /// # Errors
    /// [`StoreError::Compacted`] and [`StoreError::Future`], of that revision.
    async fn list(&self, range: Range) -> Result<Listing, StoreError>;

    /// Durable before it returns the transaction's revision.
    async fn commit(&self, txn: Txn) -> Result<u64, StoreError>;

    /// The changes of keys that start with `prefix`, made after revision `after`.
    fn watch(&self, prefix: &str, after: u64) -> Result<Watch, StoreError>;

    /// Sends every watcher a [`WatchItem::Progress`] behind all changes up to the newest visible revision.
    fn request_progress(&self);

    /// Lets go of history before `revision`.
    async fn compact(&self, revision: u64) -> Result<(), StoreError>;
}
