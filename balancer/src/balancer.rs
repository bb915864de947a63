//! What is balanced, and the one place that moves the tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use proxy_abi::{Addr, Facts, proto};
use proxy_maps::{FlowTable, PinnedTables, Reconciler, monotonic_s};
use proxy_state::{Listed, ObjectKey, ServiceTables};
use skerry_announce::Announcer;

use crate::{
    cluster::{Cluster, Note, Room},
    config::{Config, Vip},
    devices, flows,
    health::{Probes, Target, chosen},
    kernel::Maps,
    metrics,
    run::RunError,
    wanted::wanted,
    watch::Told,
};

/// What runs: the tables, and all that they follow from.
pub struct Balancer {
    pub devices: Vec<String>,
    pub maps: Arc<Maps>,
    pub flows: FlowTable,
    pub reconciler: Reconciler<Listed, PinnedTables>,
    pub facts: Facts,
    /// What the file says.
    pub file: Config,
    pub cluster: Option<Cluster>,
    /// What is balanced: the file's and the cluster's.
    pub vips: Vec<Vip>,
    pub notes: BTreeSet<Note>,
    /// Virtual addresses none of whose backends lives.
    pub all_down: BTreeSet<(SocketAddr, u8)>,
    pub probes: Probes,
    pub announcers: Vec<Announcer>,
    pub state: metrics::Shared,
    pub begun: Instant,
    /// When slots have rested that something may wait for.
    pub plan_at: Option<Instant>,
}

impl Balancer {
    /// A bad file changes nothing.
    pub fn reload(&mut self, path: &Path) -> Result<(), RunError> {
        let before = self.file.clone();
        let done = Config::read(path).map_err(RunError::from).and_then(|file| self.adopt(file));
        match done {
            Ok(()) => {
                self.state().reloads += 1;
                tracing::info!(vips = self.vips.len(), "reloaded");
            }
            Err(error @ (RunError::Config(_) | RunError::NoSource { .. })) => {
                self.file = before;
                self.state().refused_reloads += 1;
                tracing::error!(%error, "not reloaded: what runs stays");
            }
            Err(other) => return self.tolerate(Err(other)),
        }
        Ok(())
    }

    /// Balances what the file says from now on, and what the cluster asks for beside it.
    pub fn adopt(&mut self, file: Config) -> Result<(), RunError> {
        self.file = file;
        self.set_facts()?;
        self.rebuild(true)
    }

    /// Takes what the cluster's watches told.
    pub fn learn(&mut self, told: &mut Vec<Told>) -> Result<(), RunError> {
        let Some(cluster) = &mut self.cluster else { return Ok(()) };
        let was_known = cluster.is_known();
        let (mut failures, mut must_look) = (0, false);
        for told in told.drain(..) {
            match told {
                Told::Change(change) => must_look |= cluster.change(change),
                Told::Failed => failures += 1,
            }
        }
        let is_known = cluster.is_known();
        let mut state = self.state();
        state.watch_failures += failures;
        state.cluster_is_known = is_known;
        drop(state);
        if !is_known || !must_look {
            return Ok(());
        }
        if !was_known {
            // Now all virtual addresses are known: none of them is this machine's own.
            self.set_facts()?;
        }
        let done = self.rebuild(!was_known);
        if !was_known {
            tracing::info!(vips = self.vips.len(), "the cluster is known");
        }
        self.tolerate(done)
    }

    /// A set that finds no room is left as it was; the others are served.
    fn tolerate(&self, done: Result<(), RunError>) -> Result<(), RunError> {
        match done {
            Err(RunError::Full(full)) => {
                self.state().refused_changes += 1;
                tracing::error!(
                    error = skerry_client::chain(&full),
                    "a virtual address keeps the backends it had"
                );
                Ok(())
            }
            other => other,
        }
    }

    fn rebuild(&mut self, is_forced: bool) -> Result<(), RunError> {
        let mut vips = self.file.vips.clone();
        if let Some(cluster) = &self.cluster {
            let asked = cluster.asked(&vips, self.room());
            for note in asked.notes.difference(&self.notes) {
                tracing::warn!(about = note.about, "{}", note.text);
            }
            let mut counts = BTreeMap::new();
            asked.notes.iter().for_each(|note| *counts.entry(note.cause.label()).or_default() += 1);
            self.state().left_out = Some(counts);
            self.notes = asked.notes;
            vips.extend(asked.vips);
        }
        if vips == self.vips && !is_forced {
            return Ok(());
        }
        self.probes.aim(&vips);
        self.vips = vips;
        let done = self.apply();
        let balanced: BTreeSet<IpAddr> = self.balanced().collect();
        for announcer in &self.announcers {
            announcer.set_addresses(balanced.clone());
        }
        done
    }

    /// The addresses that the maps serve.
    fn balanced(&self) -> impl Iterator<Item = IpAddr> {
        self.reconciler.actual.frontends().map(|(key, _)| key.addr.to_ip())
    }

    /// The virtual addresses; until the cluster is known with those that an earlier process served.
    fn served(&self) -> Vec<IpAddr> {
        let mut served: Vec<IpAddr> = self.file.vips.iter().map(|vip| vip.address.ip()).collect();
        match &self.cluster {
            Some(cluster) if cluster.is_known() => served.extend(cluster.addresses()),
            Some(_) => served.extend(self.balanced()),
            None => {}
        }
        served
    }

    fn room(&self) -> Room {
        let ranges: usize = self.file.vips.iter().filter_map(|vip| Some(vip.allowed.as_ref()?.len())).sum();
        let left = |entries: u32, used: usize| (entries as usize).saturating_sub(used);
        Room {
            vips: left(self.reconciler.limits().frontends, self.file.vips.len()),
            ranges: left(self.reconciler.limits().source_ranges, ranges),
            sources: [!self.facts.node_v4.is_unspecified(), !self.facts.node_v6.is_unspecified()],
        }
    }

    fn state(&self) -> MutexGuard<'_, metrics::State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn hear(&mut self, target: &Target, answered: bool) -> Result<(), RunError> {
        if !self.probes.hear(target, answered) {
            return Ok(());
        }
        tracing::info!(asked = %target.0, lives = answered, "a backend's health changed");
        let done = self.apply();
        self.tolerate(done)
    }

    /// Moves the maps to what is asked for and the probes say. What an earlier process served stays until the
    /// cluster is known.
    fn apply(&mut self) -> Result<(), RunError> {
        let lives = |vip: &Vip, to: SocketAddr| self.probes.lives(vip, to);
        let mut all_down = BTreeSet::new();
        let wanted: BTreeMap<ObjectKey, ServiceTables> = self
            .vips
            .iter()
            .map(|vip| {
                let (chosen, is_down) = chosen(vip, |to| lives(vip, to));
                if is_down {
                    all_down.insert((vip.address, vip.proto));
                }
                wanted(vip, &chosen)
            })
            .collect();
        for (address, _) in all_down.difference(&self.all_down) {
            tracing::error!(%address, "no backend lives, the checks say: new flows go where whenAllDown says");
        }
        let backends = self.vips.iter().flat_map(|vip| {
            let protocol = if vip.proto == proto::UDP { "UDP" } else { "TCP" };
            vip.backends.iter().map(move |b| (vip.address, protocol, b.address, lives(vip, b.address)))
        });
        let backends = backends.collect();
        self.all_down = all_down;
        self.reconciler.wants.set(wanted, self.cluster.as_ref().is_none_or(Cluster::is_known));
        let done = self.sync();
        self.state().backends = backends;
        done
    }

    /// Slots have rested: what waited for them is written.
    pub fn plan_again(&mut self) -> Result<(), RunError> {
        let done = self.sync();
        self.tolerate(done)
    }

    fn sync(&mut self) -> Result<(), RunError> {
        let synced = self.reconciler.sync(self.begun.elapsed().as_millis() as u64)?;
        self.plan_at = synced.due_ms.map(|due_ms| self.begun + Duration::from_millis(due_ms));
        // Also when slots are only freed: a packet that read a frontend just before it flipped may have
        // opened a flow since.
        if synced.operations > 0 {
            let ended = flows::end_stale(&self.flows, &self.reconciler.actual)?;
            self.state().flows_ended += ended as u64;
        }
        match synced.refused.into_iter().next() {
            Some(refusal) => Err(refusal.into()),
            None => Ok(()),
        }
    }

    /// Removes the flows that were silent for too long.
    pub fn collect(&self) -> Result<(), RunError> {
        self.flows.collect(&self.facts, monotonic_s())?;
        Ok(())
    }

    /// Looks at the machine again, and tells the program.
    fn set_facts(&mut self) -> Result<(), RunError> {
        let facts = self.facts()?;
        self.maps.set_facts(&facts)?;
        self.facts = facts;
        Ok(())
    }

    fn facts(&self) -> Result<Facts, RunError> {
        let served = self.served();
        let source = |is_v4: bool| {
            if let Some(named) = self.file.sources.iter().find(|ip| ip.is_ipv4() == is_v4) {
                return Ok(Addr::from(*named));
            }
            let found = devices::address(&self.devices, is_v4, &served).map_err(RunError::Devices)?;
            match found {
                Some(ip) => Ok(Addr::from(ip)),
                None if self.file.vips.iter().any(|vip| vip.address.is_ipv4() == is_v4) => {
                    Err(RunError::NoSource {
                        family: if is_v4 { "IPv4" } else { "IPv6" },
                        devices: self.devices.join(", "),
                    })
                }
                None => Ok(Addr::UNSPECIFIED),
            }
        };
        Ok(Facts {
            node_v4: source(true)?,
            node_v6: source(false)?,
            snat_min: 1_024,
            snat_max: 29_999,
            tcp_syn_s: 60,
            tcp_established_s: 21_600,
            tcp_closing_s: 10,
            udp_s: 30,
            udp_stream_s: 120,
            icmp_s: 30,
            flow_queue: self.flows.seats(),
            ..Facts::default()
        })
    }
}
