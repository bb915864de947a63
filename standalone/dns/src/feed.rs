//! How the agent tells the DNS process what there is: a Unix socket, on it frames.
//!
//! The agent's end ([`Source`]) hands over the sockets on which names are asked for and then says everything
//! that it knows, after that what changes. They are the agent's: a query that comes while the DNS process is
//! being started again waits in them. What has changed several times since it was last said is said once; so
//! nothing grows, however slowly it is read.

mod frame;
mod source;
mod taker;

pub use frame::{FrameError, Hello, MAX_FRAME_BYTES, Message, VERSION, encode, read_message};
pub use source::{Listeners, Source, SourceError};
pub use taker::{FeedError, Said, Taker};
