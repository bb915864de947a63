//! Containers' logs: files in CRI's format, turned over when they are large, read back for `kubectl logs`.

mod files;
mod follow;
mod keeper;
mod line;
mod rotate;
mod tail;
mod turns;

pub use files::remove;
pub use follow::{LogError, LogOptions, stream};
pub use keeper::{Keeper, Kept, Reopen};
pub use line::{LogLine, parse};
pub use rotate::Limits;
pub use tail::last_lines;
pub use turns::{Logs, Turns};
