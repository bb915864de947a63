//! Lists: snapshot, selectors, pages.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use skerry_schema::{Kind, field_label_supported};
use skerry_store::{Entry, Range, StoreError};

use crate::{
    api::{Api, Call, parse},
    error::ApiError,
    hub::Index,
    media::{self, Shape},
    object,
    request::Query,
    respond::{self, Reply, RowObject},
    selectors::{FieldSelector, LabelSelector},
};

/// A list is written in pieces of about this many bytes, so that a long one does not stand in memory twice.
const CHUNK_BYTES: usize = 64 << 10;

/// Which objects of a collection are meant.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
}

impl Filter {
    pub fn of(kind: &Kind, query: &Query) -> Result<Self, ApiError> {
        let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or_default())
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default())
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        if let Some(unknown) =
            fields.requirements().iter().find(|asked| !field_label_supported(kind, &asked.field))
        {
            return Err(ApiError::bad_request(format!("field label not supported: {}", unknown.field)));
        }
        Ok(Self { labels, fields })
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub fn matches(&self, index: &Index) -> bool {
        self.labels.matches(&index.labels) && self.fields.matches(&index.fields)
    }

    /// Whether stored bytes can match at all; spares parsing the pods of other nodes.
    fn may_match(&self, value: &[u8]) -> bool {
        match self.fields.pinned("spec.nodeName").filter(|node| !node.is_empty()) {
            // A node's name is a DNS name and stands in the JSON as it is.
            Some(node) => std::str::from_utf8(value).is_ok_and(|json| json.contains(node)),
            None => true,
        }
    }

    /// The prefix of all keys that can match: one object's where the selector pins its name.
    fn prefix(&self, kind: &Kind, namespace: &str) -> String {
        let namespace = match self.fields.pinned("metadata.namespace") {
            Some(pinned) if namespace.is_empty() => pinned,
            _ => namespace,
        };
        match self.fields.pinned("metadata.name") {
            Some(name) if !kind.namespaced || !namespace.is_empty() => object::key(kind, namespace, name),
            _ => object::prefix(kind, namespace),
        }
    }
}

/// Where the next page starts.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    v: String,
    /// The snapshot's revision; -1: whatever is newest.
    rv: i64,
    /// The last key of the page before.
    start: String,
}

impl Token {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!(self).to_string())
    }

    fn decode(text: &str) -> Result<Self, ApiError> {
        let bad = || ApiError::bad_request("continue key is not valid: start the list anew without it");
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| bad())?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        if token.v == "skerry/v1" { Ok(token) } else { Err(bad()) }
    }
}

/// One page.
pub struct Page {
    pub entries: Vec<Entry>,
    pub revision: u64,
    continue_token: Option<String>,
    remaining: Option<usize>,
}

pub async fn list(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let filter = Filter::of(call.kind, &call.query)?;
    let page = page(api, call, &filter).await?;
    write(call, page)
}

async fn page(api: &Api, call: &Call, filter: &Filter) -> Result<Page, ApiError> {
    let limit = number(&call.query, "limit")?.unwrap_or(0) as usize;
    let token = call.query.get("continue").filter(|text| !text.is_empty()).map(Token::decode).transpose()?;
    let version = call.query.get("resourceVersion").filter(|text| !text.is_empty());
    if token.is_some() && version.is_some_and(|version| version != "0") {
        return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
    }
    let revision = match &token {
        Some(token) => u64::try_from(token.rv).ok(),
        None => snapshot(api, &call.query)?,
    };
    let after = token.map(|token| token.start);
    select(api, call.kind, &call.request.namespace, filter, revision, after.clone(), limit).await.map_err(
        |error| match (error, after) {
            (StoreError::Compacted { .. }, Some(start)) => {
                ApiError::expired_continue(Token { v: "skerry/v1".into(), rv: -1, start }.encode())
            }
            (error, _) => error.into(),
        },
    )
}

/// The revision a list shall be of; `None`: the newest.
fn snapshot(api: &Api, query: &Query) -> Result<Option<u64>, ApiError> {
    let asked = number(query, "resourceVersion")?;
    let matching = query.get("resourceVersionMatch").filter(|text| !text.is_empty());
    match (asked, matching) {
        (None, Some(_)) => Err(ApiError::bad_request(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        )),
        (None | Some(0), None) | (Some(0), Some("NotOlderThan")) => Ok(None),
        (Some(0), Some("Exact")) => Err(ApiError::bad_request(
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
        )),
        (Some(asked), Some("Exact")) => Ok(Some(asked)),
        (Some(asked), None | Some("NotOlderThan")) => {
            let current = api.store.revision();
            if asked > current { Err(ApiError::version_too_large(asked, current)) } else { Ok(None) }
        }
        (Some(_), Some(other)) => Err(ApiError::bad_request(format!(
            "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
        ))),
    }
}

/// A whole number in the query; `None`: not given.
pub fn number(query: &Query, key: &str) -> Result<Option<u64>, ApiError> {
    let Some(text) = query.get(key).filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse()
        .map(Some)
        .map_err(|_| ApiError::bad_request(format!("{key}: Invalid value: {text:?}: must be a whole number")))
}

/// The matching entries in key order, at most `limit` (0: all).
pub async fn select(
    api: &Api,
    kind: &Kind,
    namespace: &str,
    filter: &Filter,
    revision: Option<u64>,
    after: Option<String>,
    limit: usize,
) -> Result<Page, StoreError> {
    let prefix = filter.prefix(kind, namespace);
    let mut range = Range { prefix, after, limit, revision };
    let mut entries = Vec::new();
    loop {
        let listing = api.store.list(range.clone()).await?;
        let last = listing.entries.last().map(|entry| entry.key.to_string());
        // Later pages of one answer are of the same snapshot as its first.
        range.revision = Some(listing.revision);
        for entry in listing.entries {
            if filter.is_empty()
                || (filter.may_match(&entry.value) && filter.matches(&Index::of_entry(kind, &entry)))
            {
                entries.push(entry);
            }
        }
        let more = listing.remaining > 0;
        if !more || entries.len() >= limit {
            let next = if more { last } else { None };
            let token = |start| Token { v: "skerry/v1".into(), rv: listing.revision as i64, start }.encode();
            return Ok(Page {
                entries,
                revision: listing.revision,
                remaining: (more && filter.is_empty()).then_some(listing.remaining),
                continue_token: next.map(token),
            });
        }
        range.after = last;
        range.limit = limit - entries.len();
    }
}

fn write(call: &Call, page: Page) -> Result<Reply, ApiError> {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), page.revision.to_string().into());
    if let Some(token) = &page.continue_token {
        metadata.insert("continue".into(), token.as_str().into());
    }
    if let Some(remaining) = page.remaining {
        metadata.insert("remainingItemCount".into(), remaining.into());
    }
    if call.shape == Shape::Object {
        return Ok(stream(call.kind, metadata, page.entries));
    }
    let parsed = page.entries.iter().map(|entry| parse(call.kind, entry)).collect::<Result<Vec<_>, _>>();
    of_values(call, metadata, parsed?)
}

/// A list of objects that stand in no store, or in another form there, in the shape asked for.
pub fn of_values(call: &Call, metadata: Map<String, Value>, objects: Vec<Value>) -> Result<Reply, ApiError> {
    let list = match call.shape {
        Shape::Object => {
            json!({"kind": format!("{}List", call.kind.kind), "apiVersion": call.kind.api_version(),
            "metadata": metadata, "items": objects})
        }
        Shape::Table(version) => {
            let row = RowObject::of(&call.query)?;
            respond::table(call.kind, version, &objects, metadata, row, true)
        }
        Shape::PartialMetadata(version) | Shape::PartialMetadataList(version) => {
            let partial = |object| respond::partial_metadata(version, object);
            let items: Vec<Value> = objects.iter().map(partial).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": version.api_version(),
                "metadata": metadata, "items": items})
        }
        Shape::Discovery => return Err(ApiError::not_acceptable(media::WRITTEN)),
    };
    Ok(respond::value(StatusCode::OK, &list))
}

/// The list as pieces made while it is sent; the entries themselves are shared with the store.
fn stream(kind: &'static Kind, metadata: Map<String, Value>, entries: Vec<Entry>) -> Reply {
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
        kind.kind,
        kind.api_version(),
        Value::Object(metadata)
    );
    let state = (Some(head.into_bytes()), entries.into_iter().peekable(), false);
    let chunks = futures::stream::unfold(state, move |(head, mut entries, ended)| async move {
        if ended {
            return None;
        }
        let mut out = head.unwrap_or_default();
        while out.len() < CHUNK_BYTES
            && let Some(entry) = entries.next()
        {
            object::write_item(kind, &entry.value, entry.mod_revision, &mut out);
            if entries.peek().is_some() {
                out.push(b',');
            }
        }
        let ended = entries.peek().is_none();
        if ended {
            out.extend_from_slice(b"]}\n");
        }
        Some((Bytes::from(out), (None, entries, ended)))
    });
    respond::typed(StatusCode::OK, "application/json", respond::stream(chunks))
}
