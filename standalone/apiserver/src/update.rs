//! PUT and PATCH: read, change, check, write if nobody else wrote in between.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use skerry_schema::{FieldError, Kind, PatchType, apply_patch, prepare_update};
use skerry_store::{Entry, Expect, Op, StoreError};

use crate::{
    admission,
    api::{Api, Call, parse, reply, shaped},
    body::{self, Checked},
    claims::{self, Claims},
    conditions,
    create::{make, refusal, settle_namespace},
    error::{ApiError, Subject},
    media,
    object::{self, text},
    respond::{self, Reply},
    restriction,
};

/// Tries of a change that depends on no particular version before it gives up with 409.
const MAX_TRIES: usize = 16;

/// An object as a change left it.
pub struct Changed {
    pub value: Bytes,
    pub revision: u64,
    pub object: Value,
    pub warnings: Vec<String>,
}

/// Which object a change is about.
pub struct Place<'a> {
    pub kind: &'static Kind,
    pub namespace: &'a str,
    pub name: &'a str,
    /// `None`: the object itself.
    pub subresource: Option<&'a str>,
    pub dry_run: bool,
}

impl<'a> Place<'a> {
    pub fn of(call: &'a Call) -> Result<Self, ApiError> {
        let subresource = Some(call.request.subresource.as_str()).filter(|name| !name.is_empty());
        Ok(Self {
            kind: call.kind,
            namespace: &call.request.namespace,
            name: &call.request.name,
            subresource,
            dry_run: call.is_dry_run()?,
        })
    }

    fn key(&self) -> String {
        object::key(self.kind, self.namespace, self.name)
    }

    fn about(&self) -> Subject<'a> {
        Subject::new(self.kind, self.name)
    }
}

pub async fn update(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let Checked { mut value, warnings } = body::read(call, &call.kind.api_version(), call.kind.kind)?;
    let named = object::name(&value);
    if named != call.request.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({named}) does not match the name on the URL ({})",
            call.request.name
        )));
    }
    settle_namespace(call, &mut value)?;
    let place = Place::of(call)?;
    if call.kind.put_creates && place.subresource.is_none() && api.store.get(&place.key()).await?.is_none() {
        match create(api, call, value.clone(), warnings.clone()).await {
            // Somebody else was faster: it is there to be changed now.
            Err(error) if error.reason() == "AlreadyExists" => {}
            outcome => return outcome,
        }
    }
    let changed = change(api, &place, |current| {
        restriction::check(&call.subject, call.kind, &call.request.subresource, Some(current), &value)?;
        Ok(Checked { value: value.clone(), warnings: warnings.clone() })
    })
    .await?;
    finish(call, place.dry_run, changed)
}

/// A PUT of what is not there, for kinds that may be made so. A version says nothing then; a uid is that of
/// another object.
async fn create(api: &Api, call: &Call, mut value: Value, warnings: Vec<String>) -> Result<Reply, ApiError> {
    conditions::may_create(api, call).await?;
    let uid = text(&value, "/metadata/uid");
    if !uid.is_empty() {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
        return Err(ApiError::conflict(call.about(), &why));
    }
    if let Some(metadata) = object::metadata_mut(&mut value) {
        metadata.shift_remove("resourceVersion");
    }
    make(api, call, Checked { value, warnings }).await
}

pub async fn patch(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let patch_type = patch_type(call)?;
    let (api_version, kind) = (call.kind.api_version(), call.kind.kind);
    let place = Place::of(call)?;
    let changed = change(api, &place, |current| {
        let mut patched = patched(call, patch_type, &api_version, kind, current)?;
        settle_namespace(call, &mut patched.value)?;
        if object::name(&patched.value) != call.request.name {
            let name = FieldError::invalid(
                "metadata.name",
                &patched.value["metadata"]["name"],
                "field is immutable",
            );
            return Err(ApiError::invalid(call.kind, &call.request.name, &[name]));
        }
        let subresource = &call.request.subresource;
        restriction::check(&call.subject, call.kind, subresource, Some(current), &patched.value)?;
        Ok(patched)
    })
    .await?;
    finish(call, place.dry_run, changed)
}

fn finish(call: &Call, dry_run: bool, changed: Changed) -> Result<Reply, ApiError> {
    let mut response = if dry_run {
        shaped(call, StatusCode::OK, changed.object)?
    } else {
        reply(call, StatusCode::OK, &changed.value, changed.revision)?
    };
    respond::warn(&mut response, &changed.warnings);
    Ok(response)
}

/// The kind of patch the client sent.
///
/// # Errors
/// 415, for server-side apply too.
pub fn patch_type(call: &Call) -> Result<PatchType, ApiError> {
    match media::media_type(&call.headers) {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
        "application/apply-patch+yaml" => Err(ApiError::new(
            415,
            "UnsupportedMediaType",
            "server-side apply is not supported by this server yet: use a strategic merge patch (kubectl apply without \
             --server-side)",
        )),
        _ => Err(ApiError::unsupported_media_type(
            "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json",
        )),
    }
}

/// `current` with the request's patch applied, checked.
pub fn patched(
    call: &Call,
    patch_type: PatchType,
    api_version: &str,
    kind: &str,
    current: &Value,
) -> Result<Checked, ApiError> {
    let value = apply_patch(patch_type, api_version, kind, current, &call.body, body::PATCH_FORMAT).map_err(
        |error| match error.code() {
            422 => ApiError::new(422, "Invalid", error.to_string()),
            413 => ApiError::new(413, "RequestEntityTooLarge", error.to_string()),
            _ => ApiError::bad_request(error.to_string()),
        },
    )?;
    body::recheck(call, api_version, kind, value)
}

/// Reads the object, has `make` turn it into what it shall be, and writes that.
///
/// A `resourceVersion` in the outcome must be the current one (409). Where another write comes in between,
/// everything is done again, at most [`MAX_TRIES`] times.
pub async fn change(
    api: &Api,
    place: &Place<'_>,
    make: impl Fn(&Value) -> Result<Checked, ApiError>,
) -> Result<Changed, ApiError> {
    let key = place.key();
    let mut lost = BTreeSet::new();
    let mut current = api.store.get(&key).await?;
    for _ in 0..MAX_TRIES {
        let entry = current.take().ok_or_else(|| ApiError::not_found(place.about()))?;
        let old = parse(place.kind, &entry)?;
        let Checked { value: mut new, mut warnings } = make(&old)?;
        match_identity(place, &entry, &old, &new)?;
        let mut ops = prepare(api, place, &old, &mut new, &lost).await?;
        warnings.extend(skerry_schema::warnings(place.kind, Some(&old), &new, place.subresource));
        let value = object::encode(place.kind, new.clone());
        if place.dry_run {
            return Ok(Changed { value, revision: entry.mod_revision, object: new, warnings });
        }
        let gone = may_go(place.kind, &new);
        if !gone && value == entry.value {
            return Ok(Changed { value, revision: entry.mod_revision, object: new, warnings });
        }
        let expect = Expect::Revision(entry.mod_revision);
        if gone {
            ops = crate::delete::removal(place.kind, &key, &old, expect)?;
        } else {
            ops.push(Op::Put { key: key.as_str().into(), value: value.clone(), expect });
        }
        match api.commit(ops).await {
            Ok(revision) => return Ok(Changed { value, revision, object: new, warnings }),
            // What beat us may not be visible yet: go on from what the store says is there.
            Err(StoreError::Conflict { key: taken, actual }) if *taken == *key => current = actual,
            Err(StoreError::Conflict { key: taken, .. }) => {
                lost.insert(taken.to_string());
                current = Some(entry);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::modified(place.about()))
}

/// 409 where the client meant another version, or another object of the same name.
fn match_identity(place: &Place<'_>, entry: &Entry, old: &Value, new: &Value) -> Result<(), ApiError> {
    let version = text(new, "/metadata/resourceVersion");
    if !version.is_empty() && version != "0" {
        let asked: u64 = version.parse().map_err(|_| {
            let error =
                FieldError::invalid("metadata.resourceVersion", &version.into(), "must be a whole number");
            ApiError::invalid(place.kind, place.name, &[error])
        })?;
        if asked != entry.mod_revision {
            return Err(ApiError::modified(place.about()));
        }
    }
    let (asked, uid) = (text(new, "/metadata/uid"), text(old, "/metadata/uid"));
    if !asked.is_empty() && asked != uid {
        let why = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {uid}");
        return Err(ApiError::conflict(place.about(), &why));
    }
    Ok(())
}

async fn prepare(
    api: &Api,
    place: &Place<'_>,
    old: &Value,
    new: &mut Value,
    lost: &BTreeSet<String>,
) -> Result<Vec<Op>, ApiError> {
    let is_service = place.kind.storage == "services" && place.subresource.is_none();
    if is_service {
        claims::carry_over(old, new);
    }
    if place.kind.storage == "namespaces" {
        keep_namespace_finalizers(place, old, new);
    }
    prepare_update(place.kind, old, new, place.subresource, jiff::Timestamp::now())
        .map_err(|errors| ApiError::invalid(place.kind, place.name, &errors))?;
    forbid_new_finalizers(place, old, new)?;
    if place.subresource.is_none() {
        admission::admit_update(api, place.kind, old, new).await?;
    }
    if !is_service {
        return Ok(Vec::new());
    }
    let claims = Claims { store: &api.store, settings: &api.settings, lost };
    claims::allocate(&claims, Some(old), new)
        .await
        .map_err(|refused| refusal(place.kind, place.name, refused))
}

/// Only `finalize` changes a namespace's own finalizers.
fn keep_namespace_finalizers(place: &Place<'_>, old: &Value, new: &mut Value) {
    if place.subresource != Some("finalize") && new["spec"] != old["spec"] {
        new["spec"] = old["spec"].clone();
    }
}

fn forbid_new_finalizers(place: &Place<'_>, old: &Value, new: &Value) -> Result<(), ApiError> {
    if !object::is_being_deleted(old) {
        return Ok(());
    }
    let known = object::finalizers(old);
    let added: Vec<String> =
        object::finalizers(new).into_iter().filter(|name| !known.contains(name)).collect();
    if added.is_empty() {
        return Ok(());
    }
    let detail = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
    );
    Err(ApiError::invalid(place.kind, place.name, &[FieldError::forbidden("metadata.finalizers", &detail)]))
}

/// Whether an object that is being deleted has nothing left to wait for.
fn may_go(kind: &Kind, object: &Value) -> bool {
    object::is_being_deleted(object)
        && object::finalizers(object).is_empty()
        && object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) == 0
        && !crate::delete::namespace_has_finalizers(kind, object)
}
