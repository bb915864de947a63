//! Talking to a Kubernetes API server, once for every program here.
//!
//! * [`connect`]: from a kubeconfig, a pod's service account or files to a client. Certificates and tokens that are
//!   renewed are used from the next connection on; of several addresses the next one is tried.
//! * [`Follow`]: the objects of a kind, by list and watch, for ever; text in, so that each program decodes what it keeps.
//! * [`Item`]: one object, read by itself: one that can't be read says so and stops no other.
//! * [`Recorder`], [`write_event`]: Events, counted, within bounds, without holding anybody up.
//!
//! Only the decoding is generic: a program that follows ten kinds compiles ten decoders and one watch.
#![forbid(unsafe_code)]

mod connect;
mod dial;
mod events;
mod follow;
mod identity;
mod item;

pub use connect::{ConnectError, Connection, Source, certificate_authority, connect};
pub use dial::{DialError, Stream};
pub use events::{
    Bucket, EventType, Form, Note, Rate, Recorder, Regarding, Teller, WriteError as EventError, Written,
    record, write as write_event,
};
pub use follow::{Follow, FollowError, News, Object, Options, Target};
pub use item::{Item, key_of};
pub use kube::Client;
pub use skerry_vocabulary::{ObjectKey, chain};
