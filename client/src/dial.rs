//! Connections to the API server: TLS or plain, by whichever of its addresses answers.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Of all tries together to get a connection: the kernel's own pauses between two tries grow to a minute.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// Of one address, where there are several.
const ADDRESS_LIMIT: Duration = Duration::from_secs(3);
/// An idle connection is probed after so many seconds …
const KEEP_IDLE_S: u32 = 15;
/// … and again after so many.
const KEEP_INTERVAL_S: u32 = 5;
/// Bytes that nobody acknowledges for so long end a connection.
const UNANSWERED_MS: u32 = 30_000;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("no answer within {} s", DIAL_LIMIT.as_secs())]
    Silent,
    #[error("no answer from {0} within {seconds} s", seconds = ADDRESS_LIMIT.as_secs())]
    AddressSilent(SocketAddr),
    #[error("find the address of {host}")]
    Name { host: String, source: io::Error },
    #[error("{host} has no address")]
    NoAddress { host: String },
    #[error("dial {address}")]
    Connect { address: SocketAddr, source: io::Error },
}

/// One place where the API server is.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    host: String,
    port: u16,
    /// What its certificate must be for; `None`: without TLS.
    name: Option<ServerName<'static>>,
}

impl Server {
    /// `None` for what is no `http://HOST…` or `https://HOST…`. `server_name` stands in for the host in the
    /// certificate.
    pub fn of(uri: &Uri, server_name: Option<&str>) -> Option<Server> {
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return None,
        };
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let name = server_name.unwrap_or(&host).to_owned();
        let name = if is_tls { Some(ServerName::try_from(name).ok()?) } else { None };
        Some(Server { host, port, name })
    }

    /// All addresses of the host.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, DialError> {
        let host = || self.host.clone();
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let found: Vec<_> = found.map_err(|source| DialError::Name { host: host(), source })?.collect();
        if found.is_empty() { Err(DialError::NoAddress { host: host() }) } else { Ok(found) }
    }
}

/// Dials the API server. Whichever of its places answered last is tried first.
#[derive(Clone, Debug)]
pub(crate) struct Dialler {
    servers: Arc<[Server]>,
    tls: Arc<ClientConfig>,
    answered: Arc<AtomicUsize>,
}

impl Dialler {
    pub fn new(servers: Vec<Server>, tls: ClientConfig) -> Dialler {
        Dialler { servers: servers.into(), tls: Arc::new(tls), answered: Arc::default() }
    }

    /// A connection that speaks one of these protocols: `h2`, `http/1.1`.
    pub fn speaking(&self, protocols: &[&[u8]]) -> Dialler {
        let mut tls = ClientConfig::clone(&self.tls);
        tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Dialler { servers: self.servers.clone(), tls: Arc::new(tls), answered: self.answered.clone() }
    }

    pub async fn dial(&self) -> Result<Stream, DialError> {
        timeout(DIAL_LIMIT, self.dial_any()).await.unwrap_or(Err(DialError::Silent))
    }

    /// What the last one said, where all fail.
    async fn dial_any(&self) -> Result<Stream, DialError> {
        let (count, first) = (self.servers.len(), self.answered.load(Ordering::Relaxed));
        let mut failure = DialError::Silent;
        for index in (0..count).map(|n| (first + n) % count) {
            let server = &self.servers[index];
            let addresses = match server.addresses().await {
                Ok(addresses) => addresses,
                Err(error) => {
                    failure = error;
                    continue;
                }
            };
            let is_only = count * addresses.len() == 1;
            for address in addresses {
                let limit = if is_only { DIAL_LIMIT } else { ADDRESS_LIMIT };
                match timeout(limit, self.dial_address(server, address)).await {
                    Ok(Ok(stream)) => {
                        self.answered.store(index, Ordering::Relaxed);
                        return Ok(stream);
                    }
                    Ok(Err(source)) => failure = DialError::Connect { address, source },
                    Err(_) => failure = DialError::AddressSilent(address),
                }
            }
        }
        Err(failure)
    }

    async fn dial_address(&self, server: &Server, address: SocketAddr) -> io::Result<Stream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        notice_silence(&stream)?;
        match &server.name {
            Some(name) => {
                let connector = TlsConnector::from(self.tls.clone());
                Ok(Stream::Tls(Box::new(connector.connect(name.clone(), stream).await?)))
            }
            None => Ok(Stream::Plain(stream)),
        }
    }
}

/// A server that vanished without a word is noticed: an idle connection is probed, unanswered bytes end it.
fn notice_silence(stream: &TcpStream) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEP_IDLE_S)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEP_INTERVAL_S)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &UNANSWERED_MS)?;
    Ok(())
}

/// Where hyper asks for a connection. The URL that it asks for is the first server's, whichever answers.
impl tower::Service<Uri> for Dialler {
    type Response = TokioIo<Stream>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dialler = self.clone();
        Box::pin(async move { Ok(TokioIo::new(dialler.dial().await?)) })
    }
}

/// A connection to the API server.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Stream::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            _ => Connected::new(),
        }
    }
}

/// The same call on whichever it is.
macro_rules! either {
    ($stream:expr, $call:ident($($argument:expr),*)) => {
        match $stream.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).$call($($argument),*),
            Stream::Tls(stream) => Pin::new(stream).$call($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;

    fn server(address: SocketAddr) -> Server {
        Server::of(&format!("http://{address}").parse().unwrap(), None).unwrap()
    }

    fn no_tls() -> ClientConfig {
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth()
    }

    /// A listener that says who it is to whoever comes.
    async fn place(name: u8) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.writable().await.unwrap();
                stream.try_write(&[name]).unwrap();
            }
        });
        (address, task)
    }

    async fn who_answers(dialler: &Dialler) -> u8 {
        dialler.dial().await.unwrap().read_u8().await.unwrap()
    }

    #[tokio::test]
    async fn another_place_is_dialled_while_one_is_gone_and_kept_to() {
        let (first, task) = place(1).await;
        let (second, _other) = place(2).await;
        let dialler = Dialler::new(vec![server(first), server(second)], no_tls());
        assert_eq!(who_answers(&dialler).await, 1);
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(who_answers(&dialler).await, 2);
        assert_eq!(dialler.answered.load(Ordering::Relaxed), 1, "it is asked first from now on");
    }

    #[tokio::test]
    async fn who_fails_last_is_named() {
        let (gone, task) = place(1).await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        let error = Dialler::new(vec![server(gone)], no_tls()).dial().await.unwrap_err();
        assert!(error.to_string().contains(&gone.to_string()), "{error}");
    }

    #[test]
    fn servers_are_read_from_urls() {
        let of = |text: &str| Server::of(&text.parse().unwrap(), None);
        let six = of("https://[fd00::1]:6443").unwrap();
        assert_eq!((six.host.as_str(), six.port, six.name.is_some()), ("fd00::1", 6443, true));
        assert_eq!(of("https://api.example").unwrap().port, 443);
        assert!(of("http://127.0.0.1:8080/base").unwrap().name.is_none());
        assert!(of("ftp://x").is_none() && of("/path").is_none());
        let named = Server::of(&"https://10.0.0.1".parse().unwrap(), Some("kubernetes")).unwrap();
        assert_eq!(named.name, Some(ServerName::try_from("kubernetes").unwrap()));
    }
}
