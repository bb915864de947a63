use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hickory_proto::rr::{Name, RecordType};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

use crate::{engine::Engine, metrics::code_label};

/// People who ask at once.
const MAX_CONNECTIONS: usize = 8;
const MAX_LINE_BYTES: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("listen at {path}")]
    Listen { path: PathBuf, source: io::Error },
    #[error("ask the DNS process at {path}: is `skerry node` running here?")]
    Ask { path: PathBuf, source: io::Error },
    #[error("the DNS process' answer is not understood: are both of one version?")]
    Unread(#[from] serde_json::Error),
    #[error("{0}")]
    Refused(String),
}

/// One name to be looked up: a line of JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lookup {
    /// With all its labels.
    pub name: String,
    /// `A`, `SRV` …
    pub kind: String,
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Told {
    /// `NOERROR`, `NXDOMAIN` …
    pub code: String,
    /// As zone files have them.
    pub answers: Vec<String>,
    pub why: Vec<String>,
    /// Instead of everything else: why nothing was looked up.
    pub error: Option<String>,
}

/// Where people are answered who may write to the socket: its owner, and root.
#[derive(Debug)]
pub struct Admin {
    path: PathBuf,
    listener: UnixListener,
}

/// From its return on questions wait there.
///
/// # Errors
/// When the socket can't be had.
pub fn listen_admin(path: &Path) -> Result<Admin, AdminError> {
    let failed = |source| AdminError::Listen { path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(Admin { path: path.to_owned(), listener })
}

/// For ever.
///
/// # Errors
/// When no connection can be taken any more.
pub async fn serve_admin(engine: Arc<Engine>, admin: Admin) -> Result<(), AdminError> {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return Ok(()) };
        let (stream, _) = admin
            .listener
            .accept()
            .await
            .map_err(|source| AdminError::Listen { path: admin.path.clone(), source })?;
        let engine = engine.clone();
        tokio::spawn(async move {
            drop(timeout(PATIENCE, answer(engine, stream)).await);
            drop(slot);
        });
    }
}

async fn answer(engine: Arc<Engine>, stream: UnixStream) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(from.take(MAX_LINE_BYTES)).read_line(&mut line).await?;
    let told = match parse(&line) {
        Ok((name, kind)) => {
            let explained = engine.explain(&name, kind).await;
            let answers = explained.answers.iter().map(ToString::to_string).collect();
            Told { code: code_label(explained.code).to_owned(), answers, why: explained.why, error: None }
        }
        Err(error) => Told { code: String::new(), answers: Vec::new(), why: Vec::new(), error: Some(error) },
    };
    let mut text = serde_json::to_vec(&told)?;
    text.push(b'\n');
    to.write_all(&text).await
}

fn parse(line: &str) -> Result<(Name, RecordType), String> {
    let lookup: Lookup = serde_json::from_str(line).map_err(|error| format!("not understood: {error}"))?;
    let mut name =
        Name::from_utf8(&lookup.name).map_err(|error| format!("`{}` is no name: {error}", lookup.name))?;
    name.set_fqdn(true);
    let kind = lookup.kind.to_ascii_uppercase();
    let kind =
        kind.parse().map_err(|_| format!("`{}` is no type of records: write A, AAAA, SRV …", lookup.kind))?;
    Ok((name, kind))
}

/// Asks the process that serves this socket. Blocks.
///
/// # Errors
/// When nobody serves it, or the name can't be looked up.
pub fn ask_admin(path: &Path, lookup: &Lookup) -> Result<Told, AdminError> {
    let failed = |source| AdminError::Ask { path: path.to_owned(), source };
    let mut stream = net::UnixStream::connect(path).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut text = serde_json::to_vec(lookup)?;
    text.push(b'\n');
    stream.write_all(&text).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(failed)?;
    let told: Told = serde_json::from_str(&line)?;
    match told.error {
        Some(error) => Err(AdminError::Refused(error)),
        None => Ok(told),
    }
}
