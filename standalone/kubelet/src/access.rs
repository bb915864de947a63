//! The API server as this node reaches it: a `kube::Client`, and what the tunnel needs to dial it.

use std::{io::ErrorKind, pin::Pin, sync::Arc, task::Poll, time::Duration};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use kube::{
    client::ConfigExt as _,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::{
    config::ServerAccess,
    join::{self, JoinError},
    tls::{self, NodeCertificate, TlsError},
};

const KEEP_IDLE_S: u32 = 15;
const KEEP_INTERVAL_S: u32 = 5;
const UNANSWERED_MS: u32 = 30_000;
/// Of one try to reach the server: the kernel's own pauses between two tries grow to a minute.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("server {0:?}: write it as https://ADDRESS:6443")]
    Server(String),
    #[error("kubeconfig {path}")]
    Kubeconfig { path: String, source: Box<KubeconfigError> },
    #[error("client for kubeconfig {path}")]
    Client { path: String, source: Box<kube::Error> },
}

/// How to reach the server.
pub struct Access {
    pub client: kube::Client,
    pub server: Uri,
    /// For HTTP/1.1 connections that are dialled by hand.
    pub tls: Arc<ClientConfig>,
    /// Replaced when it is renewed; `None` for a kubeconfig, whose owner sees to that.
    pub certificate: Option<Arc<NodeCertificate>>,
}

impl Access {
    pub async fn new(access: &ServerAccess) -> Result<Access, AccessError> {
        match access {
            ServerAccess::Joined { server, dir } => Access::joined(server, dir),
            ServerAccess::Kubeconfig { path } => {
                let shown = path.display().to_string();
                let failed =
                    |source| AccessError::Kubeconfig { path: shown.clone(), source: Box::new(source) };
                let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
                let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                    .await
                    .map_err(failed)?;
                let client_error =
                    |source| AccessError::Client { path: shown.clone(), source: Box::new(source) };
                let tls = config.rustls_client_config().map_err(client_error)?;
                let server = config.cluster_url.clone();
                let client = kube::Client::try_from(config).map_err(client_error)?;
                Ok(Access { client, server, tls: Arc::new(tls), certificate: None })
            }
        }
    }

    fn joined(server: &str, dir: &std::path::Path) -> Result<Access, AccessError> {
        let credentials = join::read(dir)?;
        let uri: Uri = server.parse().map_err(|_| AccessError::Server(server.to_owned()))?;
        if uri.scheme_str() != Some("https") || uri.host().is_none() {
            return Err(AccessError::Server(server.to_owned()));
        }
        let certificate = Arc::new(NodeCertificate::new(&credentials.certificate, &credentials.key)?);
        let authorities = tls::authorities(&credentials.authority)?;
        let tls = tls::config(&authorities, Some(certificate.clone()))?;
        // One HTTP/2 connection carries all watches and patches; the tunnel's upgrade needs HTTP/1.1.
        let mut multiplexed = tls.clone();
        multiplexed.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let dialler = Dialler { tls: Arc::new(multiplexed) };
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(20))
            .http2_adaptive_window(true)
            .build(dialler);
        let config = kube::Config::new(uri.clone());
        let service = tower::ServiceBuilder::new().layer(config.base_uri_layer()).service(http);
        let client = kube::Client::new(service, "default");
        Ok(Access { client, server: uri, tls: Arc::new(tls), certificate: Some(certificate) })
    }
}

/// Dials TLS with the shared configuration, so that a renewed certificate is used from the next connection on.
#[derive(Clone)]
struct Dialler {
    tls: Arc<ClientConfig>,
}

impl tower::Service<Uri> for Dialler {
    type Response = TokioIo<Dialled>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.tls.clone();
        Box::pin(async move { Ok(TokioIo::new(Dialled(dial(&uri, tls).await?))) })
    }
}

/// A TLS connection to the server that a URL names.
pub async fn dial(uri: &Uri, tls: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(443);
    let dialled = async {
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        stream.set_nodelay(true)?;
        notice_silence(&stream)?;
        tls::connect(tls, host, stream).await
    };
    let limit = DIAL_LIMIT.as_secs();
    tokio::time::timeout(DIAL_LIMIT, dialled).await.unwrap_or_else(|_| {
        Err(std::io::Error::new(ErrorKind::TimedOut, format!("{uri}: no answer within {limit} s")))
    })
}

/// A server that vanished without a word is noticed: an idle connection is probed, unanswered bytes end it.
fn notice_silence(stream: &TcpStream) -> std::io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEP_IDLE_S)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEP_INTERVAL_S)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &UNANSWERED_MS)?;
    Ok(())
}

struct Dialled(TlsStream<TcpStream>);

impl Connection for Dialled {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        let (_, session) = self.0.get_ref();
        if session.alpn_protocol() == Some(b"h2") { connected.negotiated_h2() } else { connected }
    }
}

impl AsyncRead for Dialled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
