use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_core::Stream;

/// A key and its value at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Arc<str>,
    pub value: Bytes,
    /// The transaction that made the key.
    pub create_revision: u64,
    /// The transaction that wrote this value: the API's `resourceVersion`.
    pub mod_revision: u64,
}

/// What must hold of a key for the transaction to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Any,
    Absent,
    /// Present, with this `mod_revision`.
    Revision(u64),
}

/// One write.
#[derive(Clone, Debug)]
pub enum Op {
    Put { key: Arc<str>, value: Bytes, expect: Expect },
    Delete { key: Arc<str>, expect: Expect },
}

/// All or nothing. Every write of a transaction gets the same revision; a key may stand in it once.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub ops: Vec<Op>,
}

/// The keys that start with `prefix` and sort after `after` (exclusive), at most `limit` (0: all), at
/// `revision` (`None`: the newest).
#[derive(Clone, Debug, Default)]
pub struct Range {
    pub prefix: String,
    pub after: Option<String>,
    pub limit: usize,
    pub revision: Option<u64>,
}

/// Entries in key order, the revision they are true of, and how many more there are behind a limit.
#[derive(Clone, Debug)]
pub struct Listing {
    pub entries: Vec<Entry>,
    pub revision: u64,
    pub remaining: usize,
}

/// A committed write as a watcher sees it. One allocation serves every watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put {
        entry: Entry,
        /// What the key held before; `None`: it was made now.
        previous: Option<Entry>,
    },
    Delete {
        /// The revision of the deletion.
        revision: u64,
        /// What the key held last.
        previous: Entry,
    },
}

impl Change {
    pub fn revision(&self) -> u64 {
        match self {
            Change::Put { entry, .. } => entry.mod_revision,
            Change::Delete { revision, .. } => *revision,
        }
    }

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
    Change(Arc<Change>),
    /// All changes up to this revision have been yielded (sent after a replay, and after
    /// [`Store::request_progress`]).
    Progress(u64),
    /// The watcher fell so far behind that the store let go of it: list again. The stream ends here.
    Lagged,
}

pub type Watch = Pin<Box<dyn Stream<Item = WatchItem> + Send>>;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An [`Expect`] did not hold. Nothing was written.
    #[error("key {key} is not as expected")]
    Conflict {
        key: Arc<str>,
        /// What it is instead; `None`: absent.
        actual: Option<Entry>,
    },
    #[error("revision {asked} is compacted, the oldest is {oldest}")]
    Compacted { asked: u64, oldest: u64 },
    #[error("revision {asked} is not reached yet, the newest is {newest}")]
    Future { asked: u64, newest: u64 },
    /// The disk (or etcd) refused. After a failed flush nobody knows what reached the disk: the store takes
    /// no more writes until it is opened again.
    #[error("store: {operation}")]
    Io { operation: String, source: std::io::Error },
    #[error("the store failed earlier ({why}): restart the server, it recovers what was confirmed")]
    Failed { why: Arc<str> },
    #[error("the store {path} is in use by another server: stop that one first")]
    InUse { path: String },
    #[error(
        "{path} is damaged at offset {offset} in what was durable: put the whole folder back from a backup, or make a file \
         SALVAGE beside it and start again to go on with what can be read, or move the folder away to begin an empty store"
    )]
    Damaged { path: String, offset: u64 },
    /// What is there is not what was confirmed: nothing is served of it, and nothing changed.
    #[error(
        "{problem}: put the whole folder {folder} back from a backup, or `touch {folder}/SALVAGE` and start again to go on \
         with what can be read, or move it away to begin an empty store"
    )]
    Incomplete { problem: String, folder: String },
    #[error("the store is out of space: free some on the file system of {path}")]
    Full { path: String },
}

#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest revision whose changes are visible.
    fn revision(&self) -> u64;

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

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
