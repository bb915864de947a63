//! A question's walk: who asks, what the cluster has, what is kept, what others say.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::PTR},
};
use ipnetwork::IpNetwork;

use crate::{
    forward::{Forwarder, Key, Limits, Looked, Origin, Seat, Upstream},
    message::{Content, Refusal, Request, Transport},
    metrics::{Dropped, Metrics, Whose, code_label},
    settings::{HOSTS_TTL_S, Log, Settings},
    zone::{Answer, Change, Outcome, Why, Zone},
};

/// Names that may be under way to other resolvers: for all clients, and for one.
const MAX_UNDER_WAY: usize = 1000;
const MAX_UNDER_WAY_EACH: usize = 100;
/// For the question that shows whether a resolver leads back here.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// What becomes of a message.
#[derive(Debug)]
pub enum Step {
    /// Nothing.
    Silence,
    Now(Vec<u8>, Seen),
    /// Others have to be asked: [`Engine::finish`].
    Later(Box<Pending>),
}

/// What metrics count.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Seen {
    pub whose: Whose,
    pub transport: Transport,
    pub is_v4: bool,
    pub kind: RecordType,
    pub code: ResponseCode,
}

/// A question that waits for others.
#[derive(Debug)]
pub struct Pending {
    request: Request,
    /// What is looked up.
    name: Name,
    /// Aliases that lead there.
    aliases: Vec<Record>,
    /// What was asked instead of what the client asked.
    rewritten: Option<Name>,
    from: IpAddr,
    transport: Transport,
    began: Instant,
    _seat: Seat,
}

/// How an answer came about, for people.
#[derive(Debug)]
pub struct Explained {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    /// Sentences, in the order of the walk.
    pub why: Vec<String>,
}

#[derive(Debug)]
pub struct Engine {
    zone: RwLock<Zone>,
    settings: RwLock<Arc<Settings>>,
    /// Grows with everything that may change an answer.
    stamp: AtomicU64,
    /// Where the cluster's clients are, beside its Nodes.
    clients: Vec<IpNetwork>,
    forwarder: Arc<Forwarder>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    turn: AtomicUsize,
    /// Names that were made up to see whether they come back, and by whom they would.
    probes: Mutex<HashMap<Name, Arc<Upstream>>>,
}

impl Engine {
    pub fn new(zone: Zone, clients: Vec<IpNetwork>, metrics: Arc<Metrics>) -> Arc<Engine> {
        Arc::new(Engine {
            zone: RwLock::new(zone),
            settings: RwLock::default(),
            stamp: AtomicU64::new(0),
            clients,
            forwarder: Forwarder::new(metrics.clone()),
            limits: Limits::new(MAX_UNDER_WAY, MAX_UNDER_WAY_EACH),
            metrics,
            turn: AtomicUsize::new(0),
            probes: Mutex::default(),
        })
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// To look at; who holds it holds changes up.
    pub fn zone(&self) -> RwLockReadGuard<'_, Zone> {
        self.zone.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the agent says; `false` where nothing is different.
    pub fn apply(&self, change: Change) -> bool {
        self.change(|zone| zone.apply(change))
    }

    /// Changes the zone as a whole.
    pub fn change<T>(&self, change: impl FnOnce(&mut Zone) -> T) -> T {
        let mut zone = self.zone.write().unwrap_or_else(PoisonError::into_inner);
        let done = change(&mut zone);
        let (services, slices) = zone.counts();
        // After the change and before anybody can see it: what was answered before is not kept for longer.
        self.stamp.fetch_add(1, Ordering::Release);
        drop(zone);
        self.metrics.services.set(i64::try_from(services).unwrap_or(i64::MAX));
        self.metrics.slices.set(i64::try_from(slices).unwrap_or(i64::MAX));
        done
    }

    /// What to do from now on; `servers` are the node's own resolvers. Those that lead back here are found
    /// and named.
    pub fn configure(self: &Arc<Self>, settings: Settings, servers: &[std::net::SocketAddr]) {
        let own: Vec<IpAddr> = self.zone().servers().to_vec();
        let usable = |servers: &[std::net::SocketAddr]| -> Vec<std::net::SocketAddr> {
            let (ours, others): (Vec<_>, Vec<_>) =
                servers.iter().partition(|server| own.contains(&server.ip()));
            for server in ours {
                tracing::warn!(%server, "a resolver that is the cluster's own DNS would ask itself: left out");
            }
            others
        };
        let all = if settings.forward.is_empty() { usable(servers) } else { usable(&settings.forward) };
        let mut routes = vec![(Name::root(), all)];
        routes.extend(settings.stubs.iter().map(|(zone, servers)| (zone.clone(), usable(servers))));
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        let upstreams = self.forwarder.set_routes(&routes);
        self.stamp.fetch_add(1, Ordering::Release);
        self.metrics.reloads.inc();
        for upstream in upstreams {
            tokio::spawn(self.clone().probe(upstream));
        }
    }

    /// Two answers to one question are the same while this is.
    pub fn stamp(&self) -> u64 {
        self.stamp.load(Ordering::Acquire)
    }

    /// Whether this client is one of the cluster's: we are no resolver for the whole world.
    pub fn knows(&self, client: IpAddr) -> bool {
        client.is_loopback()
            || self.clients.iter().any(|range| range.contains(client))
            || self.zone().is_node(client)
    }

    /// The answer, where it is here.
    pub fn ask(self: &Arc<Self>, packet: &[u8], from: IpAddr, transport: Transport) -> Step {
        let began = Instant::now();
        if !self.knows(from) {
            self.metrics.dropped(Dropped::Stranger);
            return Step::Silence;
        }
        let seen = |whose, kind, code| Seen { whose, transport, is_v4: from.is_ipv4(), kind, code };
        let request = match Request::read(packet, transport) {
            Ok(request) => request,
            Err(Refusal::Silence) => {
                self.metrics.dropped(Dropped::Malformed);
                return Step::Silence;
            }
            Err(Refusal::Answer(message)) => {
                let code = message.metadata.response_code;
                let kind = message.queries.first().map_or(RecordType::ZERO, Query::query_type);
                let Ok(bytes) = message.to_vec() else { return Step::Silence };
                return Step::Now(bytes, seen(Whose::Others, kind, code));
            }
        };
        let settings = self.settings();
        let (asked, kind) = (request.query.name().clone(), request.query.query_type());
        let rewritten = settings.rewritten(&asked);
        let name = rewritten.as_ref().unwrap_or(&asked);
        let (content, whose) = match self.here(&settings, name, kind) {
            Here::Answer(content, whose) => (content, whose),
            Here::Elsewhere(name, aliases) => {
                let key = key(&request, &name);
                let refused = || Content::empty(ResponseCode::Refused);
                if !request.wants_recursion() || self.came_back(&name) {
                    (refused(), Whose::Others)
                } else if let Some(kept) = self.forwarder.kept(&key) {
                    (joined(aliases, kept, &name), Whose::Others)
                } else {
                    match self.limits.take(from, began) {
                        Ok(seat) => {
                            return Step::Later(Box::new(Pending {
                                request,
                                name,
                                aliases,
                                rewritten,
                                from,
                                transport,
                                began,
                                _seat: seat,
                            }));
                        }
                        Err(turned) => {
                            let why = if turned.is_own { Dropped::ClientLimit } else { Dropped::Limit };
                            self.metrics.dropped(why);
                            if turned.is_to_be_named {
                                let most = if turned.is_own { MAX_UNDER_WAY_EACH } else { MAX_UNDER_WAY };
                                tracing::warn!(
                                    client = %from, name = %asked, most,
                                    "too many names under way to other resolvers: refused until some are answered"
                                );
                            }
                            (refused(), Whose::Others)
                        }
                    }
                }
            }
        };
        let code = content.code;
        let content = renamed(content, rewritten.as_ref(), &asked);
        self.log(&settings, &request.query, from, transport, code, "here", began);
        Step::Now(request.answer(content), seen(whose, kind, code))
    }

    /// Waits for others.
    pub async fn finish(&self, pending: Pending) -> (Vec<u8>, Seen, Duration) {
        let Pending { request, name, aliases, rewritten, from, transport, began, _seat } = pending;
        let looked = self.forwarder.look_up(&key(&request, &name)).await;
        let (content, origin) = match looked {
            Ok(Looked { content, origin }) => (content, origin_text(origin)),
            Err(fault) => {
                tracing::debug!(name = %name, %fault, "no answer");
                (Content::empty(ResponseCode::ServFail), fault.to_string())
            }
        };
        let code = content.code;
        let content = joined(aliases, content, &name);
        let content = renamed(content, rewritten.as_ref(), request.query.name());
        self.log(&self.settings(), &request.query, from, transport, code, &origin, began);
        let kind = request.query.query_type();
        let seen = Seen { whose: Whose::Others, transport, is_v4: from.is_ipv4(), kind, code };
        (request.answer(content), seen, began.elapsed())
    }

    /// The same walk for one name, told.
    pub async fn explain(self: &Arc<Self>, asked: &Name, kind: RecordType) -> Explained {
        let settings = self.settings();
        let mut why = Vec::new();
        let rewritten = settings.rewritten(asked);
        if let Some(to) = &rewritten {
            why.push(format!("rewritten to {to} by the configuration"));
        }
        let name = rewritten.as_ref().unwrap_or(asked);
        if settings.hosts.contains_key(&name.to_lowercase()) {
            why.push("named in `hosts` of the configuration".to_owned());
        }
        let content = match self.here(&settings, name, kind) {
            Here::Answer(content, _) => {
                if why.len() == usize::from(rewritten.is_some()) {
                    why.push(self.zone().answer(name, kind, 0).why.to_string());
                }
                content
            }
            Here::Elsewhere(name, aliases) => {
                if !aliases.is_empty() {
                    why.push(format!("{}: it leads to {name}", Why::External));
                }
                why.push(Why::Elsewhere.to_string());
                if let Some(route) = self.forwarder.route(&name) {
                    let servers: Vec<String> = route.upstreams.iter().map(|it| upstream_text(it)).collect();
                    why.push(format!("for {} these are asked: {}", route.zone, servers.join(", ")));
                }
                let key = Key { name: name.to_lowercase(), kind, dnssec_ok: false, checking_disabled: false };
                match self.forwarder.look_up(&key).await {
                    Ok(Looked { content, origin }) => {
                        why.push(format!("answered by {}", origin_text(origin)));
                        joined(aliases, content, &name)
                    }
                    Err(fault) => {
                        why.push(fault.to_string());
                        Content::empty(ResponseCode::ServFail)
                    }
                }
            }
        };
        let content = renamed(content, rewritten.as_ref(), asked);
        Explained { code: content.code, answers: content.answers, why }
    }

    /// What the configuration and the cluster know.
    fn here(&self, settings: &Settings, name: &Name, kind: RecordType) -> Here {
        if let Some(content) = from_hosts(settings, name, kind) {
            return Here::Answer(content, Whose::Others);
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let Answer { outcome, answers, additionals, soa, .. } = self.zone().answer(name, kind, turn);
        let code = match outcome {
            Outcome::Found => ResponseCode::NoError,
            Outcome::NoSuchName => ResponseCode::NXDomain,
            Outcome::Continues(target) => {
                return match from_hosts(settings, &target, kind) {
                    Some(content) => Here::Answer(joined(answers, content, &target), Whose::Cluster),
                    None => Here::Elsewhere(target, answers),
                };
            }
            Outcome::Elsewhere => return Here::Elsewhere(name.clone(), Vec::new()),
        };
        let authorities = soa.into_iter().collect();
        let content = Content { code, is_authoritative: true, answers, authorities, additionals };
        Here::Answer(content, Whose::Cluster)
    }

    fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks a resolver for a name that nobody has and only we know: if we are asked for it, it leads here.
    async fn probe(self: Arc<Self>, upstream: Arc<Upstream>) {
        let label = || format!("{:016x}", rand::random::<u64>());
        let Ok(name) = Name::from_ascii(format!("{}.{}.", label(), label())) else { return };
        self.probes().insert(name.clone(), upstream.clone());
        let query = Query::query(name.clone(), RecordType::HINFO);
        // Whether it is well will be seen by what is really asked.
        drop(upstream.ask(&query, false, false, PROBE_PATIENCE).await);
        self.probes().remove(&name);
    }

    fn came_back(&self, name: &Name) -> bool {
        let mut probes = self.probes();
        if probes.is_empty() {
            return false;
        }
        let Some(upstream) = probes.remove(&name.to_lowercase()) else { return false };
        upstream.set_loops();
        tracing::error!(
            server = %upstream.server,
            "this resolver asks us what we ask it: it is left out; name another in the node's resolv.conf or in the \
             ConfigMap skerry-dns"
        );
        true
    }

    fn probes(&self) -> std::sync::MutexGuard<'_, HashMap<Name, Arc<Upstream>>> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[expect(clippy::too_many_arguments, reason = "the columns of one line of the log")]
    fn log(
        &self,
        settings: &Settings,
        query: &Query,
        client: IpAddr,
        transport: Transport,
        code: ResponseCode,
        by: &str,
        began: Instant,
    ) {
        let is_failure = !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        if settings.log == Log::All || (settings.log == Log::Failures && is_failure) {
            tracing::info!(
                %client, name = %query.name(), kind = %query.query_type(), proto = transport.label(),
                code = code_label(code), by, took = ?began.elapsed(), "asked"
            );
        }
    }
}

enum Here {
    Answer(Content, Whose),
    /// Others have this name; the aliases lead there.
    Elsewhere(Name, Vec<Record>),
}

fn key(request: &Request, name: &Name) -> Key {
    Key {
        name: name.to_lowercase(),
        kind: request.query.query_type(),
        dnssec_ok: request.wants_dnssec(),
        checking_disabled: request.checks_itself(),
    }
}

/// What others say goes behind the aliases that lead to it. They were asked in lower case; the client may not
/// have.
fn joined(aliases: Vec<Record>, mut content: Content, name: &Name) -> Content {
    for record in content.answers.iter_mut().filter(|record| record.name == *name) {
        record.name = name.clone();
    }
    if !aliases.is_empty() {
        let answers = std::mem::replace(&mut content.answers, aliases);
        content.answers.extend(answers);
    }
    content
}

/// A client hears of the name that it asked for, not of the one that was looked up instead.
fn renamed(mut content: Content, rewritten: Option<&Name>, asked: &Name) -> Content {
    if let Some(rewritten) = rewritten {
        for record in content.answers.iter_mut().filter(|record| record.name == *rewritten) {
            record.name = asked.clone();
        }
    }
    content
}

fn from_hosts(settings: &Settings, name: &Name, kind: RecordType) -> Option<Content> {
    if settings.hosts.is_empty() {
        return None;
    }
    let record = |data| Record::from_rdata(name.clone(), HOSTS_TTL_S, data);
    let answers: Vec<Record> = match settings.hosts.get(&name.to_lowercase()) {
        Some(addresses) => {
            let all = addresses.iter().map(|ip| RData::from(*ip));
            let wanted = all.filter(|data| data.record_type() == kind || kind == RecordType::ANY);
            wanted.map(record).collect()
        }
        // The other way round, for the addresses that stand there.
        None => {
            let net = name.parse_arpa_name().ok()?;
            let (ip, whole) = (net.addr(), if net.addr().is_ipv4() { 32 } else { 128 });
            let has = |list: &&Vec<IpAddr>| net.prefix_len() == whole && list.contains(&ip);
            let names = settings.hosts.iter().filter(|(_, list)| has(list)).map(|(name, _)| name.clone());
            let all: Vec<Record> = names.map(|name| record(RData::PTR(PTR(name)))).collect();
            if all.is_empty() || kind != RecordType::PTR {
                return None;
            }
            all
        }
    };
    Some(Content { answers, ..Content::empty(ResponseCode::NoError) })
}

fn origin_text(origin: Origin) -> String {
    match origin {
        Origin::Cache => "the cache".to_owned(),
        Origin::Stale => "the cache, though it has run out: nobody said anything newer".to_owned(),
        Origin::Server(server) => server.to_string(),
    }
}

fn upstream_text(upstream: &Upstream) -> String {
    let state = match (upstream.loops(), upstream.is_down()) {
        (true, _) => " (leads back here)",
        (false, true) => " (does not answer)",
        (false, false) => "",
    };
    format!("{}{state}", upstream.server)
}
