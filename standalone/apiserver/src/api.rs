//! What every handler has at hand: the store, the hubs, the settings, and one request's facts.

use std::{
    net::IpAddr,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use ipnetwork::IpNetwork;
use serde_json::Value;
use skerry_schema::Kind;
use skerry_store::{Entry, Op, Store, StoreError, Txn};
use tokio_util::sync::CancellationToken;

use crate::{
    error::{ApiError, Subject},
    hub::Hubs,
    media::{self, Shape},
    object,
    pki::{self, Authority},
    request::{Query, ResourceRequest},
    respond::{self, Reply, RowObject},
    tunnel::Tunnels,
};

/// What allocation and the `kubernetes` service go by.
#[derive(Debug, Clone)]
pub struct Settings {
    pub service_cidrs: Vec<IpNetwork>,
    pub nodeports: RangeInclusive<u16>,
    pub advertise: IpAddr,
    pub port: u16,
}

pub struct Api {
    pub store: Arc<dyn Store>,
    pub hubs: Hubs,
    pub settings: Settings,
    pub authority: Arc<Authority>,
    pub join_secret: String,
    pub tunnels: Tunnels,
    /// Set once the store has refused a write for good: the server is not ready any more.
    pub store_failed: AtomicBool,
    pub shutdown: CancellationToken,
}

/// One authorized request for a resource.
pub struct Call {
    pub request: ResourceRequest,
    pub kind: &'static Kind,
    pub query: Query,
    pub headers: HeaderMap,
    pub shape: Shape,
    pub subject: pki::Subject,
    pub body: Bytes,
}

impl Call {
    pub fn key(&self) -> String {
        object::key(self.kind, &self.request.namespace, &self.request.name)
    }

    pub fn about(&self) -> Subject<'_> {
        Subject::new(self.kind, &self.request.name)
    }

    /// Whether the outcome shall be worked out and answered, but not written (`dryRun=All`).
    pub fn is_dry_run(&self) -> Result<bool, ApiError> {
        match self.query.get("dryRun") {
            None | Some("") => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(ApiError::bad_request(format!(
                "dryRun: Unsupported value: {other:?}: supported values: \"All\""
            ))),
        }
    }
}

impl Api {
    /// The one way to write: a store that fails for good is remembered.
    pub async fn commit(&self, ops: Vec<Op>) -> Result<u64, StoreError> {
        let outcome = self.store.commit(Txn { ops }).await;
        if let Err(StoreError::Io { .. } | StoreError::Failed { .. }) = &outcome {
            self.store_failed.store(true, Ordering::Relaxed);
        }
        outcome
    }

    /// The object of the request, or 404.
    pub async fn entry(&self, call: &Call) -> Result<Entry, ApiError> {
        self.store.get(&call.key()).await?.ok_or_else(|| ApiError::not_found(call.about()))
    }

    /// An object that some other request's outcome depends on.
    pub async fn object(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Option<Value>, ApiError> {
        let entry = self.store.get(&object::key(kind, namespace, name)).await?;
        entry.map(|entry| parse(kind, &entry)).transpose()
    }
}

pub fn parse(kind: &Kind, entry: &Entry) -> Result<Value, ApiError> {
    object::decode_entry(kind, entry)
        .map_err(|error| ApiError::internal(format!("read the stored object {}: {error}", entry.key)))
}

/// The kind of a built-in resource that this crate itself works with.
pub fn built_in(group: &str, version: &str, plural: &str) -> Result<&'static Kind, ApiError> {
    skerry_schema::find(group, version, plural).ok_or_else(|| {
        ApiError::internal(format!("{plural}.{group}/{version} is missing in the table of kinds"))
    })
}

/// One object, in the shape asked for.
pub fn reply(call: &Call, code: StatusCode, value: &[u8], revision: u64) -> Result<Reply, ApiError> {
    if call.shape == Shape::Object {
        let mut out = Vec::new();
        object::write_json(call.kind, value, revision, &mut out);
        out.push(b'\n');
        return Ok(respond::json(code, out));
    }
    let decoded = object::decode(call.kind, value, revision).map_err(ApiError::internal)?;
    shaped(call, code, decoded)
}

/// One object that is not (or not yet) stored, in the shape asked for.
pub fn shaped(call: &Call, code: StatusCode, object: Value) -> Result<Reply, ApiError> {
    let value = match call.shape {
        Shape::Object => object,
        Shape::PartialMetadata(version) => respond::partial_metadata(version, &object),
        Shape::Table(version) => {
            let mut metadata = serde_json::Map::new();
            metadata
                .insert("resourceVersion".into(), object::text(&object, "/metadata/resourceVersion").into());
            respond::table(call.kind, version, &[object], metadata, RowObject::of(&call.query)?, true)
        }
        Shape::PartialMetadataList(_) | Shape::Discovery => {
            return Err(ApiError::not_acceptable(media::WRITTEN));
        }
    };
    Ok(respond::value(code, &value))
}
