//! How hooks call the steps: what lies below (the packet, the tables) is plain access, and what a step does
//! with it may be a call of a function that the verifier walks by itself, as in the kernel, or the step's own
//! lines.

use proxy_abi::{Addr, Facts, Reason, path_known};

use crate::{
    packets::{packet::Packet, view::Shape},
    state::{
        choice::{Found, Sender, Side},
        scratch::Scratch,
        tables::Tables,
        verdict::Verdict,
    },
    steps::{self, Recorded},
};

/// Steps that need the tables only.
pub trait TableSteps: Tables + Sized {
    /// [`steps::find_flow`].
    #[inline(always)]
    fn find_flow(&self, s: &mut Scratch) -> bool {
        steps::find_flow(self, s)
    }

    /// As [`TableSteps::find_flow`], where packets of direct flows have no business: only flows that are
    /// translated here.
    #[inline(always)]
    fn find_translated(&self, s: &mut Scratch) -> bool {
        let found = self.find_flow(s) && !s.direct;
        s.direct = false;
        if !found {
            s.forget_path();
        }
        found
    }

    /// [`steps::answers_are_taken`].
    #[inline(always)]
    fn answers_are_taken(&self, s: &mut Scratch) -> bool {
        steps::answers_are_taken(self, s)
    }

    /// [`steps::find_service`].
    #[inline(always)]
    fn find_service(&self, s: &mut Scratch, side: Side) -> Found {
        steps::find_service(self, s, side)
    }

    /// Where `s.to.dst` lives: `s.hop`. As its flow's last packet has found, or looked up.
    #[inline(always)]
    fn locate(&self, s: &mut Scratch) {
        if !s.knows(path_known::PLACE) {
            self.look_up_place(s);
            s.known |= path_known::PLACE;
        }
    }

    /// [`steps::locate`].
    #[inline(always)]
    fn look_up_place(&self, s: &mut Scratch) {
        steps::locate(self, s);
    }

    /// [`steps::record`].
    #[inline(always)]
    fn record(&self, s: &mut Scratch) -> Recorded {
        steps::record(self, s)
    }

    /// [`steps::record`]. Where another CPU was a moment earlier the packet becomes one of the flow that is
    /// there: all that follows from what the two have chosen is looked up anew. False: `s.verdict` says why
    /// not.
    #[inline(always)]
    fn record_flow(&self, s: &mut Scratch) -> bool {
        match self.record(s) {
            Recorded::Refused => false,
            Recorded::Done => true,
            Recorded::Before if self.find_flow(s) => {
                self.locate(s);
                true
            }
            // It is gone again.
            Recorded::Before => {
                s.verdict = Verdict::drop(Reason::FlowTableFull);
                false
            }
        }
    }
}

/// Steps that need the packet.
pub trait PacketSteps: Packet + Sized {
    /// [`steps::parse`].
    #[inline(always)]
    fn parse(&self, s: &mut Scratch) -> Shape {
        steps::parse(self, s)
    }

    /// [`steps::sender`].
    #[inline(always)]
    fn sender<T: Tables>(&self, tables: &T, s: &mut Scratch) -> Sender {
        steps::sender(self, tables, s)
    }

    /// [`steps::speaks_from_service`].
    #[inline(always)]
    fn speaks_from_service<T: Tables>(&self, tables: &T, s: &mut Scratch) -> bool {
        steps::speaks_from_service(self, tables, s)
    }

    /// [`steps::keep`], where there is something to keep.
    #[inline(always)]
    fn keep<T: Tables>(&self, tables: &T, s: &mut Scratch) {
        if s.is_to_keep() {
            self.keep_path(tables, s);
        }
    }

    /// [`steps::keep`].
    #[inline(always)]
    fn keep_path<T: Tables>(&self, tables: &T, s: &mut Scratch) {
        steps::keep(self, tables, s);
    }

    /// [`steps::rewrite`].
    #[inline(always)]
    fn rewrite(&mut self, s: &mut Scratch) -> bool {
        steps::rewrite(self, s)
    }

    /// [`steps::write`].
    #[inline(always)]
    fn write(&mut self, s: &mut Scratch) -> bool {
        steps::write(self, s)
    }

    /// [`steps::forward()`].
    #[inline(always)]
    fn forward(&mut self, s: &mut Scratch, facts: &Facts) -> Verdict {
        steps::forward(self, s, facts);
        s.verdict
    }

    /// [`steps::reject`].
    #[inline(always)]
    fn reject(&mut self, s: &mut Scratch) -> Verdict {
        steps::reject(self, s);
        s.verdict
    }

    /// [`steps::expired`], at the address `at`.
    #[inline(always)]
    fn expired(&mut self, s: &mut Scratch, at: &Addr) -> Verdict {
        s.to.src = *at;
        steps::expired(self, s);
        s.verdict
    }

    /// [`steps::too_big`].
    #[inline(always)]
    fn too_big(&mut self, s: &mut Scratch, mtu: u32) -> Verdict {
        steps::too_big(self, s, mtu);
        s.verdict
    }
}
