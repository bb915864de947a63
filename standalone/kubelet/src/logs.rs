//! Containers' logs: files in CRI's format, read back for `kubectl logs`.

mod follow;
mod line;
mod tail;

pub use follow::{LogError, LogOptions, stream};
pub use line::{LogLine, parse};
pub use tail::last_lines;
