//! The process as its clients see it: datagrams and streams on loopback, with an agent and resolvers of the
//! tests' own.

mod forwarding;
mod names;
mod stub;
mod world;
