//! TLS as a client, for what is not asked through the API: joining, and HTTPS probes.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, SignatureScheme, client::ResolvesClientCert, crypto::CryptoProvider,
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("certificate authority: not a PEM certificate")]
    Authority { source: rustls_pki_types::pem::Error },
    #[error("certificate authority: the file holds no certificate")]
    NoAuthority,
    #[error("client certificate: not PEM")]
    Certificate { source: rustls_pki_types::pem::Error },
    #[error("client key: not PEM")]
    Key { source: rustls_pki_types::pem::Error },
    #[error("client certificate and key: not usable for TLS")]
    Pair { source: rustls::Error },
    #[error("TLS configuration")]
    Config { source: rustls::Error },
}

/// The node's certificate, as TLS asks for it at a handshake.
#[derive(Debug)]
pub struct NodeCertificate(Arc<CertifiedKey>);

impl NodeCertificate {
    pub fn new(certificate_pem: &str, key_pem: &str) -> Result<NodeCertificate, TlsError> {
        Ok(NodeCertificate(certified(certificate_pem, key_pem)?))
    }
}

impl ResolvesClientCert for NodeCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified(certificate_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain: Vec<CertificateDer> = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Certificate { source })?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|source| TlsError::Key { source })?;
    let key =
        rustls::crypto::ring::sign::any_supported_type(&key).map_err(|source| TlsError::Pair { source })?;
    let pair = CertifiedKey::new(chain, key);
    pair.keys_match().map_err(|source| TlsError::Pair { source })?;
    Ok(Arc::new(pair))
}

pub fn authorities(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Vec<CertificateDer> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Authority { source })?;
    if all.is_empty() { Err(TlsError::NoAuthority) } else { Ok(all) }
}

/// Trusts these authorities only; shows the certificate, if one is given.
pub fn config(
    authorities: &[CertificateDer<'static>],
    certificate: Option<Arc<NodeCertificate>>,
) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|source| TlsError::Config { source })?;
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Config { source })?
        .with_root_certificates(roots);
    Ok(match certificate {
        Some(certificate) => builder.with_client_cert_resolver(certificate),
        None => builder.with_no_client_auth(),
    })
}

/// Any certificate will do: for the authority's own certificate, which is checked by its hash, and for HTTPS
/// probes.
pub fn unverified() -> Result<ClientConfig, TlsError> {
    skerry_tls::unverified().map_err(|source| TlsError::Config { source })
}

/// TLS on a connection to `host` (name or address).
pub async fn connect(
    config: Arc<ClientConfig>,
    host: &str,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let host = host.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    TlsConnector::from(config).connect(name, stream).await
}

pub async fn connect_unverified(host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let config = unverified().map_err(io::Error::other)?;
    connect(Arc::new(config), host, stream).await
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
