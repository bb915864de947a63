//! An API server of our own in the test's process, which can go away and come back.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use skerry_client::{Client, Source, connect};
use skerry_store::{LogStore, Options};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

/// How long anything that should happen may take on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

pub struct TestServer {
    data: tempfile::TempDir,
    store: Arc<LogStore>,
    address: SocketAddr,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl TestServer {
    pub async fn new() -> TestServer {
        let data = tempfile::tempdir().expect("a folder");
        let store = LogStore::open(&data.path().join("store"), Options::default()).expect("a store");
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = TestServer { data, store: Arc::new(store), address, running: None };
        server.start().await;
        server
    }

    /// At the address that it had before.
    pub async fn start(&mut self) {
        let config =
            skerry_apiserver::Config::new(self.data.path().to_owned(), self.address, self.address.ip());
        let server = skerry_apiserver::Server::bind(config, self.store.clone()).await.expect("a server");
        self.address = server.address();
        let shutdown = CancellationToken::new();
        let run = server.run(shutdown.clone());
        let task = tokio::spawn(async move { run.await.expect("a server that runs") });
        self.running = Some((shutdown, task));
    }

    pub async fn stop(&mut self) {
        if let Some((shutdown, task)) = self.running.take() {
            shutdown.cancel();
            task.await.expect("a server that ends");
        }
    }

    pub async fn admin(&self) -> Client {
        let path = self.data.path().join("server/kubeconfig/admin.yaml");
        connect(&Source::Kubeconfig(path)).await.expect("a client").client
    }
}

/// Looks until there is something to see.
pub async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {} s: {what}", LIMIT.as_secs());
        tokio::time::sleep(LOOK).await;
    }
}
