//! The kernel programs in the kernel: the rows of the datapath's case table by `BPF_PROG_TEST_RUN`, and
//! scenarios in network namespaces with hand-written maps. No agent, no CNI plugin.

mod object;
mod summed;
mod talk;
mod world;

pub use object::{Object, ObjectError, Plain, TABLE};
pub use talk::{Echo, Greeter, Segments, ask, dial, dial_counted, exchange, mirror, pattern};
pub use world::{Backend, NODE_PORT, Node, VIP, World, mac, tunnelled};
