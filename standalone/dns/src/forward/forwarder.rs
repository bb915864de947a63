use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use hickory_proto::{op::ResponseCode, rr::Name};
use skerry_vocabulary::chain;
use tokio::sync::watch;

use super::{
    cache::{Cache, Kept, Key, is_failure},
    upstream::{Upstream, UpstreamError},
};
use crate::{message::Content, metrics::Metrics};

/// For one server's answer, and for all of it: a client's own patience is 5 s (resolv.conf(5)).
const PATIENCE: Duration = Duration::from_millis(1500);
const ALL_PATIENCE: Duration = Duration::from_millis(4500);
/// After this long a client gets what has run out, where there is such (RFC 8767 section 5).
const STALE_AFTER: Duration = Duration::from_millis(1800);
/// Answers that are kept: about 2 MB.
const CACHED: usize = 4096;

/// Whom to ask for names below `zone`.
#[derive(Clone, Debug)]
pub struct Route {
    pub zone: Name,
    /// In the order in which they are asked.
    pub upstreams: Vec<Arc<Upstream>>,
}

/// Where an answer is from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    Cache,
    /// Out of the cache, though it has run out.
    Stale,
    Server(SocketAddr),
}

#[derive(Clone, Debug)]
pub struct Looked {
    pub content: Content,
    pub origin: Origin,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    #[error(
        "no resolver is known for {0}: name one in the node's resolv.conf or in the ConfigMap skerry-dns"
    )]
    NoServers(Name),
    #[error("every resolver for {0} leads back here: name others in the ConfigMap skerry-dns")]
    Loop(Name),
    #[error("{last}")]
    Failed { last: String },
}

type Outcome = Result<Looked, Fault>;

/// Asks other resolvers, once for all clients that want the same at the same time.
#[derive(Debug)]
pub struct Forwarder {
    routes: RwLock<Vec<Route>>,
    cache: Mutex<Cache>,
    under_way: Mutex<HashMap<Key, watch::Receiver<Option<Outcome>>>>,
    metrics: Arc<Metrics>,
}

impl Forwarder {
    pub fn new(metrics: Arc<Metrics>) -> Arc<Forwarder> {
        Arc::new(Forwarder {
            routes: RwLock::default(),
            cache: Mutex::new(Cache::new(CACHED)),
            under_way: Mutex::default(),
            metrics,
        })
    }

    /// Whom to ask from now on; a server that was known stays as well or as ill as it was. Where others are
    /// to be asked than before, what was answered is forgotten: it may be another answer now.
    pub fn set_routes(&self, wanted: &[(Name, Vec<SocketAddr>)]) -> Vec<Arc<Upstream>> {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let known: HashMap<SocketAddr, Arc<Upstream>> =
            routes.iter().flat_map(|route| &route.upstreams).map(|it| (it.server, it.clone())).collect();
        let mut all: HashMap<SocketAddr, Arc<Upstream>> = HashMap::new();
        let mut new: Vec<Route> = Vec::new();
        for (zone, servers) in wanted {
            let upstreams = servers.iter().map(|server| {
                let fresh = || known.get(server).cloned().unwrap_or_else(|| Arc::new(Upstream::new(*server)));
                all.entry(*server).or_insert_with(fresh).clone()
            });
            new.push(Route { zone: zone.to_lowercase(), upstreams: upstreams.collect() });
        }
        // The longest name that fits decides.
        new.sort_by_key(|route| std::cmp::Reverse(route.zone.num_labels()));
        let is_change = told(&routes) != told(&new);
        *routes = new;
        drop(routes);
        if is_change {
            self.cache().clear();
        }
        all.into_values().collect()
    }

    /// The route of a name, for whoever asks why.
    pub fn route(&self, name: &Name) -> Option<Route> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes.iter().find(|route| route.zone.zone_of(name)).cloned()
    }

    /// What is kept of it and fresh: then nobody has to be asked.
    pub fn kept(self: &Arc<Self>, key: &Key) -> Option<Content> {
        let kept = self.cache().get(key, Instant::now());
        let Kept::Fresh { content, is_to_be_renewed } = kept else { return None };
        self.metrics.cache_hits.inc();
        if is_to_be_renewed {
            self.metrics.cache_renewals.inc();
            drop(self.start(key));
        }
        Some(content)
    }

    /// What others say; where they don't in time, what they once said.
    ///
    /// # Errors
    /// When nobody answers and nothing is kept.
    pub async fn look_up(self: &Arc<Self>, key: &Key) -> Outcome {
        let kept = self.cache().get(key, Instant::now());
        let stale = match kept {
            Kept::Fresh { content, .. } => return Ok(Looked { content, origin: Origin::Cache }),
            Kept::Stale(content) => Some(content),
            Kept::Nothing => None,
        };
        self.metrics.cache_misses.inc();
        let mut asked = self.start(key);
        let answered = async {
            match asked.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone().unwrap_or(Err(cut_short())),
                Err(_) => Err(cut_short()),
            }
        };
        let Some(stale) = stale else { return answered.await };
        let outcome = tokio::time::timeout(STALE_AFTER, answered).await;
        match outcome {
            Ok(Ok(looked)) if !is_failure(looked.content.code) => Ok(looked),
            _ => {
                self.metrics.cache_stale.inc();
                Ok(Looked { content: stale, origin: Origin::Stale })
            }
        }
    }

    /// Joins who asks for the same already, or begins to ask.
    fn start(self: &Arc<Self>, key: &Key) -> watch::Receiver<Option<Outcome>> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asked) = under_way.get(key) {
            return asked.clone();
        }
        let (told, asked) = watch::channel(None);
        under_way.insert(key.clone(), asked.clone());
        drop(under_way);
        let (forwarder, key) = (self.clone(), key.clone());
        tokio::spawn(async move {
            let outcome = forwarder.ask(&key).await;
            if let Ok(looked) = &outcome {
                let mut cache = forwarder.cache();
                cache.put(key.clone(), &looked.content, Instant::now());
                forwarder.metrics.cache_entries.set(i64::try_from(cache.len()).unwrap_or(i64::MAX));
            }
            forwarder.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            told.send_replace(Some(outcome));
        });
        asked
    }

    /// Asks the servers in their order, those that are well first, and again as long as there is time.
    async fn ask(&self, key: &Key) -> Outcome {
        let Some(route) = self.route(&key.name) else { return Err(Fault::NoServers(key.name.clone())) };
        if route.upstreams.is_empty() {
            return Err(Fault::NoServers(key.name.clone()));
        }
        let usable: Vec<&Arc<Upstream>> = route.upstreams.iter().filter(|it| !it.loops()).collect();
        if usable.is_empty() {
            return Err(Fault::Loop(route.zone));
        }
        let deadline = Instant::now() + ALL_PATIENCE;
        let query = key.query();
        let (mut last, mut refused) = (None, None);
        for round in 0..2 {
            let now = Instant::now();
            let mut turn: Vec<&&Arc<Upstream>> = usable.iter().filter(|it| it.take_turn(now)).collect();
            // Where none is well, each is better than nothing.
            if turn.is_empty() {
                turn = usable.iter().collect();
            }
            for upstream in turn {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                let began = Instant::now();
                let patience = PATIENCE.min(left);
                let answer = upstream.ask(&query, key.dnssec_ok, key.checking_disabled, patience).await;
                self.note(upstream, &answer, began.elapsed());
                match answer {
                    Ok(message) => {
                        let content = Content {
                            code: message.metadata.response_code,
                            is_authoritative: false,
                            answers: message.answers,
                            authorities: message.authorities,
                            additionals: message.additionals,
                        };
                        let looked = Looked { content, origin: Origin::Server(upstream.server) };
                        // Another one may know better than who is in trouble.
                        if matches!(looked.content.code, ResponseCode::ServFail | ResponseCode::Refused) {
                            refused = Some(looked);
                            continue;
                        }
                        return Ok(looked);
                    }
                    Err(error) => last = Some(error),
                }
            }
            if round == 0 && refused.is_some() {
                break;
            }
        }
        refused.ok_or_else(|| Fault::Failed {
            last: last.map_or_else(|| cut_short().to_string(), |error| chain(&error)),
        })
    }

    fn note(
        &self,
        upstream: &Upstream,
        answer: &Result<hickory_proto::op::Message, UpstreamError>,
        took: Duration,
    ) {
        let code = answer.as_ref().ok().map(|message| message.metadata.response_code);
        self.metrics.forwarded(upstream.server, code, took);
        if upstream.note(answer.is_ok(), Instant::now()) {
            match answer {
                Ok(_) => tracing::info!(server = %upstream.server, "answers again"),
                Err(error) => {
                    self.metrics.healthcheck_failed(upstream.server);
                    tracing::warn!(server = %upstream.server, error = chain(error), "does not answer, others are asked first");
                }
            }
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who is asked for what, in order.
fn told(routes: &[Route]) -> Vec<(&Name, Vec<SocketAddr>)> {
    routes.iter().map(|route| (&route.zone, route.upstreams.iter().map(|it| it.server).collect())).collect()
}

fn cut_short() -> Fault {
    Fault::Failed { last: "nobody was asked in time".to_owned() }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{RData, Record, RecordType, rdata::A};

    use super::*;

    #[test]
    fn settings_that_change_nothing_forget_nothing() {
        let forwarder = Forwarder::new(Arc::new(Metrics::new("cluster.local")));
        let servers: [SocketAddr; 2] = ["192.0.2.1:53".parse().unwrap(), "192.0.2.2:53".parse().unwrap()];
        let routes = |servers: &[SocketAddr]| [(Name::root(), servers.to_vec())];
        forwarder.set_routes(&routes(&servers));
        let name: Name = "a.example.".parse().unwrap();
        let key = Key { name: name.clone(), kind: RecordType::A, dnssec_ok: false, checking_disabled: false };
        let record = Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 9)));
        let keep = || {
            let mut content = Content::empty(ResponseCode::NoError);
            content.answers = vec![record.clone()];
            forwarder.cache().put(key.clone(), &content, Instant::now());
        };
        keep();
        forwarder.set_routes(&routes(&servers));
        assert_eq!(forwarder.cache().len(), 1);
        forwarder.set_routes(&routes(&servers[..1]));
        assert_eq!(forwarder.cache().len(), 0, "another may answer otherwise");
    }
}
