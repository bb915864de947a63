//! What the end-to-end cases have in common: waiting with a deadline, manifests, plain HTTP, load.

#![forbid(unsafe_code)]

mod eventually;
mod http;
mod load;
mod manifest;
mod stable;
mod table;

pub use eventually::eventually;
pub use http::{get, get_within};
pub use load::{Load, Report};
pub use manifest::{manifest, manifest_with};
pub use stable::stable;
pub use table::{Row, rows};
