//! What is known of the packet in hand.

use proxy_abi::{Flow, Tuple, flow_flag, path_known};

use crate::{
    packets::{head::Head, packet::NextHop, view::View},
    state::{
        choice::Choice,
        hop::{Hop, Place},
        verdict::Verdict,
    },
};

/// Working memory of one packet. In the kernel it lies in a per-CPU map: these structures do not fit 512
/// bytes of stack.
#[derive(Clone, Copy, Default, Debug)]
pub struct Scratch {
    /// What its headers say.
    pub view: View,
    /// Its first headers.
    pub head: Head,
    /// What the packet's tuple becomes.
    pub to: Tuple,
    /// Key of the entry that translates the answers.
    pub reverse_key: Tuple,
    /// The entry of its flow: what was copied of one that is there, or all of one that is to be written.
    pub flow: Flow,
    /// The entry that translates the answers, before it is written.
    pub reverse: Flow,
    /// Key of the flow whose seat was taken, and of that flow's other entry.
    pub leaver: Tuple,
    /// See `leaver`.
    pub leaver_twin: Tuple,
    /// How the search for its source port went.
    pub attempt: Attempt,
    /// Where the packet goes.
    pub hop: Hop,
    /// The backend that was drawn for it.
    pub choice: Choice,
    /// What is new about the flow that it opens.
    pub fresh: Fresh,
    /// What becomes of it, once a step has settled that.
    pub verdict: Verdict,
    /// Whether its flow had another packet in this second.
    pub lively: bool,
    /// What is known of where it goes, and what its flow's entry has of that: bits of [`path_known`].
    pub known: u8,
    /// See `known`.
    pub kept: u8,
    /// It answers what a socket of this machine has asked.
    pub is_own: bool,
    /// Its next station on the link.
    pub next: NextHop,
    /// Its flow is answered by another node: it goes there untouched, `s.to` names its backend.
    pub direct: bool,
}

impl Scratch {
    #[inline(always)]
    pub(crate) const fn knows(&self, what: u8) -> bool {
        self.known & what != 0
    }

    /// Nothing is known of where the packet goes; its flow is none, or another one than it seemed.
    #[inline(always)]
    pub(crate) const fn forget_path(&mut self) {
        self.known = 0;
        self.kept = 0;
        self.lively = false;
    }

    /// Whether the packet's flow has yet to be told what its next ones would ask for.
    #[inline(always)]
    pub(crate) const fn is_to_keep(&self) -> bool {
        let wanted = match self.hop.place {
            Place::Outside | Place::Routed => path_known::PLACE | path_known::NEXT_HOP,
            Place::Pod | Place::Node | Place::Remote | Place::Nobody => path_known::PLACE,
        };
        self.lively && self.kept & wanted != wanted
    }

    /// The packet goes where it says; its source port alone may have to change, so that its answers can be
    /// told.
    #[inline(always)]
    pub(crate) fn stay(&mut self) {
        self.choice.direct = false;
        self.fresh = Fresh::default();
    }

    /// Points the packet at the backend that was drawn.
    #[inline(always)]
    pub(crate) fn balance(&mut self) {
        let backend = &self.choice.backend;
        self.to.dst = backend.addr;
        self.to.dport = backend.port;
        self.fresh = Fresh { service_id: backend.service_id, flags: flow_flag::DNAT, snat: false };
    }
}

/// What is new about a flow that is recorded.
#[derive(Clone, Copy, Default, Debug)]
pub struct Fresh {
    /// 0: masquerade only.
    pub service_id: u32,
    /// Bits of [`flow_flag`], without `SNAT` and `REVERSE`, which the recording adds itself.
    pub flags: u16,
    /// `s.to.src` is not the packet's own source: a source port of ours goes with it.
    pub snat: bool,
}

/// How one try for a source port ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Attempt {
    /// The port is taken.
    #[default]
    Again = 0,
    /// It is the flow's: the reverse entry stands.
    Reserved = 1,
    /// There is no other to be tried.
    Exhausted = 2,
    /// The table of flows takes no entry more.
    Full = 3,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lively_flow_is_told_all_that_its_next_packets_would_ask_for_and_once() {
        let (place, hop) = (path_known::PLACE, path_known::NEXT_HOP);
        for (to, wanted) in [
            (Place::Outside, place | hop),
            (Place::Routed, place | hop),
            (Place::Pod, place),
            (Place::Node, place),
            (Place::Remote, place),
            (Place::Nobody, place),
        ] {
            let mut s = Scratch::default();
            s.hop.place = to;
            for kept in 0..=(place | hop) {
                s.kept = kept;
                s.lively = true;
                assert_eq!(s.is_to_keep(), kept & wanted != wanted, "{to:?}, which has {kept}");
                s.lively = false;
                assert!(!s.is_to_keep());
            }
        }
    }
}
