//! What load balancers ask: for each Service with a `healthCheckNodePort` how many endpoints this node has,
//! and at one port for all whether the node should get traffic at all. Paths, shapes and headers are
//! kube-proxy's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use ipnetwork::IpNetwork;
use jiff::Timestamp;
use proxy_state::{Health, ServiceHealth};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::watch::{Receiver, Sender},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    outside::Config,
    tell::{
        metrics::Metrics,
        serve::{RETRY, Readiness, answer, until_bound},
    },
};
use skerry_vocabulary::chain;

/// Where the number of local endpoints stands besides the body (kube-proxy since 1.28).
const WEIGHT: &str = "x-load-balancing-endpoint-weight";
/// Changes that could not be written to the maps for longer make the proxy unhealthy; kube-proxy waits as
/// long.
const STUCK: Duration = Duration::from_secs(60);

/// A port for health checks could not be had.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address} for health checks: is another proxy running (`ss -ltnp`)?")]
struct ListenError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Tells the listeners what to answer.
pub(crate) struct HealthChecks {
    told: Sender<Health>,
    pulse: Arc<Pulse>,
}

impl HealthChecks {
    /// Starts the listeners; they end with `tasks`.
    pub fn start(
        config: &Config,
        readiness: Arc<Readiness>,
        metrics: Arc<Metrics>,
        tasks: &mut JoinSet<()>,
    ) -> HealthChecks {
        let (told, health) = tokio::sync::watch::channel(Health::default());
        let pulse = Arc::new(Pulse { readiness, beats: Mutex::default() });
        if let Some(address) = config.healthz_bind {
            tasks.spawn(serve_node(address, health.clone(), pulse.clone()));
        }
        // As NodePorts: where these are not served, nobody is to send traffic.
        let served: Arc<[IpNetwork]> = config.node_port_addresses.as_slice().into();
        tasks.spawn(serve_services(health, pulse.clone(), served, metrics));
        HealthChecks { told, pulse }
    }

    pub fn set(&self, health: Health) {
        self.told.send_if_modified(|told| {
            let changed = *told != health;
            *told = health;
            changed
        });
    }

    /// Whether the maps have just been brought up to date, or could not be.
    pub fn note_sync(&self, succeeded: bool) {
        let mut beats = self.pulse.beats.lock().unwrap_or_else(PoisonError::into_inner);
        match succeeded {
            true => *beats = Beats { last: Some(Timestamp::now()), stuck_since: None },
            false => drop(beats.stuck_since.get_or_insert_with(Instant::now)),
        }
    }
}

/// Whether the proxy itself works.
struct Pulse {
    readiness: Arc<Readiness>,
    beats: Mutex<Beats>,
}

#[derive(Clone, Copy, Default)]
struct Beats {
    last: Option<Timestamp>,
    stuck_since: Option<Instant>,
}

impl Pulse {
    fn look(&self) -> (bool, Option<Timestamp>) {
        let beats = *self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        let is_stuck = beats.stuck_since.is_some_and(|since| since.elapsed() > STUCK);
        (self.readiness.get() && !is_stuck, beats.last)
    }
}

/// One listener for all, tried again until the port is free.
async fn serve_node(address: SocketAddr, health: Receiver<Health>, pulse: Arc<Pulse>) {
    let tell = |error: ListenError| {
        tracing::error!(error = chain(&error), "will be tried again; or set --healthz-bind");
    };
    let listener = until_bound(|| listen(address), tell).await;
    let serves = |_: IpAddr| true;
    answer(listener, serves, move |path| {
        let (is_healthy, last) = pulse.look();
        node_answer(path, is_healthy, health.borrow().is_eligible, last, Timestamp::now())
    })
    .await;
}

/// One listener for each health check port; ports come and go with their Services.
async fn serve_services(
    told: Receiver<Health>,
    pulse: Arc<Pulse>,
    served: Arc<[IpNetwork]>,
    metrics: Arc<Metrics>,
) {
    let mut ports = Ports { told, pulse, served, open: BTreeMap::new(), warned: BTreeSet::new() };
    loop {
        let refused = ports.follow().await;
        metrics.health_ports.set(ports.open.len() as i64);
        metrics.health_ports_refused.set(refused);
        tokio::select! {
            changed = ports.told.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if refused > 0 => {}
        }
    }
}

struct Ports {
    told: Receiver<Health>,
    pulse: Arc<Pulse>,
    /// The node's addresses that answer; empty: all.
    served: Arc<[IpNetwork]>,
    open: BTreeMap<u16, AbortOnDropHandle<()>>,
    /// Ports of others that were told of already.
    warned: BTreeSet<u16>,
}

impl Ports {
    /// Closes what nobody wants any more and opens what is wanted; the number of ports that can't be had.
    async fn follow(&mut self) -> i64 {
        let services = self.told.borrow_and_update().services.clone();
        self.open.retain(|port, _| services.contains_key(port));
        self.warned.retain(|port| services.contains_key(port));
        let mut refused = 0;
        for (port, health) in services {
            if self.open.contains_key(&port) {
                continue;
            }
            match listen((Ipv6Addr::UNSPECIFIED, port).into()).await {
                Ok(listener) => {
                    let (told, pulse) = (self.told.clone(), self.pulse.clone());
                    let serving = serve_service(listener, port, told, pulse, self.served.clone());
                    self.open.insert(port, AbortOnDropHandle::new(tokio::spawn(serving)));
                    self.warned.remove(&port);
                }
                Err(error) => {
                    refused += 1;
                    if self.warned.insert(port) {
                        let (service, error) = (health.service, chain(&error));
                        tracing::error!(%service, error, "load balancers can't check it here; will be tried again");
                    }
                }
            }
        }
        refused
    }
}

async fn serve_service(
    listener: TcpListener,
    port: u16,
    told: Receiver<Health>,
    pulse: Arc<Pulse>,
    served: Arc<[IpNetwork]>,
) {
    let serves = move |ip: IpAddr| served.is_empty() || served.iter().any(|cidr| cidr.contains(ip));
    answer(listener, serves, move |_| match told.borrow().services.get(&port) {
        Some(health) => service_answer(health, pulse.look().0),
        // A connection that was open when the service went.
        None => response(StatusCode::NOT_FOUND, String::new()),
    })
    .await;
}

/// On all addresses of both families, also where IPv6 is switched off.
async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bound = match TcpListener::bind(address).await {
        Err(error)
            if address.ip() == Ipv6Addr::UNSPECIFIED && error.kind() != std::io::ErrorKind::AddrInUse =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    bound.map_err(|source| ListenError { address, source })
}

fn service_answer(health: &ServiceHealth, is_healthy: bool) -> Response<Full<Bytes>> {
    let (namespace, name) = health.service.parts();
    let count = health.local_endpoints;
    let body = json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": count,
        "serviceProxyHealthy": is_healthy,
    });
    let mut response = response(status(count > 0 && is_healthy), body.to_string());
    response.headers_mut().insert(WEIGHT, HeaderValue::from(count));
    response
}

/// `/livez` is for whoever restarts the proxy, `/healthz` for who sends traffic: of a node that is about to
/// go only the latter keeps away (KEP-3836).
fn node_answer(
    path: &str,
    is_healthy: bool,
    is_eligible: bool,
    last: Option<Timestamp>,
    now: Timestamp,
) -> Response<Full<Bytes>> {
    let last = last.unwrap_or(Timestamp::UNIX_EPOCH).to_string();
    let mut body = json!({"lastUpdated": last, "currentTime": now.to_string()});
    match path {
        "/livez" => response(status(is_healthy), body.to_string()),
        "/healthz" => {
            body["nodeEligible"] = json!(is_eligible);
            response(status(is_healthy && is_eligible), body.to_string())
        }
        _ => response(StatusCode::NOT_FOUND, json!({"error": "not found: /healthz, /livez"}).to_string()),
    }
}

fn status(is_well: bool) -> StatusCode {
    if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn response(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use proxy_state::ObjectKey;

    fn text(response: Response<Full<Bytes>>) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = runtime.block_on(response.into_body().collect()).unwrap();
        String::from_utf8(body.to_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_service_is_told_of_as_kube_proxy_does() {
        let health =
            |local_endpoints| ServiceHealth { service: ObjectKey::new("shop", "web"), local_endpoints };
        let said = service_answer(&health(2), true);
        assert_eq!(said.status(), 200);
        assert_eq!(said.headers()["X-Load-Balancing-Endpoint-Weight"], "2");
        assert_eq!(said.headers()["Content-Type"], "application/json");
        assert_eq!(said.headers()["X-Content-Type-Options"], "nosniff");
        let expected =
            r#"{"service":{"namespace":"shop","name":"web"},"localEndpoints":2,"serviceProxyHealthy":true}"#;
        assert_eq!(text(said), expected);
        assert_eq!(service_answer(&health(0), true).status(), 503);
        let sick = service_answer(&health(2), false);
        assert_eq!(
            (sick.status().as_u16(), &sick.headers()["X-Load-Balancing-Endpoint-Weight"] == "2"),
            (503, true)
        );
        assert!(text(sick).ends_with(r#""serviceProxyHealthy":false}"#));
    }

    #[test]
    fn a_node_that_leaves_is_alive_but_not_eligible() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (last, now) = (Some(at("2026-01-01T00:00:00Z")), at("2026-01-01T00:00:05Z"));
        let status =
            |path, healthy, eligible| node_answer(path, healthy, eligible, last, now).status().as_u16();
        assert_eq!([status("/healthz", true, true), status("/livez", true, true)], [200, 200]);
        assert_eq!([status("/healthz", true, false), status("/livez", true, false)], [503, 200]);
        assert_eq!([status("/healthz", false, true), status("/livez", false, true)], [503, 503]);
        assert_eq!(status("/metrics", true, true), 404);
        assert_eq!(
            text(node_answer("/healthz", true, false, last, now)),
            r#"{"lastUpdated":"2026-01-01T00:00:00Z","currentTime":"2026-01-01T00:00:05Z","nodeEligible":false}"#
        );
    }

    #[test]
    fn only_a_sync_that_fails_for_long_makes_the_proxy_unhealthy() {
        let readiness = Arc::new(Readiness::default());
        let pulse = Pulse { readiness: readiness.clone(), beats: Mutex::default() };
        assert!(!pulse.look().0, "not ready yet");
        readiness.set(true, false);
        assert!(pulse.look().0);
        let stuck = |age| pulse.beats.lock().unwrap().stuck_since = Instant::now().checked_sub(age);
        stuck(Duration::ZERO);
        assert!(pulse.look().0);
        stuck(STUCK + Duration::from_secs(1));
        assert!(!pulse.look().0);
    }
}
