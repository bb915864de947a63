//! Bytes and flushes per commit, one writer and many: `cargo run --release -p skerry-store --example measure
//! [FOLDER]`.

use std::{path::PathBuf, sync::Arc, time::Instant};

use bytes::Bytes;
use skerry_store::{Expect, LogStore, Op, Options, Store, Txn};

/// About what a pod's JSON takes.
const VALUE_BYTES: usize = 2000;
const COMMITS: u64 = 20_000;

#[tokio::main]
async fn main() {
    let folder = std::env::args()
        .nth(1)
        .map_or_else(|| std::env::temp_dir().join("skerry-store-measure"), PathBuf::from);
    for lanes in [1, 16, 256] {
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            panic!("empty {}: {error}", folder.display());
        }
        let store = Arc::new(LogStore::open(&folder, Options::default()).expect("open the store"));
        let started = Instant::now();
        let each = COMMITS / lanes;
        let tasks: Vec<_> = (0..lanes)
            .map(|lane| {
                let store = store.clone();
                tokio::spawn(async move {
                    for n in 0..each {
                        let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
                        let key = format!("/registry/pods/default/{lane}-{}", n % 100).into();
                        let txn = Txn { ops: vec![Op::Put { key, value, expect: Expect::Any }] };
                        store.commit(txn).await.expect("commit");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a writer");
        }
        let (took, stats) = (started.elapsed().as_secs_f64(), store.stats());
        println!(
            "{lanes:>4} writers: {:>7.0} commits/s, {:.3} flushes and {:.0} bytes a commit of {VALUE_BYTES}, {} snapshots",
            stats.commits as f64 / took,
            stats.flushes as f64 / stats.commits as f64,
            stats.bytes as f64 / stats.commits as f64,
            stats.snapshots,
        );
    }
    std::fs::remove_dir_all(&folder).expect("remove the folder");
}
