use crate::{ingest::State, runs::size_class};

/// Elements that the maps of services need for all that is wanted of them now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Demand {
    /// With the marks of addresses in use.
    pub frontends: u64,
    /// With room for the largest run beside the one that it replaces, and for another that rests.
    pub slots: u64,
    /// Of Services with affinity only.
    pub members: u64,
    /// Of Services with `loadBalancerSourceRanges` only.
    pub source_ranges: u64,
}

impl State {
    /// Costs as much as planning everything anew.
    pub fn demand(&self) -> Demand {
        let (mut demand, mut largest) =
            (Demand { frontends: self.claims.len() as u64, ..Demand::default() }, 0);
        for table in self.services.keys().flat_map(|key| self.desired(key).ports) {
            let count = table.layout.backends.len();
            let slots = u64::from(size_class(u32::try_from(count).unwrap_or(u32::MAX)));
            demand.slots += slots;
            largest = slots.max(largest);
            demand.source_ranges += table.source_ranges.len() as u64;
            if table.is_sticky() {
                demand.members += count as u64;
            }
        }
        demand.slots += 2 * largest;
        demand
    }
}
