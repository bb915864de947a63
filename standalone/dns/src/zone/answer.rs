use std::{fmt, net::IpAddr};

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, NS, SOA, SRV, TXT},
};

use super::{state::Zone, state::namespace};
use crate::model::{Endpoint, Place, Port, Protocol, Service, Slice, undashed};

/// Version of the specification that names follow (`dns-version.CLUSTER-DOMAIN`).
const SPECIFICATION: &str = "1.1.0";
/// Seconds that an answer may be kept: as short as its peers', since what is behind a name changes.
pub(crate) const TTL_S: u32 = 5;
/// Records of one answer at most: what fits into the largest message.
const MAX_RECORDS: usize = 2048;
/// Of a name below the domain: `_PORT._PROTOCOL.SERVICE.NAMESPACE.svc` has five.
const MAX_LABELS: usize = 6;
/// `externalName` after `externalName` inside of the cluster.
const MAX_ALIASES: usize = 8;

/// What a question is answered.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    pub outcome: Outcome,
    pub answers: Vec<Record>,
    /// Addresses of the targets in `answers`.
    pub additionals: Vec<Record>,
    /// Goes with an answer that says "nothing": how long that holds (RFC 2308).
    pub soa: Option<Record>,
    pub why: Why,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Records, or none of the type that was asked for.
    Found,
    /// There is no such name.
    NoSuchName,
    /// The answers lead to this name, which is for others to look up.
    Continues(Name),
    /// Not the cluster's: for others to answer.
    Elsewhere,
}

/// Why the answer is as it is, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    ClusterAddress,
    Headless { named: usize, unready: usize },
    External,
    Endpoint,
    PortOfService,
    PodName,
    Structure,
    Reverse,
    NoSuchNamespace,
    NoSuchService,
    NoSuchEndpoint,
    NoSuchPort,
    NoAddressYet,
    NotAnAddress,
    NotInTheLayout,
    NobodysAddress,
    AliasesInACircle,
    OtherType,
    Elsewhere,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::ClusterAddress => "a Service with an address of its own",
            Why::Headless { named, unready } => {
                return write!(
                    f,
                    "a headless Service: {named} endpoints have the name, {unready} are not ready"
                );
            }
            Why::External => "a Service of type ExternalName: another name takes its place",
            Why::Endpoint => "an endpoint of a Service",
            Why::PortOfService => "a named port of a Service",
            Why::PodName => {
                "a pod's name: it is made of the address and not compared with the pods that there are"
            }
            Why::Structure => "part of the cluster's domain, with names below it",
            Why::Reverse => "the address of a Service, or of an endpoint of a headless one",
            Why::NoSuchNamespace => "there is no Service in this namespace: look at the namespace's spelling",
            Why::NoSuchService => {
                "the namespace has no Service of this name: `kubectl get services` shows those that there are"
            }
            Why::NoSuchEndpoint => {
                "the Service has no endpoint of this name that is ready: the pod needs `hostname` and, as \
                 `subdomain`, the Service's name"
            }
            Why::NoSuchPort => {
                "the Service has no port of this name and protocol: ports need a name to have one here"
            }
            Why::NoAddressYet => "the Service has no address yet",
            Why::NotAnAddress => {
                "no address can be read from the first label: write 10-244-0-7.NAMESPACE.pod"
            }
            Why::NotInTheLayout => {
                "the cluster's domain has no names of this form: NAME.NAMESPACE.svc is a Service's"
            }
            Why::NobodysAddress => "no Service has this address, and no endpoint of a headless one",
            Why::AliasesInACircle => "externalNames lead from one to the next and do not end",
            Why::OtherType => "the name is there, but has no records of this type",
            Why::Elsewhere => "not a name of the cluster: its resolvers are asked",
        })
    }
}

/// A name's labels below the cluster's domain, first one first, in lower case.
type Labels<'a> = [&'a str];

impl Zone {
    /// What this name has of this type. `turn` says which of several equal records comes first.
    pub fn answer(&self, name: &Name, kind: RecordType, turn: usize) -> Answer {
        let mut answer = self.step(name, kind, turn);
        // An alias inside of the cluster is followed here, so that the client gets an address.
        let mut steps = 0;
        while let Outcome::Continues(target) = &answer.outcome
            && self.domain.zone_of(target)
        {
            steps += 1;
            if steps > MAX_ALIASES {
                answer.why = Why::AliasesInACircle;
                answer.outcome = Outcome::Found;
                break;
            }
            let next = self.step(&target.clone(), kind, turn);
            answer.answers.extend(next.answers);
            (answer.outcome, answer.soa) = (next.outcome, next.soa);
        }
        answer
    }

    fn step(&self, name: &Name, kind: RecordType, turn: usize) -> Answer {
        let question = Question { zone: self, name, kind, turn };
        if !self.domain.zone_of(name) {
            return self.reverse(&question).unwrap_or_else(|| question.elsewhere());
        }
        let below = usize::from(name.num_labels() - self.domain.num_labels());
        // In lower case, one behind the other: no label is worth an allocation.
        let (mut text, mut used) = ([0; Name::MAX_LENGTH], 0);
        let mut ends = [0; MAX_LABELS];
        for (end, label) in ends.iter_mut().zip(name.iter().take(below)) {
            let Some(place) = text.get_mut(used..used + label.len()) else { break };
            place.copy_from_slice(label);
            place.make_ascii_lowercase();
            used += label.len();
            *end = used;
        }
        // Names of the API are ASCII and of five labels at most; what else is asked for does not exist.
        let Some(text) =
            text.get(..used).and_then(|text| std::str::from_utf8(text).ok()).filter(|text| text.is_ascii())
        else {
            return question.no_such(Why::NotInTheLayout);
        };
        if below > MAX_LABELS {
            return question.no_such(Why::NotInTheLayout);
        }
        let mut labels = [""; MAX_LABELS];
        let mut start = 0;
        for (label, end) in labels.iter_mut().zip(ends).take(below) {
            *label = &text[start..end];
            start = end;
        }
        question.inside(&labels[..below])
    }
}

pub(super) struct Question<'a> {
    pub zone: &'a Zone,
    pub name: &'a Name,
    pub kind: RecordType,
    pub turn: usize,
}

impl Question<'_> {
    fn inside(&self, labels: &Labels<'_>) -> Answer {
        match labels {
            [] => self.apex(),
            ["dns-version"] => {
                let version = TXT::new(vec![SPECIFICATION.to_owned()]);
                self.records(Why::Structure, vec![RData::TXT(version)])
            }
            ["svc"] | ["pod"] | ["dns"] => self.records(Why::Structure, Vec::new()),
            ["ns", "dns"] => {
                self.records(Why::Structure, self.zone.servers.iter().map(|ip| address(*ip)).collect())
            }
            [namespace, "svc"] => match self.zone.namespaces.contains_key(*namespace) {
                true => self.records(Why::Structure, Vec::new()),
                false => self.no_such(Why::NoSuchNamespace),
            },
            // Pods are not known here, and so neither are the namespaces that have nothing else.
            [_, "pod"] => self.records(Why::Structure, Vec::new()),
            [label, _, "pod"] => match undashed(label) {
                Some(ip) => self.records(Why::PodName, vec![address(ip)]),
                None => self.no_such(Why::NotAnAddress),
            },
            [below @ .., service, namespace, "svc"] if below.len() <= 2 => {
                let key = format!("{namespace}/{service}");
                match self.zone.services.get(key.as_str()) {
                    Some(service) => self.service(&key, service, below),
                    None if self.zone.namespaces.contains_key(*namespace) => self.no_such(Why::NoSuchService),
                    None => self.no_such(Why::NoSuchNamespace),
                }
            }
            _ => self.no_such(Why::NotInTheLayout),
        }
    }

    fn apex(&self) -> Answer {
        let server = Name::from_ascii("ns.dns").and_then(|name| name.append_domain(&self.zone.domain));
        let mut records = vec![self.soa_data()];
        records.extend(server.map(|name| RData::NS(NS(name))));
        self.records(Why::Structure, records)
    }

    fn service(&self, key: &str, service: &Service, below: &Labels<'_>) -> Answer {
        match (below, &service.place) {
            ([], Place::External(target)) => self.alias(target),
            ([], Place::Addresses(own)) => {
                let mut answer =
                    self.records(Why::ClusterAddress, own.iter().map(|ip| address(*ip)).collect());
                self.add_ports(&mut answer, self.ports(key, service, None));
                answer
            }
            ([], Place::Headless { even_unready }) => self.headless(key, service, *even_unready),
            ([], Place::Nowhere) => self.records(Why::NoAddressYet, Vec::new()),
            ([port, protocol], _) => {
                let wanted = |have: &Port| {
                    port.strip_prefix('_') == Some(&*have.name) && *protocol == have.protocol.label()
                };
                self.port(self.ports(key, service, Some(&wanted)))
            }
            ([label], _) if label.starts_with('_') => {
                let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
                let wanted = |have: &Port| *label == have.protocol.label();
                let is_one = protocols.iter().any(|protocol| *label == protocol.label());
                match is_one && !self.ports(key, service, Some(&wanted)).is_empty() {
                    true => self.records(Why::Structure, Vec::new()),
                    false => self.no_such(Why::NoSuchPort),
                }
            }
            ([label], Place::Headless { even_unready }) => self.endpoint(key, label, *even_unready),
            ([label], _) => self.endpoint(key, label, false),
            _ => self.no_such(Why::NotInTheLayout),
        }
    }

    fn headless(&self, key: &str, service: &Service, even_unready: bool) -> Answer {
        let all = self.zone.endpoints(key, true).count();
        let mut ips: Vec<IpAddr> =
            self.zone.endpoints(key, even_unready).map(|(_, endpoint)| endpoint.address).collect();
        let why = Why::Headless { named: ips.len(), unready: all - ips.len() };
        ips.sort_unstable();
        ips.dedup();
        let mut answer = self.records(why, ips.into_iter().map(address).collect());
        self.add_ports(&mut answer, self.ports(key, service, None));
        answer
    }

    fn endpoint(&self, key: &str, label: &str, even_unready: bool) -> Answer {
        let named = self.zone.endpoints(key, even_unready);
        let named: Vec<(&Slice, &Endpoint)> =
            named.filter(|(_, endpoint)| endpoint.label() == label).collect();
        if named.is_empty() {
            return self.no_such(Why::NoSuchEndpoint);
        }
        let mut ips: Vec<IpAddr> = named.iter().map(|(_, endpoint)| endpoint.address).collect();
        ips.sort_unstable();
        ips.dedup();
        self.records(Why::Endpoint, ips.into_iter().map(address).collect())
    }

    /// The named ports of a Service, or those that `wanted` picks, with the names that they are at.
    fn ports(&self, key: &str, service: &Service, wanted: Option<&dyn Fn(&Port) -> bool>) -> Vec<Target> {
        // At a Service's own name ports are only looked for where somebody asks for them.
        if wanted.is_none() && !self.wants(RecordType::SRV) {
            return Vec::new();
        }
        let is_wanted = |port: &&Port| !port.name.is_empty() && wanted.is_none_or(|wanted| wanted(port));
        match &service.place {
            Place::Addresses(own) => {
                let Some(host) = self.host(key, None) else { return Vec::new() };
                let ports = service.ports.iter().filter(is_wanted);
                ports.map(|port| Target { port: port.port, host: host.clone(), ips: own.to_vec() }).collect()
            }
            Place::Headless { even_unready } => {
                let mut targets = Vec::new();
                for (slice, endpoint) in self.zone.endpoints(key, *even_unready).take(MAX_RECORDS) {
                    let label = endpoint.label();
                    for port in slice.ports.iter().filter(is_wanted) {
                        let Some(host) = self.host(key, Some(&label)) else { continue };
                        targets.push(Target { port: port.port, host, ips: vec![endpoint.address] });
                    }
                }
                targets
            }
            Place::External(_) | Place::Nowhere => Vec::new(),
        }
    }

    fn port(&self, targets: Vec<Target>) -> Answer {
        if targets.is_empty() {
            return self.no_such(Why::NoSuchPort);
        }
        let mut answer = self.records(Why::PortOfService, Vec::new());
        self.add_ports(&mut answer, targets);
        answer
    }

    /// Adds an SRV record for each, and what its target's addresses are. A target of two families is one
    /// target.
    fn add_ports(&self, answer: &mut Answer, targets: Vec<Target>) {
        if targets.is_empty() || !self.wants(RecordType::SRV) {
            return;
        }
        let mut hosts: Vec<(&Name, u16)> = targets.iter().map(|target| (&target.host, target.port)).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let weight = u16::try_from(100 / hosts.len().max(1)).unwrap_or(1).max(1);
        let mut ports: Vec<Record> = hosts
            .into_iter()
            .map(|(host, port)| self.record(RData::SRV(SRV::new(0, weight, port, host.clone()))))
            .collect();
        rotate(&mut ports, self.turn);
        let mut hints: Vec<Record> = Vec::new();
        for target in &targets {
            let records =
                target.ips.iter().map(|ip| Record::from_rdata(target.host.clone(), TTL_S, address(*ip)));
            hints.extend(records);
        }
        hints.sort_by(|a, b| (&a.name, a.data.to_string()).cmp(&(&b.name, b.data.to_string())));
        hints.dedup();
        answer.answers.extend(ports);
        answer.answers.truncate(MAX_RECORDS);
        answer.additionals.extend(hints);
        answer.additionals.truncate(MAX_RECORDS);
        answer.soa = None;
    }

    fn alias(&self, target: &str) -> Answer {
        let Ok(name) = Name::from_ascii(format!("{target}.")) else {
            return self.records(Why::External, Vec::new());
        };
        let mut answer = self.records(Why::External, Vec::new());
        answer.soa = None;
        answer.answers.push(self.record(RData::CNAME(CNAME(name.clone()))));
        if self.kind != RecordType::CNAME {
            answer.outcome = Outcome::Continues(name);
        }
        answer
    }

    /// `LABEL.SERVICE.NAMESPACE.svc.DOMAIN.`; `None` where that is too long to be a name.
    pub(super) fn host(&self, key: &str, label: Option<&str>) -> Option<Name> {
        let (namespace, service) = (namespace(key), key.rsplit('/').next().unwrap_or(key));
        let labels = label.into_iter().chain([service, namespace, "svc"]).map(str::as_bytes);
        Name::from_labels(labels).ok()?.append_domain(&self.zone.domain).ok()
    }

    fn wants(&self, kind: RecordType) -> bool {
        self.kind == kind || self.kind == RecordType::ANY
    }

    /// An answer for a name that is there: those of `all` that have the type.
    pub(super) fn records(&self, why: Why, all: Vec<RData>) -> Answer {
        let of_type = all.into_iter().filter(|data| self.wants(data.record_type()));
        let mut answers: Vec<Record> = of_type.take(MAX_RECORDS).map(|data| self.record(data)).collect();
        rotate(&mut answers, self.turn);
        let is_explained = !answers.is_empty() || matches!(why, Why::NoAddressYet | Why::Headless { .. });
        Answer {
            outcome: Outcome::Found,
            soa: answers.is_empty().then(|| self.soa()),
            answers,
            additionals: Vec::new(),
            why: if is_explained { why } else { Why::OtherType },
        }
    }

    pub(super) fn no_such(&self, why: Why) -> Answer {
        Answer {
            outcome: Outcome::NoSuchName,
            answers: Vec::new(),
            additionals: Vec::new(),
            soa: Some(self.soa()),
            why,
        }
    }

    fn elsewhere(&self) -> Answer {
        let (answers, additionals) = (Vec::new(), Vec::new());
        Answer { outcome: Outcome::Elsewhere, answers, additionals, soa: None, why: Why::Elsewhere }
    }

    /// Under the name as it was asked, capitals and all (draft-vixie-dnsext-dns0x20).
    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), TTL_S, data)
    }

    fn soa(&self) -> Record {
        // For an address the zone is the tree of its family: a name's SOA stands above it (RFC 2308 section
        // 2.1).
        let zone = match self.zone.domain.zone_of(self.name) {
            true => self.zone.domain.clone(),
            false => self.name.trim_to(2),
        };
        Record::from_rdata(zone, TTL_S, self.soa_data())
    }

    fn soa_data(&self) -> RData {
        let below = |label: &str| {
            Name::from_ascii(label).and_then(|name| name.append_domain(&self.zone.domain)).unwrap_or_default()
        };
        let serial = u32::try_from(self.zone.changes() & u64::from(u32::MAX)).unwrap_or_default();
        RData::SOA(SOA::new(below("ns.dns"), below("hostmaster"), serial, 7200, 1800, 86_400, TTL_S))
    }
}

/// Where a port is.
struct Target {
    port: u16,
    host: Name,
    ips: Vec<IpAddr>,
}

pub(super) fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

/// Equal records take turns at being the first: most clients take that.
fn rotate(records: &mut [Record], turn: usize) {
    if !records.is_empty() {
        records.rotate_left(turn % records.len());
    }
}
