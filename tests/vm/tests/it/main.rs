//! What needs a larger kernel, one module a behaviour.

mod dsr;
mod nfs;
mod sctp;
