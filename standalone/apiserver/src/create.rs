//! POST on a collection.

use std::collections::BTreeSet;

use http::StatusCode;
use serde_json::{Value, json};
use skerry_schema::{Kind, prepare_create};
use skerry_store::{Expect, Op, StoreError};
use skerry_vocabulary::time;

use crate::{
    admission,
    api::{Api, Call, built_in, reply, shaped},
    body::{self, Checked},
    claims::{self, Claims, Refused},
    error::{ApiError, Subject},
    object::{self, metadata_mut, text},
    respond::{self, Reply},
    restriction, signing_requests,
};

/// Tries of a create whose generated name, address or port was taken in the meantime.
const MAX_TRIES: usize = 64;
/// A generated name keeps this many characters of its base, and gets five more (upstream's numbers).
const MAX_GENERATED_BASE: usize = 58;
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

pub async fn create(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let checked = body::read(call, &call.kind.api_version(), call.kind.kind)?;
    make(api, call, checked).await
}

/// Makes the object of a checked body.
pub async fn make(api: &Api, call: &Call, checked: Checked) -> Result<Reply, ApiError> {
    let mut object = identify(call, checked.value)?;
    restriction::check(&call.subject, call.kind, "", None, &object)?;
    signing_requests::identify(call, &mut object)?;
    let dry_run = call.is_dry_run()?;
    namespace_takes_new_content(api, call.kind, &call.request.namespace, &object).await?;
    let mut reply = insert(api, call, object, dry_run).await?;
    respond::warn(&mut reply, &checked.warnings);
    Ok(reply)
}

/// Sets what a new object gets from us, and refuses what it may not bring along.
fn identify(call: &Call, mut object: Value) -> Result<Value, ApiError> {
    settle_namespace(call, &mut object)?;
    let namespace = &call.request.namespace;
    if call.kind.namespaced && namespace.is_empty() {
        return Err(ApiError::bad_request("an empty namespace may not be set during creation"));
    }
    // A zero is what clients have that know no version.
    if !matches!(text(&object, "/metadata/resourceVersion"), "" | "0") {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let namespaced = call.kind.namespaced;
    let metadata =
        metadata_mut(&mut object).ok_or_else(|| ApiError::bad_request("the body must be an object"))?;
    for field in
        ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields"]
    {
        metadata.shift_remove(field);
    }
    if namespaced {
        metadata.insert("namespace".into(), namespace.as_str().into());
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), time::seconds(jiff::Timestamp::now()).into());
    Ok(object)
}

/// Refuses a body that names another namespace than the URL. What a cluster-wide object says of one is
/// dropped.
pub fn settle_namespace(call: &Call, object: &mut Value) -> Result<(), ApiError> {
    let given = text(object, "/metadata/namespace");
    if call.kind.namespaced && !given.is_empty() && given != call.request.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if !call.kind.namespaced
        && !given.is_empty()
        && let Some(metadata) = metadata_mut(object)
    {
        metadata.shift_remove("namespace");
    }
    Ok(())
}

/// Writes an identified object; tries again where chance can help.
pub async fn insert(api: &Api, call: &Call, object: Value, dry_run: bool) -> Result<Reply, ApiError> {
    let kind = call.kind;
    let base = text(&object, "/metadata/generateName").to_owned();
    let generates = object::name(&object).is_empty() && !base.is_empty();
    let mut lost = BTreeSet::new();
    for _ in 0..MAX_TRIES {
        let mut candidate = object.clone();
        if generates && let Some(metadata) = metadata_mut(&mut candidate) {
            metadata.insert("name".into(), generated_name(&base).into());
        }
        let name = object::name(&candidate).to_owned();
        let subject = Subject::new(kind, &name);
        let key = object::key(kind, &call.request.namespace, &name);
        let claims = prepare(api, kind, &mut candidate, &lost).await?;
        let unheeded = skerry_schema::warnings(kind, None, &candidate, None);
        let told = |mut reply: Reply| {
            respond::warn(&mut reply, &unheeded);
            reply
        };
        if dry_run {
            if api.store.get(&key).await?.is_some() {
                return Err(ApiError::already_exists(subject));
            }
            return shaped(call, StatusCode::CREATED, candidate).map(told);
        }
        let value = object::encode(kind, candidate);
        let mut ops =
            vec![Op::Put { key: key.as_str().into(), value: value.clone(), expect: Expect::Absent }];
        ops.extend(claims);
        match api.commit(ops).await {
            Ok(revision) => return reply(call, StatusCode::CREATED, &value, revision).map(told),
            Err(StoreError::Conflict { key: taken, .. }) if *taken == *key && !generates => {
                return Err(ApiError::already_exists(subject));
            }
            Err(StoreError::Conflict { key, .. }) => drop(lost.insert(key.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::new(
        409,
        "AlreadyExists",
        format!("no free name, address or port was found for {base:?} in {MAX_TRIES} tries, try again"),
    ))
}

/// Defaults, validation and allocation; the writes that go with the object.
pub async fn prepare(
    api: &Api,
    kind: &Kind,
    object: &mut Value,
    lost: &BTreeSet<String>,
) -> Result<Vec<Op>, ApiError> {
    let name = object::name(object).to_owned();
    if name.is_empty() {
        let missing =
            skerry_schema::FieldError::required("metadata.name", "name or generateName is required");
        return Err(ApiError::invalid(kind, "", &[missing]));
    }
    if kind.storage == "namespaces" {
        adorn_namespace(object, &name);
    }
    prepare_create(kind, object, jiff::Timestamp::now())
        .map_err(|errors| ApiError::invalid(kind, &name, &errors))?;
    admission::admit(api, kind, object).await?;
    if kind.storage != "services" {
        return Ok(Vec::new());
    }
    let claims = Claims { store: &api.store, settings: &api.settings, lost };
    claims::allocate(&claims, None, object).await.map_err(|refused| refusal(kind, &name, refused))
}

pub fn refusal(kind: &Kind, name: &str, refused: Refused) -> ApiError {
    match refused {
        Refused::Fields(errors) => ApiError::invalid(kind, name, &errors),
        Refused::Other(error) => error,
    }
}

/// A namespace carries its name as a label, and a finalizer that lasts until its content is gone.
fn adorn_namespace(namespace: &mut Value, name: &str) {
    if let Some(metadata) = metadata_mut(namespace) {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert("kubernetes.io/metadata.name".into(), name.into());
        }
    }
    namespace["spec"] = json!({"finalizers": ["kubernetes"]});
    namespace["status"] = json!({"phase": "Active"});
}

fn generated_name(base: &str) -> String {
    let suffix = (0..5).map(|_| SUFFIX_ALPHABET[rand::random_range(0..SUFFIX_ALPHABET.len())] as char);
    base.chars().take(MAX_GENERATED_BASE).chain(suffix).collect()
}

/// 404 without the namespace, 403 while it is being deleted.
pub async fn namespace_takes_new_content(
    api: &Api,
    kind: &Kind,
    namespace: &str,
    object: &Value,
) -> Result<(), ApiError> {
    if !kind.namespaced {
        return Ok(());
    }
    let namespaces = built_in("", "v1", "namespaces")?;
    let Some(found) = api.object(namespaces, "", namespace).await? else {
        return Err(ApiError::not_found(Subject::new(namespaces, namespace)));
    };
    if !object::is_being_deleted(&found) {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let cause = json!({"reason": "NamespaceTerminating", "message": format!("namespace {namespace} is being terminated"),
        "field": "metadata.namespace"});
    Err(ApiError::forbidden(Subject::new(kind, object::name(object)), &why).with_causes(json!([cause])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_keep_their_base_and_stay_short() {
        let name = generated_name(&"x".repeat(100));
        assert_eq!(name.len(), 63);
        let name = generated_name("web-");
        assert!(name.starts_with("web-") && name.len() == 9);
        assert_ne!(generated_name("web-"), generated_name("web-"));
    }
}
