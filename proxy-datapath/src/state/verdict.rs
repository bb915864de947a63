//! What is to become of a packet.

use proxy_abi::{Addr, Reason};

/// What is to be done with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Action {
    /// On to the kernel's own stack, or to the device where the hook stands before one.
    Pass = 0,
    /// It ends here, and is recorded with its reason.
    Drop = 1,
    /// Into the pod behind `ifindex`.
    Deliver = 2,
    /// Through the tunnel to `node`.
    Tunnel = 3,
    /// The stack's own packet on its way into the tunnel device: it gets `node` as its destination and goes
    /// on.
    Keyed = 4,
    /// Out of `ifindex`, to the neighbour the kernel's routes name.
    Out = 5,
    /// The packet was turned into its own answer: back out of the device it came from.
    Answer = 6,
    /// Out of `ifindex` as it is: its frame bears the neighbour's address.
    Addressed = 7,
    /// In by the device that it was to leave by: its own answer, or it goes on from there.
    TakenIn = 8,
}

/// What is to become of a packet. Flat, not an enum with fields: every byte is written on every path, as the
/// verifier wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Says which of the other fields hold something.
    pub action: Action,
    /// Under which reason the packet is counted.
    pub reason: Reason,
    /// 0 where the action names no device.
    pub ifindex: u32,
    /// [`Addr::UNSPECIFIED`] where the action names no node.
    pub node: Addr,
}

impl Default for Verdict {
    fn default() -> Verdict {
        Verdict::PASS
    }
}

impl Verdict {
    /// On to the kernel's own stack.
    pub const PASS: Verdict = Verdict::new(Action::Pass, Reason::Passed, 0, Addr::UNSPECIFIED);
    /// In by the device that it was to leave by, from where it goes on.
    pub const TAKEN_IN: Verdict = Verdict::new(Action::TakenIn, Reason::Passed, 0, Addr::UNSPECIFIED);
    /// Back to its sender, whom it now tells that nobody serves what was dialled.
    pub const ANSWER: Verdict = Verdict::new(Action::Answer, Reason::Rejected, 0, Addr::UNSPECIFIED);

    const fn new(action: Action, reason: Reason, ifindex: u32, node: Addr) -> Verdict {
        Verdict { action, reason, ifindex, node }
    }

    /// For one of the reasons that are drops ([`Reason::is_drop`]).
    #[inline(always)]
    pub const fn drop(reason: Reason) -> Verdict {
        Verdict::new(Action::Drop, reason, 0, Addr::UNSPECIFIED)
    }

    /// To a pod of this node: `ifindex` is the host side of its veth pair.
    #[inline(always)]
    pub const fn deliver(ifindex: u32) -> Verdict {
        Verdict::new(Action::Deliver, Reason::Delivered, ifindex, Addr::UNSPECIFIED)
    }

    /// To the node with this address on the uplink, by the tunnel's device.
    #[inline(always)]
    pub const fn tunnel(node: Addr) -> Verdict {
        Verdict::new(Action::Tunnel, Reason::Encapsulated, 0, node)
    }

    /// The same for a packet that is on its way out of the tunnel's device already.
    #[inline(always)]
    pub const fn keyed(node: Addr) -> Verdict {
        Verdict::new(Action::Keyed, Reason::Encapsulated, 0, node)
    }

    /// The packet was turned into an answer that says why it goes no further.
    #[inline(always)]
    pub const fn answer(reason: Reason) -> Verdict {
        Verdict::new(Action::Answer, reason, 0, Addr::UNSPECIFIED)
    }

    /// An answer for who sits on this side of the device.
    #[inline(always)]
    pub const fn taken_in(self) -> Verdict {
        match self.action {
            Action::Answer => Verdict::new(Action::TakenIn, self.reason, 0, Addr::UNSPECIFIED),
            _ => self,
        }
    }

    /// Out of a device, inside another packet.
    #[inline(always)]
    pub const fn wrapped(ifindex: u32) -> Verdict {
        Verdict::new(Action::Out, Reason::Encapsulated, ifindex, Addr::UNSPECIFIED)
    }

    /// Out of a device, with the neighbour's address in its frame already.
    #[inline(always)]
    pub const fn addressed(ifindex: u32) -> Verdict {
        Verdict::new(Action::Addressed, Reason::SentOut, ifindex, Addr::UNSPECIFIED)
    }

    /// Out of a device; the kernel finds the neighbour.
    #[inline(always)]
    pub const fn out(ifindex: u32) -> Verdict {
        Verdict::new(Action::Out, Reason::SentOut, ifindex, Addr::UNSPECIFIED)
    }
}
