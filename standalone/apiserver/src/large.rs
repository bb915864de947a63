//! Requests with large bodies: reading a YAML of 3 MiB takes a processor for seconds, and must not take it
//! from the threads that serve everybody.

use std::sync::Arc;

use tokio::{runtime::Handle, sync::Semaphore};

use crate::{
    clients::{Client, Places},
    error::ApiError,
    respond::Reply,
};

/// From here on a request is carried out on a thread of its own.
const LARGE_BYTES: usize = 32 << 10;
/// Threads that do that at once, each for another client.
const MAX_THREADS: usize = 4;
/// Bodies that wait for their turn or are worked on.
const MAX_BODIES: usize = 64;

pub struct Large {
    bodies: Arc<Places>,
    threads: Arc<Semaphore>,
}

impl Default for Large {
    fn default() -> Self {
        Self { bodies: Places::new(MAX_BODIES), threads: Arc::new(Semaphore::new(MAX_THREADS)) }
    }
}

impl Large {
    /// Runs `work`, which reads a body of `length` bytes; large ones of a client one after the other, so that
    /// a client with many holds up itself only.
    ///
    /// # Errors
    /// 429 where the client has too many that wait.
    pub async fn run(
        &self,
        client: &Client,
        length: usize,
        work: impl Future<Output = Result<Reply, ApiError>> + Send + 'static,
    ) -> Result<Reply, ApiError> {
        if length < LARGE_BYTES {
            return work.await;
        }
        let place = self.bodies.take(client)?;
        let turn = place.turn().lock_owned().await;
        // The semaphore is never closed.
        let thread = self.threads.clone().acquire_owned().await.map_err(ApiError::internal)?;
        let runtime = Handle::current();
        let done = tokio::task::spawn_blocking(move || {
            let reply = runtime.block_on(work);
            drop((thread, turn, place));
            reply
        });
        match done.await {
            Ok(reply) => reply,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(ApiError::internal(error)),
            },
        }
    }
}
