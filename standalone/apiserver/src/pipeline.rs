//! A request's way: identity → where it goes → may it → bounds → handler → answer.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::{Request, body::Incoming};
use hyper_util::rt::TokioIo;
use skerry_schema::{METRICS_GROUP, find};

use crate::{
    api::{Api, Call, reply},
    authorize::{Decision, authorize, denial, may_read_path, node_name},
    clients::{Client, Place, Places},
    conditions,
    config::{Limits, Readiness},
    containers::{self, Passed, Upgrade},
    create, delete, discovery,
    error::{ApiError, Subject},
    eviction,
    inbound::Inbound,
    join,
    large::Large,
    list, media,
    metrics::{self, Metrics, Route},
    pki, proxy,
    request::{self, Query, ResourceRequest, Target, Verb},
    respond::{self, Reply},
    reviews, subresources, update, usage, verbs, watch,
};

/// Requests to join that are looked at in one moment.
const MAX_JOINS: usize = 16;

/// Shared by all connections.
pub struct Pipeline {
    pub api: Arc<Api>,
    limits: Limits,
    in_flight: Arc<Places>,
    long_running: Arc<Places>,
    joins: Arc<Places>,
    large: Large,
    readiness: Readiness,
    metrics: Metrics,
}

impl Pipeline {
    pub fn new(api: Arc<Api>, limits: Limits, readiness: Readiness) -> Self {
        let in_flight = Places::new(limits.in_flight);
        let long_running = Places::new(limits.long_running);
        let (joins, large) = (Places::new(MAX_JOINS), Large::default());
        let metrics = Metrics::new(readiness.clone());
        Self { api, limits, in_flight, long_running, joins, large, readiness, metrics }
    }

    /// Answers a request, whatever happens in its handler.
    pub async fn serve(&self, identity: Option<&pki::Subject>, request: Request<Incoming>) -> Reply {
        let begun = Instant::now();
        let (head, incoming) = request.into_parts();
        let mut body = Inbound::new(head.version, &head.headers, incoming);
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let query = Query::parse(head.uri.query().unwrap_or_default());
        let target = request::parse(&method, &path, &query);
        let route = Route::of(&method, target.as_ref());
        let is_long = matches!(&target, Some(Target::Resource(target)) if is_long_running(target));
        let way = self.route(identity, target, query, Request::from_parts(head, ()), &mut body);
        let outcome = AssertUnwindSafe(way).catch_unwind().await;
        let mut reply = match outcome {
            Ok(Ok(reply)) if is_long => hold(reply, self.metrics.begin_long_running(route)),
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => {
                tracing::debug!(%method, path, code = error.code(), %error, "refused");
                respond::error(&error)
            }
            Err(_) => {
                tracing::error!(%method, path, "a handler panicked");
                respond::error(&ApiError::internal(
                    "the request's handler failed; the server's log says where",
                ))
            }
        };
        self.metrics.answered(route, reply.status().as_u16(), (!is_long).then(|| begun.elapsed()));
        if reply.status() != StatusCode::SWITCHING_PROTOCOLS && body.is_left_unread().await {
            reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        reply
    }

    async fn route(
        &self,
        identity: Option<&pki::Subject>,
        target: Option<Target>,
        query: Query,
        request: Request<()>,
        body: &mut Inbound,
    ) -> Result<Reply, ApiError> {
        refuse_impersonation(identity, request.headers())?;
        match target {
            Some(Target::Path(segments)) => {
                let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
                let handler = self.path(identity, &segments, &query, request, body);
                self.in_time(handler).await
            }
            Some(Target::Resource(target)) => {
                let identity = identity.ok_or_else(ApiError::unauthorized)?;
                if is_long_running(&target) {
                    let permit = acquire(&self.long_running, &request)?;
                    let reply = self.resource(identity, target, query, request, body).await?;
                    Ok(hold(reply, permit))
                } else {
                    let _permit = acquire(&self.in_flight, &request)?;
                    self.in_time(self.resource(identity, target, query, request, body)).await
                }
            }
            Some(Target::UnknownMethod) => {
                identity.ok_or_else(ApiError::unauthorized)?;
                Err(ApiError::method_not_allowed())
            }
            None => {
                identity.ok_or_else(ApiError::unauthorized)?;
                Err(ApiError::no_such_path())
            }
        }
    }

    async fn in_time(
        &self,
        handler: impl Future<Output = Result<Reply, ApiError>>,
    ) -> Result<Reply, ApiError> {
        let late = || ApiError::timeout("the request did not finish in time");
        tokio::time::timeout(self.limits.request_timeout, handler).await.map_err(|_| late())?
    }

    /// What is no resource.
    async fn path(
        &self,
        identity: Option<&pki::Subject>,
        segments: &[&str],
        query: &Query,
        request: Request<()>,
        body: &mut Inbound,
    ) -> Result<Reply, ApiError> {
        let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
        // Open to everyone.
        match segments {
            [check @ ("healthz" | "livez" | "readyz"), ..] if is_get => {
                return Ok(self.health(check, query, identity.is_none()));
            }
            ["version"] if is_get => return Ok(respond::value(StatusCode::OK, &discovery::version())),
            ["skerry", "v1", "ca"] if is_get => return Ok(join::authority(&self.api)),
            ["skerry", "v1", "join"] if request.method() == Method::POST => {
                let headers = request.headers().clone();
                // Whoever may not join holds no place, however slowly it sends.
                join::check(&self.api, identity, &headers)?;
                let _permit = acquire(&self.joins, &request)?;
                let body = body.read(join::MAX_BODY).await?;
                return join::join(&self.api, identity, &headers, &body);
            }
            _ => {}
        }
        let identity = identity.ok_or_else(ApiError::unauthorized)?;
        match segments {
            ["skerry", "v1", "nodes", node, "tunnel"] => self.tunnel(identity, node, request),
            _ if !is_get => Err(ApiError::method_not_allowed()),
            [] => Ok(root()),
            ["metrics"] => {
                if !may_read_path(identity, "metrics") {
                    let why = format!("User {:?} cannot get path \"/metrics\"", identity.common_name);
                    return Err(ApiError::new(403, "Forbidden", format!("forbidden: {why}")));
                }
                let text = self.metrics.text(&*self.api.store).await?;
                Ok(respond::typed(StatusCode::OK, metrics::MEDIA_TYPE, respond::full(text)))
            }
            ["api" | "apis", ..] => {
                let settings = &self.api.settings;
                let server = std::net::SocketAddr::new(settings.advertise, settings.port).to_string();
                discovery::answer(segments, request.headers(), &server)?.ok_or_else(ApiError::no_such_path)
            }
            ["openapi", "v2"] => discovery::openapi_v2(request.headers()),
            ["openapi", "v3", rest @ ..] => {
                discovery::openapi(rest, request.headers())?.ok_or_else(ApiError::no_such_path)
            }
            _ => Err(ApiError::no_such_path()),
        }
    }

    /// A store that takes no more writes makes the server unready and unhealthy: a restart is what helps.
    fn health(&self, check: &str, query: &Query, to_stranger: bool) -> Reply {
        let store_failed = self.api.store_failed.load(Ordering::Relaxed);
        let (parts, part_failed, noted) = match check {
            "readyz" => self.readiness.lines(to_stranger),
            _ => Default::default(),
        };
        let failed = store_failed || part_failed;
        let store = if store_failed {
            "[-]store failed: it takes no more writes, see the log and restart"
        } else {
            "[+]store ok"
        };
        let verdict = if failed { "failed" } else { "passed" };
        let text = if failed || noted || query.flag("verbose") {
            format!("[+]ping ok\n{store}\n{parts}{check} check {verdict}\n")
        } else {
            "ok".to_owned()
        };
        let code = if failed { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        respond::typed(code, "text/plain; charset=utf-8", respond::full(text))
    }

    fn tunnel(
        &self,
        identity: &pki::Subject,
        node: &str,
        mut request: Request<()>,
    ) -> Result<Reply, ApiError> {
        if node_name(identity) != Some(node) {
            let subject = Subject { group: "", resource: "nodes/tunnel", name: node };
            return Err(ApiError::forbidden(
                subject,
                &format!("User {:?} is not this node", identity.common_name),
            ));
        }
        let asked = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
        if asked != Some("skerry-tunnel/1") || request.version() != Version::HTTP_11 {
            return Err(ApiError::bad_request(
                "this address speaks `Upgrade: skerry-tunnel/1` over HTTP/1.1 only",
            ));
        }
        let permit = acquire(&self.long_running, &request)?;
        let upgrade = hyper::upgrade::on(&mut request);
        let (api, node) = (self.api.clone(), node.to_owned());
        tokio::spawn(async move {
            match upgrade.await {
                Ok(connection) => {
                    api.tunnels.serve(&node, TokioIo::new(connection), api.shutdown.clone()).await
                }
                Err(error) => tracing::debug!(node, %error, "a tunnel was not carried out"),
            }
            drop(permit);
        });
        let mut reply = Reply::new(respond::empty());
        *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = reply.headers_mut();
        headers.insert(header::UPGRADE, http::HeaderValue::from_static("skerry-tunnel/1"));
        headers.insert(header::CONNECTION, http::HeaderValue::from_static("Upgrade"));
        Ok(reply)
    }

    async fn resource(
        &self,
        identity: &pki::Subject,
        target: ResourceRequest,
        query: Query,
        mut request: Request<()>,
        body: &mut Inbound,
    ) -> Result<Reply, ApiError> {
        let decision = authorize(identity, &target, &query);
        let forbidden = || {
            let subject = Subject { group: &target.group, resource: &target.resource, name: &target.name };
            Err(ApiError::forbidden(subject, &denial(identity, &target)))
        };
        if decision == Decision::Deny {
            return forbidden();
        }
        let kind =
            find(&target.group, &target.version, &target.resource).ok_or_else(ApiError::no_such_path)?;
        verbs::check(kind, &target)?;
        let (method, client) = (request.method().clone(), client(&request));
        let upgrade = if request.headers().contains_key(header::UPGRADE) && is_streamed(&target) {
            // It outlives the answer, and with it the place that the request has.
            let place = acquire(&self.long_running, &request)?;
            Some(Upgrade { client: hyper::upgrade::on(&mut request), place })
        } else {
            None
        };
        let headers = request.headers().clone();
        let handed_on =
            (target.subresource == "proxy" && upgrade.is_none()).then(|| body.hand_on()).flatten();
        let passed = Passed { method: method.clone(), uri: request.uri().clone(), upgrade, body: handed_on };
        let body = if passed.upgrade.is_some() || method == Method::GET {
            Bytes::new()
        } else {
            body.read(self.limits.body_bytes).await?
        };
        let shape = if is_streamed(&target) { media::Shape::Object } else { media::accept(&headers)? };
        // A namespace is named by its own path segment.
        let target = ResourceRequest {
            namespace: if kind.namespaced { target.namespace.clone() } else { String::new() },
            ..target.clone()
        };
        let call =
            Call { request: target.clone(), kind, query, headers, shape, subject: identity.clone(), body };
        let (api, length, kind) = (self.api.clone(), call.body.len(), call.kind.kind);
        let work = async move {
            if let Decision::When(condition) = decision
                && !conditions::holds(&api, &call, &condition).await?
            {
                return Err(ApiError::forbidden(call.about(), &denial(&call.subject, &call.request)));
            }
            dispatch(&api, &call, passed).await
        };
        let mut reply = self.large.run(&client, length, work).await?;
        if let Some(warning) = deprecation(kind) {
            respond::warn(&mut reply, &[warning.to_owned()]);
        }
        Ok(reply)
    }
}

/// What upstream warns of at every use.
fn deprecation(kind: &str) -> Option<&'static str> {
    match kind {
        "ComponentStatus" => Some("v1 ComponentStatus is deprecated in v1.19+"),
        "Endpoints" => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        _ => None,
    }
}

async fn dispatch(api: &Arc<Api>, call: &Call, passed: Passed) -> Result<Reply, ApiError> {
    match (call.request.subresource.as_str(), call.request.verb) {
        ("", _) if call.kind.group == METRICS_GROUP => usage::answer(api, call).await,
        ("", verb) => {
            if let Some(answer) = reviews::answer(api, call).await {
                return answer;
            }
            match verb {
                Verb::Get => get(api, call).await,
                Verb::List => list::list(api, call).await,
                Verb::Watch => watch::watch(api, call).await,
                Verb::Create => create::create(api, call).await,
                Verb::Update => update::update(api, call).await,
                Verb::Patch => update::patch(api, call).await,
                Verb::Delete => delete::delete(api, call).await,
                Verb::DeleteCollection => delete::delete_collection(api, call).await,
            }
        }
        ("log" | "exec" | "attach" | "portforward", _) => containers::connect(api, call, passed).await,
        ("proxy", _) => proxy::connect(api, call, passed).await,
        ("scale", _) => subresources::scale(api, call).await,
        ("binding", _) => subresources::bind(api, call).await,
        ("eviction", _) => eviction::evict(api, call).await,
        (_, Verb::Get) => get(api, call).await,
        (_, Verb::Update) => update::update(api, call).await,
        (_, Verb::Patch) => update::patch(api, call).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

async fn get(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    if let Some(asked) = list::number(&call.query, "resourceVersion")? {
        let current = api.store.revision();
        if asked > current {
            return Err(ApiError::version_too_large(asked, current));
        }
    }
    let entry = api.entry(call).await?;
    reply(call, StatusCode::OK, &entry.value, entry.mod_revision)
}

fn is_streamed(target: &ResourceRequest) -> bool {
    matches!(target.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}

fn is_long_running(target: &ResourceRequest) -> bool {
    target.verb == Verb::Watch || is_streamed(target)
}

fn acquire<B>(places: &Arc<Places>, request: &Request<B>) -> Result<Place, ApiError> {
    places.take(&client(request))
}

/// Whoever sent the request, as the connection has noted it.
fn client<B>(request: &Request<B>) -> Client {
    let noted = request.extensions().get::<Client>().cloned();
    noted.unwrap_or(Client::Stranger(std::net::Ipv4Addr::UNSPECIFIED.into()))
}

/// Keeps the guard until the body has been sent or dropped.
fn hold(reply: Reply, guard: impl Send + 'static) -> Reply {
    reply.map(|body| {
        body.map_frame(move |frame| {
            let _held = &guard;
            frame
        })
        .boxed_unsync()
    })
}

/// `Impersonate-User` and its like ask for an answer as somebody else would get it. Not to know them is no
/// reason to answer as if they were not there: what `kubectl --as` prints would be the caller's own rights.
fn refuse_impersonation(identity: Option<&pki::Subject>, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(name) =
        headers.keys().map(http::HeaderName::as_str).find(|name| name.starts_with("impersonate-"))
    else {
        return Ok(());
    };
    let user = identity.map_or("system:anonymous", |subject| subject.common_name.as_str());
    let why = format!(
        "User {user:?} cannot impersonate: this server does not support impersonation (header {name}, kubectl --as) yet"
    );
    Err(ApiError::new(403, "Forbidden", format!("forbidden: {why}")))
}

fn root() -> Reply {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for group in skerry_schema::groups().iter().filter(|group| !group.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{version}", group.name)));
    }
    paths.extend(
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
            .map(str::to_owned),
    );
    respond::value(StatusCode::OK, &serde_json::json!({"paths": paths}))
}
