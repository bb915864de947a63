//! Watching and writing the API: the way to the server, what its watches tell, and what is told to the owners of Services and
//! Nodes by Events.

pub(crate) mod access;
pub(crate) mod warn;
pub(crate) mod watch;
