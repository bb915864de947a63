//! Events (core/v1 and events.k8s.io/v1): news about objects for people, never state that anything depends
//! on.

mod note;
mod rate;
mod recorder;
mod write;

pub use note::{EventType, Form, Note, Regarding, Teller};
pub use rate::{Bucket, Rate};
pub use recorder::{Recorder, record};
pub use write::{WriteError, Written, write};
