//! Who a packet is from, whether it is for a service, and the backend that was drawn for it.

use proxy_abi::{Affinity, AffinityKey, Member, Slot};

/// What a packet is to the service tables: the answer of [`steps::find_service`](crate::steps::find_service).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Found {
    /// No service's.
    No = 0,
    /// A service's: the backend is in `s.choice`.
    Backend = 1,
    /// No endpoints, or an address of ours without this port: the client is told.
    Reject = 2,
    /// A service's, or an address of the service range that nobody has; `s.verdict` has the reason.
    Drop = 3,
    /// Only some sources are served, and the source is not known yet.
    SourceUnknown = 4,
}

/// Whose packet leaves by an uplink: the answer of [`steps::sender`](crate::steps::sender).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Sender {
    /// Somebody's whose packets may have to be translated.
    Other = 0,
    /// A socket's of the node: no answer to a flow that we translated, and none whose answer could be taken
    /// for something else.
    Own = 1,
    /// To a service's address, which the socket hooks have left as it was, where it is a socket's of the
    /// node.
    AsksService = 2,
    /// It opens something from an address and port that a service has here.
    SpeaksFromService = 3,
    /// It opens something from a port that a flow of somebody's may have been given: the socket was bound to
    /// it, or a rule of the machine has chosen it.
    SharesPort = 4,
}

/// Where a client is: a traffic policy `Local` for outsiders does not bind those inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Side {
    /// A pod or a node of the cluster: the frontend's window `inside`.
    Inside = 0,
    /// Who came in by the uplink: the frontend's window `outside`.
    Outside = 1,
}

/// The drawn backend, and working memory of the draw.
#[derive(Clone, Copy, Default, Debug)]
pub struct Choice {
    /// All zero until one is drawn: no service has the id 0.
    pub backend: Slot,
    /// Its frontend wants answers to go straight to the client.
    pub direct: bool,
    pub(crate) key: AffinityKey,
    pub(crate) member: Member,
    pub(crate) affinity: Affinity,
}
