//! Workers over a queue.

use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use skerry_vocabulary::chain;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::Queue;

/// When a key that was worked on without an error wants to be looked at again without any change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Only when something changes.
    Change,
    /// After this time, since Kubernetes gives the decision a clock (a grace period, a deadline).
    After(Duration),
}

/// What is done with a key, boxed, so that the workers are compiled once for a sort of key and not for each
/// controller.
pub type Work<T> = Arc<dyn Fn(T) -> BoxFuture<'static, Result<Next, Failure>> + Send + Sync>;
type Failure = Box<dyn std::error::Error + Send>;

/// Boxes what is done with a key.
pub fn work<T, F, Fut, E>(work: F) -> Work<T>
where
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Next, E>> + Send + 'static,
    E: std::error::Error + Send + 'static,
{
    Arc::new(move |key| {
        let outcome = work(key);
        Box::pin(async move { outcome.await.map_err(|error| Box::new(error) as Failure) })
    })
}

/// Runs `count` workers that hand keys of `queue` to `work`, until `shutdown`. A failing key is tried again
/// after its back-off; a conflict with another writer (409) is no news and is logged low.
pub async fn run_workers<T>(
    name: &'static str,
    queue: Arc<Queue<T>>,
    count: usize,
    work: Work<T>,
    shutdown: CancellationToken,
) where
    T: Clone + Eq + Hash + Display + Send + Sync + 'static,
{
    let mut workers = JoinSet::new();
    for _ in 0..count {
        let (queue, work, shutdown) = (queue.clone(), work.clone(), shutdown.clone());
        workers.spawn(async move {
            while let Some(key) = shutdown.run_until_cancelled(queue.take()).await {
                let outcome = shutdown.run_until_cancelled(work(key.clone())).await;
                let Some(outcome) = outcome else { return };
                match outcome {
                    Ok(Next::Change) => queue.done(key, false),
                    Ok(Next::After(delay)) => {
                        queue.add_after(key.clone(), delay);
                        queue.done(key, false);
                    }
                    Err(error) => {
                        if is_conflict(&*error) {
                            debug!(controller = name, %key, "someone else wrote first; trying again");
                        } else {
                            warn!(controller = name, %key, error = %chain(&*error), "failed; trying again");
                        }
                        queue.done(key, true);
                    }
                }
            }
        });
    }
    run_to_end(workers).await;
}

/// Waits for every task. A panic in one of them goes on in the caller: half a controller that runs is worse
/// than a process that its supervisor starts afresh.
pub async fn run_to_end(mut tasks: JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

fn is_conflict(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let boxed = error.downcast_ref::<Box<kube::Error>>().map(|error| &**error);
        if let Some(kube::Error::Api(status)) = boxed.or_else(|| error.downcast_ref()) {
            return status.is_conflict();
        }
        next = error.source();
    }
    false
}
