//! How a machine becomes a node: a token proves the server to it and it to the server; it gets a certificate.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use http::Uri;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DnType, KeyPair};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use skerry_client::Source;
use tokio::net::TcpStream;

use crate::tls::{self, TlsError};

const ANSWER_LIMIT: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(
        "join token: write it as `skerry1.<hash of the certificate authority>.<secret>`, as it stands in the server's `join-token` file"
    )]
    Token,
    #[error("server {0:?}: write it as https://ADDRESS:6443")]
    Server(String),
    #[error(
        "the server's certificate authority has another hash than the token says: the token is of another cluster, or someone stands between"
    )]
    Authority,
    #[error("dial {server}")]
    Dial { server: String, source: std::io::Error },
    #[error("{operation} {server}")]
    Http { operation: &'static str, server: String, source: hyper::Error },
    #[error("{operation} {server}: {text}")]
    Refused { operation: &'static str, server: String, text: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("make a key and a certificate request")]
    Request { source: rcgen::Error },
    #[error("{operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
}

/// The files of a joined node, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub authority: String,
    pub certificate: String,
    pub key: String,
}

const AUTHORITY: &str = "ca.crt";
const CERTIFICATE: &str = "node.crt";
const KEY: &str = "node.key";

/// Gets the node's certificate from the server and writes it to `dir` (0700, files 0600). What is there and
/// good for more than a third of its life is used again.
///
/// # Errors
/// When the token is malformed or wrong, the server can't be reached, or the files can't be written.
pub async fn join(
    server_url: &str,
    token: &str,
    node_name: &str,
    dir: &Path,
) -> Result<Credentials, JoinError> {
    let (hash, secret) = split_token(token)?;
    if let Ok(have) = read(dir)
        && !needs_renewal(&have.certificate, Timestamp::now())
        && belongs_to(&have.certificate, node_name)
        && tls::authorities(&have.authority).is_ok_and(|all| all.iter().any(|one| hash_of(one) == hash))
    {
        return Ok(have);
    }
    let server = Server::parse(server_url)?;
    let authority = server.exchange(tls::unverified()?, Ask::Authority).await?;
    let authority = String::from_utf8_lossy(&authority).into_owned();
    let all = tls::authorities(&authority)?;
    let trusted: Vec<_> = all.into_iter().filter(|one| hash_of(one) == hash).collect();
    if trusted.is_empty() {
        return Err(JoinError::Authority);
    }
    let (key, request) = request(node_name)?;
    let ask = Ask::Certificate { node_name, request: &request, secret: Some(secret) };
    let answer = server.exchange(tls::config(&trusted, None)?, ask).await?;
    let credentials = answered(&server, &answer, key)?;
    write(dir, &credentials)?;
    Ok(credentials)
}

/// Gets a new certificate in exchange for the one that is still good.
pub async fn renew(server_url: &str, node_name: &str, dir: &Path) -> Result<Credentials, JoinError> {
    let have = read(dir)?;
    let server = Server::parse(server_url)?;
    let certificate = Arc::new(tls::NodeCertificate::new(&have.certificate, &have.key)?);
    let (key, request) = request(node_name)?;
    let config = tls::config(&tls::authorities(&have.authority)?, Some(certificate))?;
    let ask = Ask::Certificate { node_name, request: &request, secret: None };
    let answer = server.exchange(config, ask).await?;
    let credentials = answered(&server, &answer, key)?;
    write(dir, &credentials)?;
    Ok(credentials)
}

/// Reads what [`join`] wrote.
pub fn read(dir: &Path) -> Result<Credentials, JoinError> {
    let file = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).map_err(|source| JoinError::File { operation: "read", path, source })
    };
    Ok(Credentials { authority: file(AUTHORITY)?, certificate: file(CERTIFICATE)?, key: file(KEY)? })
}

/// How the server is reached with what [`join`] wrote.
pub fn source(server_url: &str, dir: &Path) -> Source {
    let file = |name| dir.join(name);
    let (authority, certificate, key) = (file(AUTHORITY), file(CERTIFICATE), file(KEY));
    Source::Files { servers: vec![server_url.to_owned()], authority, certificate, key }
}

/// When two thirds of the certificate's life are over.
pub fn renew_at(certificate_pem: &str) -> Option<Timestamp> {
    let (from, to) = validity(certificate_pem)?;
    let life = to.duration_since(from);
    from.checked_add(SignedDuration::from_secs(life.as_secs() / 3 * 2)).ok()
}

fn needs_renewal(certificate_pem: &str, now: Timestamp) -> bool {
    renew_at(certificate_pem).is_none_or(|at| at <= now)
}

/// From when to when the first certificate of a PEM text counts; `None`: there is none that can be read.
pub fn validity(certificate_pem: &str) -> Option<(Timestamp, Timestamp)> {
    let all = tls::authorities(certificate_pem).ok()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(all.first()?).ok()?;
    let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    Some((at(parsed.validity().not_before)?, at(parsed.validity().not_after)?))
}

fn belongs_to(certificate_pem: &str, node_name: &str) -> bool {
    let Ok(all) = tls::authorities(certificate_pem) else { return false };
    let Some(Ok((_, parsed))) = all.first().map(|der| x509_parser::parse_x509_certificate(der)) else {
        return false;
    };
    let wanted = common_name(node_name);
    parsed.subject().iter_common_name().any(|name| name.as_str() == Ok(wanted.as_str()))
}

fn common_name(node_name: &str) -> String {
    format!("system:node:{node_name}")
}

/// `(hash of the authority in hex, secret)`.
fn split_token(token: &str) -> Result<(String, &str), JoinError> {
    let mut parts = token.trim().split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("skerry1"), Some(hash), Some(secret), None)
            if hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()) && !secret.is_empty() =>
        {
            Ok((hash.to_ascii_lowercase(), secret))
        }
        _ => Err(JoinError::Token),
    }
}

fn hash_of(der: &[u8]) -> String {
    Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A fresh key and a request for the node's name, both PEM.
fn request(node_name: &str) -> Result<(String, String), JoinError> {
    let failed = |source| JoinError::Request { source };
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name(node_name));
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    let request = params.serialize_request(&key).map_err(failed)?.pem().map_err(failed)?;
    Ok((key.serialize_pem(), request))
}

#[derive(Deserialize)]
struct Answer {
    certificate: String,
    ca: String,
}

fn answered(server: &Server, body: &[u8], key: String) -> Result<Credentials, JoinError> {
    let answer: Answer = serde_json::from_slice(body).map_err(|error| JoinError::Refused {
        operation: "join",
        server: server.url.clone(),
        text: format!("its answer is not what was asked for: {error}"),
    })?;
    tls::NodeCertificate::new(&answer.certificate, &key)?;
    Ok(Credentials { authority: answer.ca, certificate: answer.certificate, key })
}

/// Key first, certificate last, each by rename: what can be read together belongs together, or `join` does it
/// anew.
fn write(dir: &Path, credentials: &Credentials) -> Result<(), JoinError> {
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| JoinError::File { operation, path, source }
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create folder", dir))?;
    let files = [
        (AUTHORITY, &credentials.authority),
        (KEY, &credentials.key),
        (CERTIFICATE, &credentials.certificate),
    ];
    for (name, text) in files {
        let (path, fresh) = (dir.join(name), dir.join(format!("{name}.new")));
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .map_err(failed("create", &fresh))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write", &fresh))?;
        fs::rename(&fresh, &path).map_err(failed("rename", &path))?;
    }
    Ok(())
}

enum Ask<'a> {
    Authority,
    Certificate { node_name: &'a str, request: &'a str, secret: Option<&'a str> },
}

struct Server {
    url: String,
    host: String,
    port: u16,
}

impl Server {
    fn parse(url: &str) -> Result<Server, JoinError> {
        let bad = || JoinError::Server(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        if uri.scheme_str() != Some("https") {
            return Err(bad());
        }
        let host = uri.host().ok_or_else(bad)?.to_owned();
        Ok(Server { url: url.to_owned(), host, port: uri.port_u16().unwrap_or(443) })
    }

    async fn exchange(&self, config: rustls::ClientConfig, ask: Ask<'_>) -> Result<Bytes, JoinError> {
        let (operation, request) = match ask {
            Ask::Authority => {
                ("get the certificate authority of", http::Request::get("/skerry/v1/ca").body(Bytes::new()))
            }
            Ask::Certificate { node_name, request, secret } => {
                let body = serde_json::json!({"nodeName": node_name, "csr": request}).to_string();
                let mut post =
                    http::Request::post("/skerry/v1/join").header("content-type", "application/json");
                if let Some(secret) = secret {
                    post = post.header("authorization", format!("Bearer {secret}"));
                }
                ("join", post.body(Bytes::from(body)))
            }
        };
        let server = || self.url.clone();
        let refused = |text: String| JoinError::Refused { operation, server: server(), text };
        let mut request = request.map_err(|error| refused(error.to_string()))?.map(Full::new);
        let host = format!("{}:{}", self.host, self.port).parse().map_err(|_| JoinError::Server(server()))?;
        request.headers_mut().insert(http::header::HOST, host);
        let dial = |source| JoinError::Dial { server: server(), source };
        let stream =
            TcpStream::connect((self.host.trim_matches(['[', ']']), self.port)).await.map_err(dial)?;
        let stream = tls::connect(Arc::new(config), &self.host, stream).await.map_err(dial)?;
        let http = |source| JoinError::Http { operation, server: server(), source };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        let driver = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(http)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await;
        driver.abort();
        let body = body.map_err(|error| refused(error.to_string()))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        let said = serde_json::from_slice::<serde_json::Value>(&body).ok();
        let said =
            said.and_then(|value| Some(value.get("message")?.as_str()?.to_owned())).unwrap_or_default();
        Err(refused(format!("{status} {said}").trim_end().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_a_version_a_hash_and_a_secret() {
        let hash = "ab".repeat(32);
        let good = format!("skerry1.{hash}.secret\n");
        assert_eq!(split_token(&good).unwrap(), (hash.clone(), "secret"));
        for bad in ["", "skerry1", &format!("skerry2.{hash}.s"), &format!("skerry1.{hash}."), "skerry1.ab.s"]
        {
            assert!(matches!(split_token(bad), Err(JoinError::Token)), "{bad}");
        }
    }

    #[test]
    fn credentials_are_written_for_root_alone_and_read_back() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("pki");
        let credentials = Credentials { authority: "a".into(), certificate: "c".into(), key: "k".into() };
        write(&dir, &credentials).unwrap();
        write(&dir, &credentials).unwrap();
        assert_eq!(read(&dir).unwrap(), credentials);
        for name in [AUTHORITY, CERTIFICATE, KEY] {
            let mode = fs::metadata(dir.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "system:node:n1");
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 31);
        let pem = params.self_signed(&key).unwrap().pem();
        assert_eq!(renew_at(&pem), Some("2026-01-21T00:00:00Z".parse().unwrap()));
        assert!(belongs_to(&pem, "n1") && !belongs_to(&pem, "n2"));
        assert_eq!(renew_at("garbage"), None);
    }
}
