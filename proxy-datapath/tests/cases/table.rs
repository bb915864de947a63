//! The case table: one row a behaviour, run on the host (`proxy-datapath/tests/host.rs`) and in the kernel by
//! `BPF_PROG_TEST_RUN` (`tests/packets/tests/kernel.rs`).
//!
//! ```text
//! pod A 10.244.1.2 ─┐
//! pod B 10.244.1.3 ─┴─ this node 192.168.50.1 ─┬─ node two 192.168.50.2 ─── remote pod 10.244.2.2
//!                      router 10.244.1.1       └─ outside 203.0.113.9 (198.51.100.0/24: no route)
//! services 10.96.0.0/12 and fd00:96::/112; the v6 twins end alike
//! ```

mod answers;
mod direct;
mod errors;
mod flows;
mod fragments;
mod headers;
mod lives;
mod overlay;
mod owners;
pub mod packet;
mod peers;
mod pods;
mod policies;
mod refusals;
mod sctp;
pub mod state;
mod uplink;

pub use packet::{Packet, echo, quoting};
use state::POD_A_MAC;
pub use state::{POD_A_IFINDEX, State, line};

use proxy_abi::Reason;
use proxy_datapath::Action;

/// A place where programs run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// The sender is pod A.
    FromPod,
    ToPod,
    /// The outer source, and the VNI.
    FromOverlay(&'static str, u32),
    ToOverlay,
    FromUplink,
    ToUplink,
}

/// One packet and what must become of it.
pub struct Passage {
    pub hook: Hook,
    pub input: Vec<u8>,
    pub action: Action,
    pub reason: Reason,
    /// None: not looked at.
    pub output: Option<Vec<u8>>,
}

/// One row.
pub struct Case {
    pub name: &'static str,
    pub state: State,
    pub passages: Vec<Passage>,
    /// What the flow table holds in the end, sorted: `new|old KEY => VALUE`. None: not looked at.
    pub flows: Option<Vec<String>>,
}

/// All rows.
pub fn all() -> Vec<Case> {
    [
        pods::cases(),
        policies::cases(),
        sctp::cases(),
        refusals::cases(),
        uplink::cases(),
        overlay::cases(),
        direct::cases(),
        flows::cases(),
        errors::cases(),
        fragments::cases(),
        headers::cases(),
        lives::cases(),
        owners::cases(),
        peers::cases(),
        answers::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

pub fn case(name: &'static str, state: State) -> Case {
    Case { name, state, passages: Vec::new(), flows: None }
}

impl Case {
    fn passage(
        mut self,
        hook: Hook,
        input: Packet,
        action: Action,
        reason: Reason,
        output: Option<Packet>,
    ) -> Case {
        let output = output.map(|packet| packet.bytes());
        self.passages.push(Passage { hook, input: input.bytes(), action, reason, output });
        self
    }

    /// The packet goes on unchanged.
    pub fn passes(self, hook: Hook, input: Packet) -> Case {
        let same = input.clone();
        self.passage(hook, input, Action::Pass, Reason::Passed, Some(same))
    }

    /// The packet goes on to the stack, changed.
    pub fn changes(self, hook: Hook, input: Packet, output: Packet) -> Case {
        self.passage(hook, input, Action::Pass, Reason::Passed, Some(output))
    }

    pub fn drops(self, hook: Hook, input: Packet, reason: Reason) -> Case {
        self.passage(hook, input, Action::Drop, reason, None)
    }

    pub fn delivers(self, hook: Hook, input: Packet, output: Packet) -> Case {
        self.passage(hook, input, Action::Deliver, Reason::Delivered, Some(output))
    }

    pub fn tunnels(self, hook: Hook, input: Packet, output: Packet) -> Case {
        let output = output.in_tunnel();
        self.passage(hook, input, Action::Tunnel, Reason::Encapsulated, Some(output))
    }

    /// Through the tunnel as it came, its backend named in the frame.
    pub fn hands_on(self, hook: Hook, input: Packet, backend: &str) -> Case {
        let output = input.clone().hop().for_backend(backend);
        self.passage(hook, input, Action::Tunnel, Reason::Encapsulated, Some(output))
    }

    pub fn keys(self, hook: Hook, input: Packet, output: Packet) -> Case {
        let output = output.in_tunnel();
        self.passage(hook, input, Action::Keyed, Reason::Encapsulated, Some(output))
    }

    pub fn sends_out(self, hook: Hook, input: Packet, output: Packet) -> Case {
        self.passage(hook, input, Action::Out, Reason::SentOut, Some(output))
    }

    pub fn answers(self, hook: Hook, input: Packet, output: Packet) -> Case {
        let output = output.answering();
        self.passage(hook, input, Action::Answer, Reason::Rejected, Some(output))
    }

    /// What a socket of the node sends comes back to it as a refusal.
    pub fn refuses_own(self, input: Packet, output: Packet) -> Case {
        let output = output.answering();
        self.passage(Hook::ToUplink, input, Action::TakenIn, Reason::Rejected, Some(output))
    }

    /// What a socket of the node sends comes in again by the same device, addressed to it.
    pub fn takes_in(self, hook: Hook, input: Packet) -> Case {
        let output = input.clone().for_mac(POD_A_MAC);
        self.passage(hook, input, Action::TakenIn, Reason::Passed, Some(output))
    }

    /// As [`Case::answers`], for a packet that is too big.
    pub fn tells(self, hook: Hook, input: Packet, output: Packet) -> Case {
        let output = output.answering();
        self.passage(hook, input, Action::Answer, Reason::TooBig, Some(output))
    }

    /// As [`Case::answers`], for a packet on its last hop.
    pub fn ends(self, hook: Hook, input: Packet, output: Packet) -> Case {
        let output = output.answering();
        self.passage(hook, input, Action::Answer, Reason::TtlExpired, Some(output))
    }

    pub fn named(mut self, name: &'static str) -> Case {
        self.name = name;
        self
    }

    pub fn leaves(mut self, flows: &[&str]) -> Case {
        let mut flows: Vec<String> = flows.iter().map(|line| (*line).to_owned()).collect();
        flows.sort();
        self.flows = Some(flows);
        self
    }
}
