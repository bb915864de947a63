//! A steady load of requests, each on a connection of its own, whose failures are counted and kept.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Result, anyhow};
use skerry_lab::Netns;

/// Between two requests of one thread.
const PAUSE: Duration = Duration::from_millis(4);
/// As many failures are kept word for word.
const KEPT: usize = 10;

/// What a load has seen.
#[derive(Debug, Default)]
pub struct Report {
    pub requests: usize,
    pub failures: Vec<String>,
    pub failed: usize,
}

/// Requests from one network namespace to some addresses in turn, until [`Load::stop`].
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    thread: JoinHandle<Result<Report>>,
}

impl Load {
    /// Starts; `from` is the namespace of the client.
    pub fn start(from: Netns, addresses: Vec<SocketAddr>) -> Load {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = std::thread::spawn({
            let (stop, done) = (stop.clone(), done.clone());
            move || from.run(|| requests(&addresses, &stop, &done)).map_err(anyhow::Error::from)
        });
        Load { stop, done, thread }
    }

    /// How many requests were made so far.
    pub fn requests(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// # Errors
    /// When the namespace could not be entered.
    pub fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the load's thread panicked"))?
    }
}

fn requests(addresses: &[SocketAddr], stop: &AtomicBool, done: &AtomicUsize) -> Report {
    let mut report = Report::default();
    for address in addresses.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        report.requests += 1;
        if let Err(error) = crate::get(*address) {
            report.failed += 1;
            if report.failures.len() < KEPT {
                report.failures.push(format!("request {}: {error:#}", report.requests));
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
    report
}
