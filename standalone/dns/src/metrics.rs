//! Figures for Prometheus, under the names that dashboards for CoreDNS read.

use std::{net::SocketAddr, time::Duration};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::message::Transport;

/// As CoreDNS names what it listens on.
const SERVER: &str = "dns://:53";
/// Seconds: 0.25 ms, doubled 16 times.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 16))
}

type NewHistogram = fn() -> Histogram;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct RequestLabels {
    server: &'static str,
    zone: &'static str,
    view: &'static str,
    proto: &'static str,
    family: &'static str,
    r#type: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct ResponseLabels {
    server: &'static str,
    zone: &'static str,
    view: &'static str,
    rcode: &'static str,
    plugin: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ZoneLabels {
    server: &'static str,
    zone: &'static str,
    view: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ForwardLabels {
    proxy_name: &'static str,
    to: String,
    rcode: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ToLabels {
    proxy_name: &'static str,
    to: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// Why a question is not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dropped {
    /// No question at all.
    Malformed,
    /// From outside of the cluster.
    Stranger,
    /// The client has its share of names under way.
    ClientLimit,
    /// All places are taken.
    Limit,
    /// The socket did not take the answer.
    Unsent,
}

impl Dropped {
    fn label(self) -> &'static str {
        match self {
            Dropped::Malformed => "malformed",
            Dropped::Stranger => "stranger",
            Dropped::ClientLimit => "client_limit",
            Dropped::Limit => "limit",
            Dropped::Unsent => "unsent",
        }
    }
}

/// Whose name was asked for: zones beyond these two are not told apart, or anybody could make as many as he
/// likes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Whose {
    Cluster,
    Others,
}

/// The counters of one kind of question and answer.
#[derive(Clone, Debug)]
pub struct Counted {
    requests: Counter,
    responses: Counter,
    duration: Histogram,
}

impl Counted {
    pub fn count(&self, took: Duration) {
        self.requests.inc();
        self.responses.inc();
        self.duration.observe(took.as_secs_f64());
    }
}

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Leaked once, at the start: labels are `'static`.
    domain: &'static str,
    requests: Family<RequestLabels, Counter>,
    responses: Family<ResponseLabels, Counter>,
    durations: Family<ZoneLabels, Histogram, NewHistogram>,
    forwards: Family<ForwardLabels, Histogram, NewHistogram>,
    health_failures: Family<ToLabels, Counter>,
    dropped: Family<ReasonLabels, Counter>,
    pub cache_hits: Counter,
    pub cache_misses: Counter,
    pub cache_stale: Counter,
    pub cache_renewals: Counter,
    pub cache_entries: Gauge,
    /// Of what the agent says.
    pub services: Gauge,
    pub slices: Gauge,
    pub changes: Counter,
    /// From the agent's message until the answer is the new one.
    pub change_duration: Histogram,
    pub is_fed: Gauge,
    pub reloads: Counter,
}

impl Metrics {
    /// `domain` ends in a dot.
    pub fn new(domain: &str) -> Metrics {
        let mut registry = Registry::default();
        let (requests, responses) = (Family::default(), Family::default());
        let durations = Family::new_with_constructor(seconds as NewHistogram);
        let forwards = Family::new_with_constructor(seconds as NewHistogram);
        let (health_failures, dropped) = (Family::default(), Family::default());
        let metrics = Metrics {
            domain: Box::leak(domain.to_owned().into_boxed_str()),
            requests,
            responses,
            durations,
            forwards,
            health_failures,
            dropped,
            cache_hits: Counter::default(),
            cache_misses: Counter::default(),
            cache_stale: Counter::default(),
            cache_renewals: Counter::default(),
            cache_entries: Gauge::default(),
            services: Gauge::default(),
            slices: Gauge::default(),
            changes: Counter::default(),
            change_duration: Histogram::new(exponential_buckets(0.000_001, 4.0, 12)),
            is_fed: Gauge::default(),
            reloads: Counter::default(),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register("coredns_dns_requests", "Questions, by zone, protocol and type", metrics.requests.clone());
        r.register("coredns_dns_responses", "Answers, by zone and code", metrics.responses.clone());
        r.register("coredns_dns_request_duration_seconds", "Time to answer", metrics.durations.clone());
        r.register(
            "coredns_proxy_request_duration_seconds",
            "Time that other resolvers take",
            metrics.forwards.clone(),
        );
        r.register(
            "coredns_proxy_healthcheck_failures",
            "Times a resolver went down",
            metrics.health_failures.clone(),
        );
        r.register("coredns_cache_hits", "Answers of others that were kept", metrics.cache_hits.clone());
        r.register("coredns_cache_misses", "Names that others were asked for", metrics.cache_misses.clone());
        r.register("coredns_cache_served_stale", "Answers that had run out", metrics.cache_stale.clone());
        r.register("coredns_cache_prefetch", "Answers renewed in time", metrics.cache_renewals.clone());
        r.register("coredns_cache_entries", "Answers that are kept", metrics.cache_entries.clone());
        r.register("coredns_reload", "Configurations taken", metrics.reloads.clone());
        r.register("skerry_dns_dropped", "Questions not answered, by reason", metrics.dropped.clone());
        r.register("skerry_dns_services", "Services known", metrics.services.clone());
        r.register("skerry_dns_endpoint_slices", "EndpointSlices known", metrics.slices.clone());
        r.register("skerry_dns_changes", "Objects that became different", metrics.changes.clone());
        r.register(
            "skerry_dns_change_duration_seconds",
            "Time to take a change",
            metrics.change_duration.clone(),
        );
        r.register("skerry_dns_fed", "1 while the agent is connected", metrics.is_fed.clone());
        Metrics { registry, ..metrics }
    }

    /// The counters for a question of this kind that has this answer.
    pub fn counted(
        &self,
        whose: Whose,
        transport: Transport,
        is_v4: bool,
        kind: RecordType,
        code: ResponseCode,
    ) -> Counted {
        let (server, zone, view) = (SERVER, self.zone(whose), "");
        let (proto, family) = (transport.label(), if is_v4 { "1" } else { "2" });
        let labels = RequestLabels { server, zone, view, proto, family, r#type: type_label(kind) };
        let plugin = match whose {
            Whose::Cluster => "kubernetes",
            Whose::Others => "forward",
        };
        let rcode = code_label(code);
        Counted {
            requests: self.requests.get_or_create_owned(&labels),
            responses: self.responses.get_or_create_owned(&ResponseLabels {
                server,
                zone,
                view,
                rcode,
                plugin,
            }),
            duration: self.durations.get_or_create_owned(&ZoneLabels { server, zone, view }),
        }
    }

    pub fn dropped(&self, why: Dropped) {
        self.dropped.get_or_create(&ReasonLabels { reason: why.label() }).inc();
    }

    pub(crate) fn forwarded(&self, to: SocketAddr, code: Option<ResponseCode>, took: Duration) {
        let rcode = code.map_or("FAILED", code_label);
        let labels = ForwardLabels { proxy_name: "forward", to: to.to_string(), rcode };
        self.forwards.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(crate) fn healthcheck_failed(&self, to: SocketAddr) {
        self.health_failures.get_or_create(&ToLabels { proxy_name: "forward", to: to.to_string() }).inc();
    }

    /// All figures in OpenMetrics' text form.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            tracing::error!("write the metrics");
        }
        text
    }

    fn zone(&self, whose: Whose) -> &'static str {
        match whose {
            Whose::Cluster => self.domain,
            Whose::Others => ".",
        }
    }
}

/// Those that CoreDNS tells apart.
fn type_label(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "A",
        RecordType::AAAA => "AAAA",
        RecordType::CNAME => "CNAME",
        RecordType::DNSKEY => "DNSKEY",
        RecordType::DS => "DS",
        RecordType::HTTPS => "HTTPS",
        RecordType::MX => "MX",
        RecordType::NS => "NS",
        RecordType::NSEC => "NSEC",
        RecordType::NSEC3 => "NSEC3",
        RecordType::PTR => "PTR",
        RecordType::RRSIG => "RRSIG",
        RecordType::SOA => "SOA",
        RecordType::SRV => "SRV",
        RecordType::SVCB => "SVCB",
        RecordType::TXT => "TXT",
        _ => "other",
    }
}

/// As `dig` and CoreDNS write it.
pub fn code_label(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::BADVERS => "BADVERS",
        _ => "OTHER",
    }
}
