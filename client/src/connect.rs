//! From a kubeconfig, a service account or files to a client.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::Engine as _;
use http::Uri;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::{
    Config,
    client::{Body, ConfigExt as _, retry::RetryPolicy},
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tokio::time::timeout;
use tower::{BoxError, ServiceBuilder, retry::RetryLayer};

use crate::{
    dial::{DialError, Dialler, Server, Stream},
    identity::{FileIdentity, IdentityError},
};

/// An HTTP/2 connection that is silent so long is asked whether it is still there.
const PING: Duration = Duration::from_secs(20);
/// For a name's addresses.
const NAME_LIMIT: Duration = Duration::from_secs(5);

/// Where the address of the API server and our credentials come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A kubeconfig file, by its current context.
    Kubeconfig(PathBuf),
    /// The credentials of a kubeconfig, at these URLs of one cluster's API servers in place of its own.
    At { kubeconfig: PathBuf, servers: Vec<String> },
    /// The service account of the pod that we run in.
    InCluster,
    /// Files in PEM, renewed there by somebody.
    Files {
        /// URLs of one cluster's API servers: `https://ADDRESS:6443`. The next is tried while one does not
        /// answer.
        servers: Vec<String>,
        authority: PathBuf,
        certificate: PathBuf,
        key: PathBuf,
    },
}

impl Source {
    /// The kubeconfig at this path, else the pod's service account.
    pub fn of(kubeconfig: Option<&Path>) -> Source {
        kubeconfig.map_or(Source::InCluster, |path| Source::Kubeconfig(path.to_owned()))
    }
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("read kubeconfig {}: check that the file exists and is a kubeconfig", path.display())]
    Kubeconfig { path: PathBuf, source: Box<KubeconfigError> },
    #[error("use the pod's service account: not in a cluster? name a kubeconfig")]
    InCluster(#[source] Box<kube::config::InClusterError>),
    #[error("server {0:?}: write it as https://ADDRESS:6443")]
    Server(String),
    #[error(
        "a proxy ({0}) between us and the API server is not supported: take proxy-url away, or HTTPS_PROXY"
    )]
    Proxy(Uri),
    #[error("read the certificate authority {}", path.display())]
    Authority { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("{} holds no certificate", .0.display())]
    NoAuthority(PathBuf),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("make a client for {server}: check its certificates and credentials")]
    Client { server: Uri, source: Box<kube::Error> },
}

/// The API server as we reach it. No connection is made before something is asked.
#[derive(Clone)]
pub struct Connection {
    pub client: kube::Client,
    /// The first of its URLs.
    pub server: Uri,
    dialler: Dialler,
}

impl Connection {
    /// A connection of its own that speaks HTTP/1.1, which upgrades need.
    ///
    /// # Errors
    /// When none of the server's addresses answers.
    pub async fn dial(&self) -> Result<Stream, DialError> {
        self.dialler.speaking(&[b"http/1.1"]).dial().await
    }

    /// The server's addresses, as far as they can be found out: its name may not be known before the network
    /// is there.
    pub async fn addresses(&self) -> Vec<IpAddr> {
        let Some(host) = self.server.host() else { return Vec::new() };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = host.parse() {
            return vec![ip];
        }
        match timeout(NAME_LIMIT, tokio::net::lookup_host((host, 0))).await {
            Ok(Ok(found)) => found.map(|address| address.ip().to_canonical()).collect(),
            _ => Vec::new(),
        }
    }
}

/// A client for the API server. No connection is made yet.
///
/// # Errors
/// When a file is missing or malformed, or names something that can't be used.
pub async fn connect(source: &Source) -> Result<Connection, ConnectError> {
    let (config, servers) = match source {
        Source::Kubeconfig(path) => one(kubeconfig(path).await?),
        Source::InCluster => {
            one(Config::incluster().map_err(|source| ConnectError::InCluster(Box::new(source)))?)
        }
        Source::At { kubeconfig: path, servers } => {
            let servers = urls(servers)?;
            let mut config = kubeconfig(path).await?;
            config.cluster_url = servers[0].clone();
            (config, servers)
        }
        Source::Files { servers, authority, certificate, key } => {
            let servers = urls(servers)?;
            let mut config = Config::new(servers[0].clone());
            config.root_cert = Some(authorities(authority)?);
            config.root_cert_file = Some(authority.clone());
            config.auth_info.client_certificate = Some(certificate.to_string_lossy().into_owned());
            config.auth_info.client_key = Some(key.to_string_lossy().into_owned());
            (config, servers)
        }
    };
    build(config, servers)
}

/// The certificate authority, in PEM, that the kubeconfig at `path` trusts; `None` when it names none.
///
/// # Errors
/// When the kubeconfig, or the file it names, cannot be read.
pub async fn certificate_authority(path: &Path) -> Result<Option<String>, ConnectError> {
    let certificates = kubeconfig(path).await?.root_cert.unwrap_or_default();
    let pem: String = certificates.iter().map(|der| to_pem(der)).collect();
    Ok((!pem.is_empty()).then_some(pem))
}

async fn kubeconfig(path: &Path) -> Result<Config, ConnectError> {
    let failed = |source| ConnectError::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
    let file = Kubeconfig::read_from(path).map_err(failed)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)
}

fn one(config: Config) -> (Config, Vec<Uri>) {
    let server = config.cluster_url.clone();
    (config, vec![server])
}

/// One at least.
fn urls(texts: &[String]) -> Result<Vec<Uri>, ConnectError> {
    if texts.is_empty() {
        return Err(ConnectError::Server(String::new()));
    }
    texts.iter().map(|text| url(text)).collect()
}

fn url(text: &str) -> Result<Uri, ConnectError> {
    let bad = || ConnectError::Server(text.to_owned());
    let uri: Uri = text.parse().map_err(|_| bad())?;
    if uri.scheme_str() == Some("https") && uri.host().is_some() { Ok(uri) } else { Err(bad()) }
}

fn authorities(path: &Path) -> Result<Vec<Vec<u8>>, ConnectError> {
    let failed = |source| ConnectError::Authority { path: path.to_owned(), source };
    let all = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let all: Vec<Vec<u8>> =
        all.map(|one| Ok(one.map_err(failed)?.to_vec())).collect::<Result<_, ConnectError>>()?;
    if all.is_empty() { Err(ConnectError::NoAuthority(path.to_owned())) } else { Ok(all) }
}

fn build(config: Config, urls: Vec<Uri>) -> Result<Connection, ConnectError> {
    if let Some(proxy) = &config.proxy_url {
        return Err(ConnectError::Proxy(proxy.clone()));
    }
    let server = config.cluster_url.clone();
    let failed = |source| ConnectError::Client { server: server.clone(), source: Box::new(source) };
    let name = config.tls_server_name.as_deref();
    let servers =
        urls.iter().map(|url| Server::of(url, name).ok_or_else(|| ConnectError::Server(url.to_string())));
    let servers = servers.collect::<Result<Vec<_>, _>>()?;
    let dialler = Dialler::new(servers, tls(&config).map_err(|error| error.of(&server))?);
    // One connection carries all watches and writes, where the server can.
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .http2_adaptive_window(true)
        .build::<_, Body>(dialler.speaking(&[b"h2", b"http/1.1"]));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        // 429, 503 and 504 are tried again as the server says.
        .layer(RetryLayer::new(RetryPolicy::server_retry()))
        .option_layer(config.auth_layer().map_err(failed)?)
        .layer(config.extra_headers_layer().map_err(failed)?)
        .map_err(BoxError::from)
        .service(http);
    let client = kube::Client::new(service, config.default_namespace.clone());
    Ok(Connection { client, server, dialler })
}

enum TlsFailure {
    Identity(IdentityError),
    Kube(Box<kube::Error>),
}

impl TlsFailure {
    fn of(self, server: &Uri) -> ConnectError {
        match self {
            TlsFailure::Identity(error) => ConnectError::Identity(error),
            TlsFailure::Kube(source) => ConnectError::Client { server: server.clone(), source },
        }
    }
}

/// Trusts what the configuration says; shows the certificate that stands in its files at each handshake.
fn tls(config: &Config) -> Result<ClientConfig, TlsFailure> {
    let auth = &config.auth_info;
    let files = auth.client_certificate.as_ref().zip(auth.client_key.as_ref());
    let is_inline = auth.client_certificate_data.is_some() || auth.client_key_data.is_some();
    let mut tls = config.rustls_client_config().map_err(|error| TlsFailure::Kube(Box::new(error)))?;
    if let Some((certificate, key)) = files.filter(|_| !is_inline) {
        let identity = FileIdentity::new(certificate.as_ref(), key.as_ref()).map_err(TlsFailure::Identity)?;
        tls.client_auth_cert_resolver = Arc::new(identity);
    }
    Ok(tls)
}

/// RFC 7468.
fn to_pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let body: String = lines.flat_map(|line| [line, "\n".into()]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n")
}
