use std::collections::{BTreeMap, BTreeSet};

use proxy_abi::{Addr, Member, SourceRangeKey, member_of};

use crate::layout::Layout;

/// Entries besides frontends and slots that bear a service port's id: who is a member (for sessionAffinity),
/// and who may use its load-balancer addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Extras {
    pub members: BTreeMap<Member, u32>,
    pub ranges: BTreeSet<SourceRangeKey>,
}

impl Extras {
    /// `None`: it needs none.
    pub fn of(
        service_id: u32,
        layout: &Layout,
        is_sticky: bool,
        ranges: &[(Addr, u32)],
    ) -> Option<Box<Extras>> {
        let mut extras = Extras::default();
        if is_sticky {
            for (backends, window) in
                [(layout.inside(), member_of::INSIDE), (layout.outside(), member_of::OUTSIDE)]
            {
                for backend in backends {
                    let member = Member::new(service_id, backend.addr, backend.port);
                    *extras.members.entry(member).or_default() |= window;
                }
            }
        }
        extras.ranges.extend(ranges.iter().map(|(addr, len)| SourceRangeKey::new(service_id, *addr, *len)));
        (!extras.is_empty()).then(|| Box::new(extras))
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.ranges.is_empty()
    }
}
