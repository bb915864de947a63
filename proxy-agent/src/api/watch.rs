use std::{collections::HashSet, pin::pin, sync::Arc, time::Duration};

use futures::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use kube::Client;
use proxy_state::{ObjectKey, api};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use crate::tell::metrics::Metrics;

/// The kinds that we follow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Kind {
    Services,
    Slices,
    Nodes,
    ServiceCidrs,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Services, Kind::Slices, Kind::Nodes, Kind::ServiceCidrs];

    fn path(self) -> &'static str {
        match self {
            Kind::Services => "/api/v1/services",
            Kind::Slices => "/apis/discovery.k8s.io/v1/endpointslices",
            Kind::Nodes => "/api/v1/nodes",
            Kind::ServiceCidrs => "/apis/networking.k8s.io/v1/servicecidrs",
        }
    }

    /// Whether there may be no such objects to see: API servers before 1.33 don't have ServiceCIDRs, and a role written for
    /// an older agent doesn't allow them.
    fn may_be_absent(self, error: &WatchError) -> bool {
        let WatchError::Request { source, .. } = error else { return false };
        self == Kind::ServiceCidrs
            && matches!(&**source, kube::Error::Api(status) if [403, 404].contains(&status.code))
    }
}

/// What a watch tells the agent.
#[derive(Debug)]
pub(crate) enum Update {
    Applied(ObjectKey, Object),
    Deleted(Kind, ObjectKey),
    /// A list is complete: what is not in it is gone.
    Listed(Kind, HashSet<ObjectKey>),
}

#[derive(Debug)]
pub(crate) enum Object {
    Service(Box<api::Service>),
    Slice(Box<api::EndpointSlice>),
    Node(Box<api::Node>),
    ServiceCidr(Box<api::ServiceCidr>),
}

/// An update and when its bytes were here.
#[derive(Debug)]
pub(crate) struct Received {
    pub update: Update,
    pub at: Instant,
}

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("ask the API server for {path}")]
    Request { path: String, source: Box<kube::Error> },
    #[error("read from the API server's answer for {path}")]
    Read { path: String, source: std::io::Error },
    #[error("the API server's list of {path} is no list")]
    List { path: String, source: serde_json::Error },
    #[error("an event of {path} is not understood")]
    Event { path: String, source: serde_json::Error },
    #[error("an event of {path} is larger than {MAX_EVENT_BYTES} bytes")]
    Oversized { path: String },
    #[error("the API server was silent for {}s about {path}", after.as_secs())]
    Silent { path: String, after: Duration },
    #[error("the API server ended the watch of {path}: {code} {message}")]
    Ended { path: String, code: u16, message: String },
    /// The revision we know is too old: list again. Not a failure.
    #[error("the watch of {path} has to start over")]
    Expired { path: String },
}

/// Objects asked for at once. A page is parsed and let go before the next is asked for.
const PAGE: u32 = 500;
/// For the first byte of an answer, and for a page of a list.
const PATIENCE: Duration = Duration::from_secs(60);
/// An object has at most 3 MiB (etcd's limit is half of it).
const MAX_EVENT_BYTES: u64 = 8 << 20;
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How soon a kind that the API server does not have, or does not show, is asked for again.
const ABSENT_RETRY: Duration = Duration::from_secs(300);

/// Follows one kind until the receiver is gone: list, watch, and list again when the server has forgotten where we were.
/// While the server is away it tries again, ever more slowly; what was received stays in force.
pub(crate) async fn follow(
    client: Client,
    kind: Kind,
    lasts: Duration,
    to: mpsc::Sender<Received>,
    metrics: Arc<Metrics>,
) {
    let mut backoff = BACKOFF_MIN;
    let (mut revision, mut was_listed, mut is_absent) = (None, false, false);
    while !to.is_closed() {
        let (started, had_revision) = (Instant::now(), revision.is_some());
        let error = match &revision {
            None => list(&client, kind, &to).await.map(|listed| revision = Some(listed)).err(),
            Some(from) => match watch(&client, kind, lasts, from.clone(), &to, &mut revision).await {
                Err(WatchError::Expired { path }) => {
                    tracing::info!(path, "watch starts over");
                    revision = None;
                    None
                }
                other => other.err(),
            },
        };
        let is_first_list = had_revision != revision.is_some();
        was_listed |= revision.is_some();
        match &error {
            Some(error) if !was_listed && kind.may_be_absent(error) => {
                if !std::mem::replace(&mut is_absent, true) {
                    tracing::info!(error = chain(error), ?kind, "goes without");
                }
                to.send(Received { update: Update::Listed(kind, HashSet::new()), at: started }).await.ok();
                tokio::time::sleep(ABSENT_RETRY).await;
                continue;
            }
            Some(error) => {
                metrics.watch_failures.inc();
                tracing::warn!(error = chain(error), ?kind, retry_in = ?backoff, "watch interrupted")
            }
            // A watch that the server ended at once is asked for again no faster than one that failed.
            None if is_first_list || started.elapsed() > BACKOFF_MAX => {
                backoff = BACKOFF_MIN;
                continue;
            }
            None => {}
        }
        tokio::time::sleep(backoff).await;
        backoff = if started.elapsed() > BACKOFF_MAX { BACKOFF_MIN } else { (backoff * 2).min(BACKOFF_MAX) };
    }
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

/// Sends all objects and then the names of all; returns the list's revision.
async fn list(client: &Client, kind: Kind, to: &mpsc::Sender<Received>) -> Result<String, WatchError> {
    let (mut names, mut next) = (HashSet::new(), String::new());
    loop {
        let path = match next.as_str() {
            "" => format!("{}?limit={PAGE}", kind.path()),
            // A token is opaque text of the server's own, safe in a query once escaped.
            token => format!("{}?limit={PAGE}&continue={}", kind.path(), escape(token)),
        };
        let body = {
            let mut stream = pin!(open(client, &path).await?);
            let mut body = Vec::new();
            within(PATIENCE, &path, stream.read_to_end(&mut body))
                .await?
                .map_err(|source| WatchError::Read { path: path.clone(), source })?;
            body
        };
        let at = Instant::now();
        let page: List = serde_json::from_slice(&body).map_err(|source| WatchError::List { path, source })?;
        for item in page.items.unwrap_or_default() {
            let Some(object) = parse(kind, item) else {
                // It is there: what was known of it stays.
                names.extend(name_of(item));
                continue;
            };
            let key = key_of(&object);
            names.insert(key.clone());
            // A closed receiver ends `follow` at its next round.
            to.send(Received { update: Update::Applied(key, object), at }).await.ok();
        }
        if page.metadata.next.is_empty() {
            to.send(Received { update: Update::Listed(kind, names), at }).await.ok();
            return Ok(page.metadata.resource_version);
        }
        next = page.metadata.next;
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

#[derive(Default, Deserialize)]
struct Bare {
    #[serde(default)]
    metadata: ListMeta,
}

/// Sends events until the server ends the watch, keeping `revision` at the last one.
async fn watch(
    client: &Client,
    kind: Kind,
    lasts: Duration,
    from: String,
    to: &mpsc::Sender<Received>,
    revision: &mut Option<String>,
) -> Result<(), WatchError> {
    let path = format!(
        "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={}",
        kind.path(),
        lasts.as_secs(),
        escape(&from)
    );
    let mut stream = pin!(open(client, &path).await?);
    let mut line = Vec::new();
    while !to.is_closed() {
        line.clear();
        // A connection that says nothing for longer than a watch lasts is dead.
        let read = within(lasts + lasts / 8, &path, read_line(&mut stream, &mut line)).await?;
        if read.map_err(|source| WatchError::Read { path: path.clone(), source })? == 0 {
            return Ok(());
        }
        if line.len() as u64 > MAX_EVENT_BYTES {
            return Err(WatchError::Oversized { path });
        }
        let at = Instant::now();
        let event: Event = serde_json::from_slice(&line)
            .map_err(|source| WatchError::Event { path: path.clone(), source })?;
        let update = match event.kind.as_str() {
            "ADDED" | "MODIFIED" => {
                parse(kind, event.object).map(|object| Update::Applied(key_of(&object), object))
            }
            "DELETED" => name_of(event.object).map(|key| Update::Deleted(kind, key)),
            "ERROR" => {
                let status: Status = serde_json::from_str(event.object.get()).unwrap_or_default();
                return Err(match status.code {
                    410 => WatchError::Expired { path },
                    code => WatchError::Ended { path, code, message: status.message },
                });
            }
            // Bookmarks bring a revision and nothing else; so does what may be invented later.
            _ => None,
        };
        let bare: Bare = serde_json::from_str(event.object.get()).unwrap_or_default();
        if !bare.metadata.resource_version.is_empty() {
            *revision = Some(bare.metadata.resource_version);
        }
        if let Some(update) = update {
            to.send(Received { update, at }).await.ok();
        }
    }
    Ok(())
}

async fn read_line(stream: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> std::io::Result<usize> {
    stream.take(MAX_EVENT_BYTES + 1).read_until(b'\n', line).await
}

async fn open(client: &Client, path: &str) -> Result<impl AsyncBufRead + use<>, WatchError> {
    let failed = |source| match source {
        kube::Error::Api(status) if status.code == 410 => WatchError::Expired { path: path.to_owned() },
        source => WatchError::Request { path: path.to_owned(), source: Box::new(source) },
    };
    let request = http::Request::get(path).header("accept", "application/json").body(Vec::new());
    let request = request.map_err(|source| failed(kube::Error::HttpError(source)))?;
    within(PATIENCE, path, client.request_stream(request)).await?.map_err(failed)
}

async fn within<T>(limit: Duration, path: &str, answer: impl Future<Output = T>) -> Result<T, WatchError> {
    let silent = |_| WatchError::Silent { path: path.to_owned(), after: limit };
    timeout(limit, answer).await.map_err(silent)
}

/// An object that we can't read (its shape is not Kubernetes') is left out and named; the others are not held up.
fn parse(kind: Kind, raw: &RawValue) -> Option<Object> {
    fn read<T: DeserializeOwned>(raw: &RawValue, wrap: impl Fn(Box<T>) -> Object) -> Option<Object> {
        match serde_json::from_str(raw.get()) {
            Ok(object) => Some(wrap(Box::new(object))),
            Err(error) => {
                let start: String = raw.get().chars().take(200).collect();
                tracing::warn!(%error, object = start, "object left out: not understood");
                None
            }
        }
    }
    match kind {
        Kind::Services => read(raw, Object::Service),
        Kind::Slices => read(raw, Object::Slice),
        Kind::Nodes => read(raw, Object::Node),
        Kind::ServiceCidrs => read(raw, Object::ServiceCidr),
    }
}

/// The name of any object, whether the rest of it can be read or not.
fn name_of(raw: &RawValue) -> Option<ObjectKey> {
    #[derive(Deserialize)]
    struct Named {
        metadata: Name,
    }
    #[derive(Deserialize)]
    struct Name {
        name: String,
        #[serde(default)]
        namespace: String,
    }
    let named: Named = serde_json::from_str(raw.get()).ok()?;
    Some(ObjectKey::new(&named.metadata.namespace, &named.metadata.name))
}

fn key_of(object: &Object) -> ObjectKey {
    ObjectKey::of(match object {
        Object::Service(service) => &service.metadata,
        Object::Slice(slice) => &slice.metadata,
        Object::Node(node) => &node.metadata,
        Object::ServiceCidr(cidr) => &cidr.metadata,
    })
}

/// Everything but letters, digits and `-_.~` as `%XX` (RFC 3986 section 2.3).
fn escape(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut escaped, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte))
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
        escaped
    })
}

/// An error with all its causes, for one log line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_cannot_be_read_still_has_its_name() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let broken = raw(r#"{"metadata":{"name":"web","namespace":"ns"},"spec":{"ports":7}}"#);
        assert!(parse(Kind::Services, &broken).is_none());
        assert_eq!(name_of(&broken), Some(ObjectKey::new("ns", "web")));
        assert_eq!(name_of(&raw(r#"{"metadata":{"name":"n"},"status":7}"#)), Some(ObjectKey::new("", "n")));
        assert_eq!(name_of(&raw("7")), None);
    }
}
