use std::sync::{
    Mutex, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use proxy_abi::{Counter as PacketCounter, LOST_EVENTS, Reason, map};
use skerry_kernel::PerCpuMap;

use proxy_maps::Collected;

/// What `/metrics` shows. Packet counters are read from the kernel when somebody asks.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    /// From the last byte of an event to the maps' having it.
    pub event_to_maps: Histogram,
    pub syncs: Counter,
    pub sync_failures: Counter,
    pub operations: Counter,
    pub events: Counter,
    pub divergence: Counter,
    pub refused: Gauge,
    pub reattached: Counter,
    pub udp_flows_ended: Counter,
    pub connections_reset: Counter,
    pub flows_collected: Counter,
    pub services: Gauge,
    pub slices: Gauge,
    /// Load-balancer addresses that this node answers for.
    pub announced: Gauge,
    pub announcements: Counter,
    pub neighbour_answers: Counter,
    pub health_ports: Gauge,
    pub health_ports_refused: Gauge,
    pub watch_failures: Counter,
    pub events_written: Counter,
    pub events_failed: Counter,
    warnings: Family<CauseLabel, Gauge>,
    flow_entries: Family<StateLabel, Gauge>,
    map_entries: Family<MapLabel, Gauge>,
    map_capacity: Family<MapLabel, Gauge>,
    packets: Family<ReasonLabel, Counter<u64, AtomicU64>>,
    bytes: Family<ReasonLabel, Counter<u64, AtomicU64>>,
    lost_events: Counter<u64, AtomicU64>,
    /// Known once the maps are there.
    counters: OnceLock<PerCpuMap<u32, PacketCounter>>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct MapLabel {
    map: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Upper bounds in seconds: what is aimed at is 5 ms.
const LATENCIES_S: [f64; 12] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

impl Metrics {
    pub fn new() -> Metrics {
        let mut metrics = Metrics {
            registry: Mutex::new(Registry::with_prefix("skerry_proxy")),
            event_to_maps: Histogram::new(LATENCIES_S),
            syncs: Counter::default(),
            sync_failures: Counter::default(),
            operations: Counter::default(),
            events: Counter::default(),
            divergence: Counter::default(),
            refused: Gauge::default(),
            reattached: Counter::default(),
            udp_flows_ended: Counter::default(),
            connections_reset: Counter::default(),
            flows_collected: Counter::default(),
            services: Gauge::default(),
            slices: Gauge::default(),
            announced: Gauge::default(),
            announcements: Counter::default(),
            neighbour_answers: Counter::default(),
            health_ports: Gauge::default(),
            health_ports_refused: Gauge::default(),
            watch_failures: Counter::default(),
            events_written: Counter::default(),
            events_failed: Counter::default(),
            warnings: Family::default(),
            flow_entries: Family::default(),
            map_entries: Family::default(),
            map_capacity: Family::default(),
            packets: Family::default(),
            bytes: Family::default(),
            lost_events: Counter::default(),
            counters: OnceLock::new(),
        };
        metrics.register();
        metrics
    }

    /// Packets are counted there.
    pub fn count_by(&self, counters: PerCpuMap<u32, PacketCounter>) {
        self.counters.get_or_init(|| counters);
    }

    fn register(&mut self) {
        let mut registry = Registry::with_prefix("skerry_proxy");
        registry.register_with_unit(
            "event_to_maps",
            "From the last byte of an API event to the maps' having it",
            Unit::Seconds,
            self.event_to_maps.clone(),
        );
        for (name, help, counter) in [
            ("syncs", "Plans executed", &self.syncs),
            ("sync_failures", "Plans that could not be executed to their end", &self.sync_failures),
            ("operations", "Map operations executed", &self.operations),
            ("events", "API events received", &self.events),
            (
                "watch_failures",
                "Lists and watches that broke off, were refused or fell silent",
                &self.watch_failures,
            ),
            ("divergence", "Map entries that a resync found to differ", &self.divergence),
            ("reattached", "Programs put back after somebody detached them", &self.reattached),
            ("udp_flows_ended", "UDP flows ended because their backend was gone", &self.udp_flows_ended),
            (
                "connections_reset",
                "TCP connections ended, as their Service asks for, because their endpoint was gone",
                &self.connections_reset,
            ),
            ("flows_collected", "Flow entries removed after their timeout", &self.flows_collected),
            ("announcements", "Unasked ARP or neighbour announcements of addresses", &self.announcements),
            ("events_written", "Kubernetes Events written or counted on", &self.events_written),
            ("events_failed", "Those that the API server did not take", &self.events_failed),
            ("neighbour_answers", "ARP and neighbour questions answered", &self.neighbour_answers),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, gauge) in [
            ("refused", "Service ports that did not fit into the maps", &self.refused),
            ("services", "Services followed", &self.services),
            ("endpoint_slices", "EndpointSlices followed", &self.slices),
            ("announced_addresses", "Load-balancer addresses that this node answers for", &self.announced),
            ("health_check_ports", "Health check node ports served", &self.health_ports),
            ("health_check_ports_refused", "Those that somebody else holds", &self.health_ports_refused),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register("service_warnings", "Services with a warning, by its cause", self.warnings.clone());
        registry.register(
            "flow_entries",
            "Entries of flows by their state, two a flow, as last looked through",
            self.flow_entries.clone(),
        );
        registry.register("map_entries", "Elements in use", self.map_entries.clone());
        registry.register("map_capacity", "Elements that fit", self.map_capacity.clone());
        registry.register("packets", "Packets by what became of them", self.packets.clone());
        registry.register("bytes", "Bytes by what became of their packets", self.bytes.clone());
        registry.register("lost_events", "Drop records lost to a full ring", self.lost_events.clone());
        self.registry = Mutex::new(registry);
    }

    pub fn set_usage(&self, map: &'static str, entries: u32, capacity: u32) {
        self.map_entries.get_or_create(&MapLabel { map }).set(entries.into());
        self.map_capacity.get_or_create(&MapLabel { map }).set(capacity.into());
    }

    pub fn set_flows(&self, seen: &Collected) {
        self.flows_collected.inc_by(seen.removed as u64);
        let states =
            [("embryonic", seen.embryonic), ("established", seen.established), ("closing", seen.closing)];
        for (state, entries) in states {
            self.flow_entries.get_or_create(&StateLabel { state }).set(entries.into());
        }
        let entries = seen.embryonic + seen.established + seen.closing;
        self.set_usage(map::FLOWS, entries, seen.capacity);
    }

    pub fn set_warnings(&self, cause: &'static str, services: usize) {
        self.warnings.get_or_create(&CauseLabel { cause }).set(services as i64);
    }

    /// The OpenMetrics text.
    pub fn text(&self) -> String {
        self.read_packet_counters();
        let registry = self.registry.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut text = String::new();
        // Writing to a String cannot fail.
        encode(&mut text, &registry).ok();
        text
    }

    /// A counter that can't be read keeps its last value.
    fn read_packet_counters(&self) {
        let sum = |index: u32| {
            let cpus = self.counters.get()?.lookup(&index).ok().flatten()?;
            Some(cpus.iter().fold((0, 0), |(packets, bytes), cpu| (packets + cpu.packets, bytes + cpu.bytes)))
        };
        for reason in Reason::ALL {
            let Some((packets, bytes)) = sum(u32::from(*reason as u8)) else { continue };
            let label = ReasonLabel { reason: reason.label() };
            self.packets.get_or_create(&label).inner().store(packets, Ordering::Relaxed);
            self.bytes.get_or_create(&label).inner().store(bytes, Ordering::Relaxed);
        }
        if let Some((packets, _)) = sum(LOST_EVENTS) {
            self.lost_events.inner().store(packets, Ordering::Relaxed);
        }
    }
}
