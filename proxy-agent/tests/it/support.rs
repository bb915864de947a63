//! What the agent's tests share: nodes of namespaces, an API server in memory, an agent on a thread of its
//! own.

mod api;
pub mod net;
pub mod roles;
pub mod scene;
pub mod witness;

pub use api::Api;
pub use net::{TestNode, Underlay};

use std::{
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use proxy_agent::{AgentError, Config, Progress, run_with_progress};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long anything may take that is awaited: generous, since machines are slow and tests run side by side.
pub const LIMIT: Duration = Duration::from_secs(30);

/// An agent that runs in this process, on a thread inside a node's network namespace.
pub struct Agent {
    shutdown: CancellationToken,
    pub progress: watch::Receiver<Progress>,
    thread: Option<JoinHandle<Result<(), AgentError>>>,
}

impl Agent {
    pub fn start(node: &TestNode, config: Config) -> Agent {
        let shutdown = CancellationToken::new();
        let (sender, progress) = watch::channel(Progress::default());
        let (token, netns) = (shutdown.clone(), std::fs::File::open(node.netns.path()).unwrap());
        let thread = std::thread::spawn(move || {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run_with_progress(config, token, sender))
        });
        Agent { shutdown, progress, thread: Some(thread) }
    }

    /// Waits until the agent says so, or panics with what it said last.
    pub fn wait(&mut self, what: &str, is_so: impl Fn(&Progress) -> bool) {
        let waiting = async {
            tokio::time::timeout(LIMIT, self.progress.wait_for(|progress| is_so(progress)))
                .await
                .map(|r| r.is_ok())
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let result = runtime.block_on(waiting);
        match result {
            Ok(true) => {}
            Ok(false) => panic!("the agent ended: {:?}", self.thread.take().unwrap().join()),
            Err(_) => panic!("the agent is not {what}: {:?}", *self.progress.borrow()),
        }
    }

    pub fn wait_ready(&mut self) {
        self.wait("ready", |progress| progress.is_ready && progress.syncs > 0);
    }

    pub fn stop(mut self) -> Result<(), AgentError> {
        self.shutdown.cancel();
        self.thread.take().unwrap().join().unwrap()
    }

    /// For agents that are expected not to start.
    pub fn result(mut self) -> Result<(), AgentError> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Looks again and again, with a deadline, where no event exists to wait for.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not seen within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The agent's log where somebody asks for it: `RUST_LOG=debug cargo test`.
pub fn log() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    // Children speak to their parent on standard output.
    drop(tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init());
}

/// A test of those that start this program again in other roles.
/// A test, by its name in its module.
pub type Case = (&'static str, Box<dyn FnOnce() + Send>);

pub fn trial(name: &'static str, test: impl FnOnce() + Send + 'static) -> Case {
    (name, Box::new(test))
}

/// Functions as tests, each by its own name.
macro_rules! named {
    ($($test:ident),* $(,)?) => {
        vec![$($crate::support::trial(stringify!($test), $test)),*]
    };
}
pub(crate) use named;
