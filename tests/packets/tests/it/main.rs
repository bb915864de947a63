//! Packets and connections through the kernel programs, one module a behaviour.

mod answers;
#[path = "../../../../proxy-datapath/tests/cases/table.rs"]
mod cases;
mod direct;
mod express;
mod flood;
mod forged;
mod kernel;
mod nodes;
mod owners;
mod sockets;
mod verifier;
