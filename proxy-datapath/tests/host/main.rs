//! The datapath on the host: the case table, hostile bytes, the socket hooks.

mod balancer;
#[path = "../cases/table.rs"]
mod cases;
mod choice;
mod fuzz;
mod memory;
mod paths;
mod races;
mod records;
mod rooms;
mod seats;
mod sockets;
mod table;
mod unwrap;
