use std::{collections::HashMap, path::Path};

use proxy_abi::{Facts, Flow, Peer, Seat, SocketKey, SocketOrigin, Tuple, flow_flag, flow_state, map};
use skerry_kernel::{Error, Map};

/// The connection table, which the programs fill and we keep clean. A flow has two entries, one for each
/// direction; that of its first packet is the forward one.
pub struct FlowTable {
    flows: Map<Tuple, Flow>,
}

/// What [`FlowTable::collect`] has seen, and done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Collected {
    pub removed: usize,
    /// Entries by [`flow_state`], two a flow.
    pub embryonic: u32,
    pub established: u32,
    pub closing: u32,
    pub capacity: u32,
}

impl FlowTable {
    /// `maps`: the folder of the pinned maps.
    ///
    /// # Errors
    /// It is not there, or has another layout.
    pub fn open(maps: &Path) -> Result<FlowTable, Error> {
        Ok(FlowTable { flows: Map::open(&maps.join(map::FLOWS))? })
    }

    /// How many seats the programs are to use for flows that may be evicted.
    pub fn seats(&self) -> u32 {
        Seat::in_use(self.flows.info().max_entries)
    }

    /// The flows, by their forward entry, that `is_meant` says.
    ///
    /// # Errors
    /// The table can't be read.
    pub fn find(&self, mut is_meant: impl FnMut(&Tuple, &Flow) -> bool) -> Result<Vec<Tuple>, Error> {
        let mut found = Vec::new();
        self.flows.for_each(|key, flow| {
            if flow.flags & flow_flag::REVERSE == 0 && is_meant(&key, &flow) {
                found.push(key);
            }
        })?;
        Ok(found)
    }

    /// Forgets flows by their forward entry: their next packet meets none, and is balanced anew or refused.
    /// Returns how many were there.
    ///
    /// # Errors
    /// The table can't be read or written.
    pub fn forget(&self, forward: &[Tuple]) -> Result<usize, Error> {
        let mut both = Vec::with_capacity(forward.len() * 2);
        for key in forward {
            if let Some(flow) = self.flows.lookup(key)? {
                both.extend([*key, flow.to.flip()]);
            }
        }
        self.flows.delete_batch(&both)?;
        Ok(both.len() / 2)
    }

    /// Removes flows that were silent in both directions for longer than their state allows
    /// ([`Facts::is_silent`]). `now_s`: [`monotonic_s`].
    ///
    /// # Errors
    /// The table can't be read or written.
    pub fn collect(&self, facts: &Facts, now_s: u32) -> Result<Collected, Error> {
        let mut collected = Collected { capacity: self.flows.info().max_entries, ..Collected::default() };
        let mut idle: HashMap<Tuple, Tuple> = HashMap::new();
        self.flows.for_each(|key, flow| {
            *match flow.state {
                flow_state::EMBRYONIC => &mut collected.embryonic,
                flow_state::ESTABLISHED => &mut collected.established,
                _ => &mut collected.closing,
            } += 1;
            if facts.is_silent(&key, &flow, now_s) {
                idle.insert(key, flow.to.flip());
            }
        })?;
        let mut silent = Vec::new();
        for (key, twin) in &idle {
            // One record, two entries: as long as one direction lives, both stay.
            let is_over = idle.contains_key(twin)
                || self.flows.lookup(twin)?.is_none_or(|flow| facts.is_silent(twin, &flow, now_s));
            if is_over {
                silent.push(*key);
            }
        }
        collected.removed = self.flows.delete_batch(&silent)?;
        Ok(collected)
    }
}

/// The largest number of a service that a connection knows: a service that gets it anew would be taken for
/// the old one. `maps`: the folder of the pinned maps.
///
/// # Errors
/// A map is not there or can't be read.
pub fn last_service_id(maps: &Path) -> Result<u32, Error> {
    let mut last = 0;
    Map::<Tuple, Flow>::open(&maps.join(map::FLOWS))?.for_each(|_, flow| last = last.max(flow.service_id))?;
    Map::<u32, Peer>::open(&maps.join(map::PEERS))?.for_each(|_, peer| last = last.max(peer.service_id))?;
    Map::<SocketKey, SocketOrigin>::open(&maps.join(map::SOCKETS))?
        .for_each(|_, origin| last = last.max(origin.service_id))?;
    Ok(last)
}

/// Seconds of `CLOCK_MONOTONIC`: the clock that the programs stamp flows with.
pub fn monotonic_s() -> u32 {
    let now = nix::time::ClockId::CLOCK_MONOTONIC.now();
    now.map_or(0, |now| now.tv_sec() as u32)
}
