//! What goes wrong below the server must not take it along.

use std::sync::Arc;

use crate::support::{CONFIG_MAPS, Client, config_map};
use skerry_apiserver::{Config, Server};
use skerry_store::{Entry, Listing, LogStore, Options, Range, Store, StoreError, Txn, Watch};
use tokio_util::sync::CancellationToken;

/// A store that panics at one key, has no room for another and breaks at a third.
struct Faulty(LogStore);

#[async_trait::async_trait]
impl Store for Faulty {
    fn revision(&self) -> u64 {
        self.0.revision()
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        assert!(!key.ends_with("/panic"), "this key breaks");
        self.0.get(key).await
    }

    async fn list(&self, range: Range) -> Result<Listing, StoreError> {
        self.0.list(range).await
    }

    async fn commit(&self, txn: Txn) -> Result<u64, StoreError> {
        let is_full = |op: &skerry_store::Op| {
            let (skerry_store::Op::Put { key, .. } | skerry_store::Op::Delete { key, .. }) = op;
            key.ends_with("/full")
        };
        let breaks = |op: &skerry_store::Op| matches!(op, skerry_store::Op::Put { key, .. } if key.ends_with("/breaks"));
        if txn.ops.iter().any(breaks) {
            let source = std::io::Error::other("the medium is broken");
            return Err(StoreError::Io { operation: "flush the log".into(), source });
        }
        if txn.ops.iter().any(is_full) {
            return Err(StoreError::Full { path: "/var/lib/skerry".into() });
        }
        self.0.commit(txn).await
    }

    fn watch(&self, prefix: &str, after: u64) -> Result<Watch, StoreError> {
        self.0.watch(prefix, after)
    }

    fn request_progress(&self) {
        self.0.request_progress();
    }

    async fn compact(&self, revision: u64) -> Result<(), StoreError> {
        self.0.compact(revision).await
    }
}

#[tokio::test]
async fn panics_and_a_full_or_broken_disk_are_told_and_the_server_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(&folder.path().join("store"), Options::default()).unwrap();
    let loopback = std::net::IpAddr::from([127, 0, 0, 1]);
    let config = Config::new(folder.path().to_owned(), (loopback, 0).into(), loopback);
    let server = Server::bind(config, Arc::new(Faulty(store))).await.unwrap();
    let (address, paths, shutdown) = (server.address(), server.paths().clone(), CancellationToken::new());
    let running = tokio::spawn(server.run(shutdown.clone()));
    let read = |name: &str| std::fs::read_to_string(paths.pki.join(name)).unwrap();
    let admin = Client::new(address, &read("ca.crt"), Some((read("admin.crt"), read("admin.key"))));
    let message = admin.get(&format!("{CONFIG_MAPS}/panic")).await.refused(500);
    assert!(message.starts_with("Internal error occurred"), "{message}");
    let message = admin.post(CONFIG_MAPS, &config_map("full")).await.refused(507);
    assert!(message.contains("out of space: free some on the file system of /var/lib/skerry"), "{message}");
    admin.post(CONFIG_MAPS, &config_map("fits")).await.ok();
    assert_eq!(admin.get("/readyz").await.status, 200);
    let message = admin.post(CONFIG_MAPS, &config_map("breaks")).await.refused(500);
    assert!(message.contains("the medium is broken"), "{message}");
    let health = admin.get("/readyz").await;
    assert_eq!(health.status, 500);
    assert!(health.text.contains("[-]store failed"), "{}", health.text);
    shutdown.cancel();
    running.await.unwrap().unwrap();
}
