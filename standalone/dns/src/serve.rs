//! The sockets: datagrams by threads of their own, streams and people's questions by the runtime.

mod admin;
mod datagrams;
mod streams;

pub use admin::{AdminError, Lookup, Told, ask_admin, listen_admin, serve_admin};
pub use datagrams::serve_datagrams;
pub use streams::serve_streams;
