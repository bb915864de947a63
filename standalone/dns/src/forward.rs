//! Names that are not the cluster's: asked of other resolvers, and kept for a while.

mod asked;
mod cache;
mod forwarder;
mod limits;
mod resolv_conf;
mod upstream;

pub use asked::{AskedError, address_of};
pub use cache::Key;
pub use forwarder::{Fault, Forwarder, Looked, Origin, Route};
pub use limits::{Limits, Seat, Turned};
pub use resolv_conf::{follow, servers};
pub use upstream::{Upstream, UpstreamError};
