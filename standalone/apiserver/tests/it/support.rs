//! A server of a test's own, on a port of its own, and clients that speak to it over real TLS.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use skerry_apiserver::{Config, Paths, Server};
use skerry_store::{LogStore, Options, Retention, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

/// Longer than anything in a test takes; whoever waits longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct TestServer {
    pub address: SocketAddr,
    pub paths: Paths,
    pub store: Arc<LogStore>,
    pub folder: tempfile::TempDir,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), skerry_apiserver::ServerError>>,
}

impl TestServer {
    pub async fn start() -> Self {
        Self::start_with(|_| {}, Options::default()).await
    }

    /// A store that forgets all but the last few changes.
    pub async fn start_forgetful() -> Self {
        let retention = Retention { max_changes: 4, max_bytes: 1 << 20 };
        Self::start_with(|_| {}, Options { retention, ..Options::default() }).await
    }

    pub async fn start_with(adjust: impl FnOnce(&mut Config), options: Options) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), adjust, options).await
    }

    /// With what an earlier one left in its folder.
    pub async fn start_in(
        folder: tempfile::TempDir,
        adjust: impl FnOnce(&mut Config),
        options: Options,
    ) -> Self {
        let store = Arc::new(LogStore::open(&folder.path().join("store"), options).unwrap());
        let loopback = std::net::IpAddr::from([127, 0, 0, 1]);
        let mut config = Config::new(folder.path().to_owned(), (loopback, 0).into(), loopback);
        adjust(&mut config);
        let server = Server::bind(config, store.clone()).await.unwrap();
        let (address, paths, shutdown) = (server.address(), server.paths().clone(), CancellationToken::new());
        let running = tokio::spawn(server.run(shutdown.clone()));
        let server = Self { address, paths, store, folder, shutdown, running };
        let admin = server.admin();
        until("the server is ready", || async { admin.try_get("/readyz").await.is_some() }).await;
        server
    }

    pub async fn stop(self) -> tempfile::TempDir {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.running).await.expect("the server ends").unwrap().unwrap();
        self.folder
    }

    pub fn admin(&self) -> Client {
        self.client_of(&self.paths.admin_kubeconfig)
    }

    pub fn scheduler(&self) -> Client {
        self.client_of(&self.paths.scheduler_kubeconfig)
    }

    pub fn controllers(&self) -> Client {
        self.client_of(&self.paths.controllers_kubeconfig)
    }

    fn client_of(&self, path: &Path) -> Client {
        let text = std::fs::read_to_string(path).unwrap();
        let field = |name: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
            let encoded = line.split_once(": ").unwrap().1.trim();
            String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap()
        };
        let identity = (field("client-certificate-data"), field("client-key-data"));
        Client::new(self.address, &field("certificate-authority-data"), Some(identity))
    }

    pub fn authority_pem(&self) -> String {
        std::fs::read_to_string(self.paths.pki.join("ca.crt")).unwrap()
    }

    pub fn anonymous(&self) -> Client {
        Client::new(self.address, &self.authority_pem(), None)
    }

    pub fn join_secret(&self) -> String {
        let token = std::fs::read_to_string(&self.paths.join_token).unwrap();
        token.trim().rsplit_once('.').unwrap().1.to_owned()
    }

    /// Joins as a node does, and returns its client.
    pub async fn join(&self, node: &str) -> Client {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let body = json!({"nodeName": node, "csr": csr}).to_string();
        let secret = format!("Bearer {}", self.join_secret());
        let headers = [("authorization", secret.as_str()), ("content-type", "application/json")];
        let answer = self.anonymous().send(Method::POST, "/skerry/v1/join", &headers, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        let certificate = answer.body["certificate"].as_str().unwrap().to_owned();
        Client::new(self.address, &self.authority_pem(), Some((certificate, key.serialize_pem())))
    }
}

/// Waits until `check` holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !check().await {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    /// The object, of a request that must have gone well.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{}: {}", self.status, self.text);
        self.body
    }

    /// The message, of a request that must have been refused with `code`.
    #[track_caller]
    pub fn refused(self, code: u16) -> String {
        assert_eq!(self.status.as_u16(), code, "{}", self.text);
        assert_eq!(self.body["kind"], "Status", "{}", self.text);
        assert_eq!(self.body["code"], code, "{}", self.text);
        self.body["message"].as_str().unwrap().to_owned()
    }

    pub fn warnings(&self) -> Vec<String> {
        self.headers.get_all("warning").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }
}

impl Client {
    pub fn new(address: SocketAddr, authority: &str, identity: Option<(String, String)>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let tls = match identity {
            Some((certificate, key)) => {
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        Self { address, tls: Arc::new(tls) }
    }

    pub async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("kubernetes.default.svc").unwrap();
        TlsConnector::from(self.tls.clone()).connect(name, stream).await.unwrap()
    }

    pub async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<Incoming> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().method(method).uri(path).header("host", "kubernetes");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("an answer").unwrap()
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let response = self.open(method, path, headers, body).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = serde_json::from_str(&text).unwrap_or_default();
        Answer { status: parts.status, headers: parts.headers, body, text }
    }

    /// `None`: no server, or no 2xx.
    pub async fn try_get(&self, path: &str) -> Option<Answer> {
        let answer = self.get(path).await;
        answer.status.is_success().then_some(answer)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], "").await
    }

    /// `kind`: `json`, `merge`, `strategic-merge`.
    pub async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let media = format!("application/{kind}-patch+json");
        self.send(Method::PATCH, path, &[("content-type", &media)], body.to_string()).await
    }

    pub async fn watch(&self, path: &str) -> Events {
        self.watch_as(path, "application/json").await
    }

    pub async fn watch_as(&self, path: &str, accept: &str) -> Events {
        let response = self.open(Method::GET, path, &[("accept", accept)], "").await;
        assert_eq!(response.status(), StatusCode::OK);
        Events { body: response.into_body(), buffer: BytesMut::new() }
    }
}

/// A watch's lines.
pub struct Events {
    body: Incoming,
    buffer: BytesMut,
}

impl Events {
    /// The next event; `None`: the watch has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time")?;
            self.buffer.extend_from_slice(frame.unwrap().data_ref().unwrap());
        }
    }

    /// `TYPE name` of the next event.
    pub async fn brief(&mut self) -> String {
        let event = self.next().await.expect("an event");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or("-");
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}

pub fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

pub fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": "nginx"}]}})
}

pub fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": "ClusterIP", "selector": {"app": "web"}, "ports": [{"port": 80}]}})
}

pub fn node_port_service(name: &str) -> Value {
    let mut service = service(name);
    service["spec"]["type"] = "NodePort".into();
    service
}

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const SERVICES: &str = "/api/v1/namespaces/default/services";

/// Binds a pod to a node, as the scheduler does.
pub async fn bind(client: &Client, pod: &str, node: &str) -> Answer {
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
    client.post(&format!("{PODS}/{pod}/binding"), &binding).await
}

pub fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

pub fn revision(store: &dyn Store) -> u64 {
    store.revision()
}

/// Answers an upgrade: what is said until its input ends comes back in capitals.
pub fn echo_in_capitals(request: &mut Request<Incoming>) {
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        let mut input = Vec::new();
        stream.read_to_end(&mut input).await.unwrap();
        stream.write_all(&input.to_ascii_uppercase()).await.unwrap();
        stream.shutdown().await.unwrap();
    });
}
