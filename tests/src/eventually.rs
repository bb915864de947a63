use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Between two looks at something that sends no event to a test: an answer of a packet path.
const LOOK: Duration = Duration::from_millis(50);

/// Tries until it works or `limit` is over; then the last error, with `what` was waited for.
///
/// # Errors
/// The last one of `attempt`.
pub fn eventually<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("{what}: not within {limit:?}"));
            }
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}
