//! DELETE of one object and of a collection: preconditions, finalizers, grace.

use http::StatusCode;
use serde_json::Value;
use skerry_schema::{Deleted, Kind};
use skerry_store::{Expect, Op, StoreError};
use skerry_vocabulary::time;

use crate::{
    api::{Api, Call, parse, reply, shaped},
    body, claims,
    error::{ApiError, Subject},
    list::{Filter, select},
    object::{self, metadata_mut, text},
    request::Query,
    respond::{self, Reply},
};

const MAX_TRIES: usize = 16;
/// Objects of a collection that are deleted between two looks at the store.
const COLLECTION_PAGE: usize = 500;
/// What a pod gets whose spec says nothing (upstream's default).
const DEFAULT_GRACE_SECONDS: i64 = 30;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// `DeleteOptions`, from the body or the query.
#[derive(Debug, Default, Clone)]
pub struct Options {
    pub grace_seconds: Option<i64>,
    uid: Option<String>,
    resource_version: Option<String>,
    propagation: Option<Propagation>,
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Propagation {
    Orphan,
    Background,
    Foreground,
}

impl Options {
    fn of(call: &Call) -> Result<Self, ApiError> {
        let body = body::read_if_given(call, "v1", "DeleteOptions")?.unwrap_or_default();
        Self::from_parts(&body, &call.query, call.is_dry_run()?)
    }

    /// From a `DeleteOptions` value; what it leaves out is looked for in the query.
    pub fn from_parts(body: &Value, query: &Query, dry_run: bool) -> Result<Self, ApiError> {
        let owned = |pointer| Some(text(body, pointer)).filter(|text| !text.is_empty()).map(str::to_owned);
        let grace_in_query = query.get("gracePeriodSeconds").filter(|text| !text.is_empty());
        let grace_in_query = grace_in_query.map(|text| {
            text.parse::<i64>().map_err(|_| {
                ApiError::bad_request(format!(
                    "gracePeriodSeconds: Invalid value: {text:?}: must be a whole number"
                ))
            })
        });
        let grace_seconds = match body["gracePeriodSeconds"].as_i64() {
            Some(seconds) => Some(seconds),
            None => grace_in_query.transpose()?,
        };
        let named = owned("/propagationPolicy").or_else(|| query.get("propagationPolicy").map(str::to_owned));
        let orphan = body["orphanDependents"]
            .as_bool()
            .or_else(|| query.get("orphanDependents").map(|text| text == "true"));
        let propagation = match (named.as_deref(), orphan) {
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (None | Some(""), _) => None,
            (Some(other), _) => {
                return Err(ApiError::new(
                    422,
                    "Invalid",
                    format!(
                        "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {other:?}: supported \
                     values: \"Foreground\", \"Background\", \"Orphan\""
                    ),
                ));
            }
        };
        let dry_run = dry_run || body["dryRun"].as_array().is_some_and(|list| !list.is_empty());
        Ok(Self {
            grace_seconds: grace_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds }),
            uid: owned("/preconditions/uid"),
            resource_version: owned("/preconditions/resourceVersion"),
            propagation,
            dry_run,
        })
    }

    /// Whether nothing shall be written.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }
}

pub async fn delete(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let options = Options::of(call)?;
    match delete_one(api, call.kind, &call.request.namespace, &call.request.name, &options).await? {
        Outcome::Kept { value, revision } => reply(call, StatusCode::OK, &value, revision),
        Outcome::Unwritten(object) => shaped(call, StatusCode::OK, object),
        Outcome::Removed(object) if call.kind.deleted == Deleted::Object => {
            shaped(call, StatusCode::OK, object)
        }
        Outcome::Removed(object) => Ok(respond::success(
            StatusCode::OK,
            call.kind,
            &call.request.name,
            text(&object, "/metadata/uid"),
        )),
    }
}

pub async fn delete_collection(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let options = Options::of(call)?;
    let filter = Filter::of(call.kind, &call.query)?;
    let mut after = None;
    loop {
        let page =
            select(api, call.kind, &call.request.namespace, &filter, None, after, COLLECTION_PAGE).await?;
        let Some(last) = page.entries.last() else { break };
        after = Some(last.key.to_string());
        for entry in &page.entries {
            let (namespace, name) = object::split_key(call.kind, &entry.key);
            match delete_one(api, call.kind, namespace, name, &options).await {
                // Somebody else was faster.
                Err(error) if error.code() == 404 => {}
                outcome => drop(outcome?),
            }
        }
    }
    Ok(respond::success(StatusCode::OK, call.kind, "", ""))
}

/// What a deletion has come to.
pub enum Outcome {
    /// Still there, with a deletion timestamp.
    Kept {
        value: bytes::Bytes,
        revision: u64,
    },
    Removed(Value),
    /// A dry run.
    Unwritten(Value),
}

pub async fn delete_one(
    api: &Api,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    options: &Options,
) -> Result<Outcome, ApiError> {
    let key = object::key(kind, namespace, name);
    let subject = Subject::new(kind, name);
    if kind.storage == "namespaces"
        && matches!(name, "default" | "kube-system" | "kube-public" | "kube-node-lease")
    {
        return Err(ApiError::forbidden(subject, "this namespace may not be deleted"));
    }
    let mut current = api.store.get(&key).await?;
    for _ in 0..MAX_TRIES {
        let entry = current.take().ok_or_else(|| ApiError::not_found(subject))?;
        let old = parse(kind, &entry)?;
        preconditions(subject, &old, options)?;
        let expect = Expect::Revision(entry.mod_revision);
        let (ops, outcome) = match decide(kind, &old, options, jiff::Timestamp::now()) {
            Step::Nothing => return Ok(Outcome::Kept { value: entry.value, revision: entry.mod_revision }),
            Step::Remove => (removal(kind, &key, &old, expect)?, Outcome::Removed(old)),
            Step::Mark(object) if options.dry_run => (Vec::new(), Outcome::Unwritten(object)),
            Step::Mark(object) => {
                let value = object::encode(kind, object);
                let put = Op::Put { key: key.as_str().into(), value: value.clone(), expect };
                (vec![put], Outcome::Kept { value, revision: 0 })
            }
        };
        if options.dry_run {
            return Ok(match outcome {
                Outcome::Removed(object) => Outcome::Unwritten(object),
                other => other,
            });
        }
        match api.commit(ops).await {
            Ok(revision) => {
                return Ok(match outcome {
                    Outcome::Kept { value, .. } => Outcome::Kept { value, revision },
                    other => other,
                });
            }
            // What beat us may not be visible yet: go on from what the store says is there.
            Err(StoreError::Conflict { actual, .. }) => current = actual,
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::modified(subject))
}

/// The writes that take an object away, and what it held.
pub fn removal(kind: &Kind, key: &str, object: &Value, expect: Expect) -> Result<Vec<Op>, ApiError> {
    let mut ops = vec![Op::Delete { key: key.into(), expect }];
    if kind.storage == "services" {
        ops.extend(claims::release(object)?);
    }
    Ok(ops)
}

/// 409 where another object, or another version of it, was meant.
pub fn preconditions(subject: Subject<'_>, object: &Value, options: &Options) -> Result<(), ApiError> {
    for (what, asked, pointer) in [
        ("UID", &options.uid, "/metadata/uid"),
        ("ResourceVersion", &options.resource_version, "/metadata/resourceVersion"),
    ] {
        let found = text(object, pointer);
        if let Some(asked) = asked.as_deref().filter(|asked| *asked != found) {
            let why = format!(
                "Precondition failed: {what} in precondition: {asked}, {what} in object meta: {found}"
            );
            return Err(ApiError::conflict(subject, &why));
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
enum Step {
    /// The deletion is under way already, and this request does not hasten it.
    Nothing,
    Remove,
    /// Written with a deletion timestamp: somebody has to finish.
    Mark(Value),
}

/// Whether a namespace waits for its content to go.
pub fn namespace_has_finalizers(kind: &Kind, object: &Value) -> bool {
    kind.storage == "namespaces"
        && object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

fn decide(kind: &Kind, old: &Value, options: &Options, now: jiff::Timestamp) -> Step {
    let finalizers = finalizers_after(old, options.propagation);
    let waits = !finalizers.is_empty() || namespace_has_finalizers(kind, old);
    let mut grace = grace_seconds(kind, old, options);
    let already = object::is_being_deleted(old);
    if already {
        let current =
            old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
        // Only a shorter grace, or a change of the finalizers, makes a difference.
        let hastens = options.grace_seconds.is_some_and(|_| grace < current);
        grace = if hastens { grace } else { current };
        if !hastens && (current > 0 || waits) && finalizers == object::finalizers(old) {
            return Step::Nothing;
        }
        if !waits && (grace == 0 || current == 0) && (hastens || current == 0) {
            return Step::Remove;
        }
    } else if !waits && grace == 0 {
        return Step::Remove;
    }
    Step::Mark(mark(kind, old, &finalizers, grace, now))
}

/// The seconds a pod gets to end; 0 for everything else, for pods that no node runs and for those that have
/// ended.
fn grace_seconds(kind: &Kind, object: &Value, options: &Options) -> i64 {
    let ended = matches!(text(object, "/status/phase"), "Failed" | "Succeeded");
    if kind.storage != "pods" || text(object, "/spec/nodeName").is_empty() || ended {
        return 0;
    }
    let own = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    options.grace_seconds.or(own).unwrap_or(DEFAULT_GRACE_SECONDS).max(0)
}

fn finalizers_after(object: &Value, propagation: Option<Propagation>) -> Vec<String> {
    let mut finalizers = object::finalizers(object);
    let Some(propagation) = propagation else { return finalizers };
    finalizers.retain(|name| name != ORPHAN && name != FOREGROUND);
    match propagation {
        Propagation::Orphan => finalizers.push(ORPHAN.into()),
        Propagation::Foreground => finalizers.push(FOREGROUND.into()),
        Propagation::Background => {}
    }
    finalizers
}

fn mark(kind: &Kind, old: &Value, finalizers: &[String], grace: i64, now: jiff::Timestamp) -> Value {
    let mut object = old.clone();
    let already = object::is_being_deleted(old);
    // The end of the grace counts from the first request.
    let begun = deletion_begun(old).unwrap_or(now);
    let end = begun.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(now);
    let generation = old.pointer("/metadata/generation").and_then(Value::as_i64);
    if let Some(metadata) = metadata_mut(&mut object) {
        metadata.insert("deletionTimestamp".into(), time::seconds(end).into());
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
        if finalizers.is_empty() {
            metadata.shift_remove("finalizers");
        } else {
            metadata.insert("finalizers".into(), finalizers.into());
        }
        if let Some(generation) = generation.filter(|generation| !already && *generation > 0) {
            metadata.insert("generation".into(), (generation + 1).into());
        }
    }
    if kind.storage == "namespaces" {
        object["status"]["phase"] = "Terminating".into();
    }
    object
}

fn deletion_begun(object: &Value) -> Option<jiff::Timestamp> {
    let end: jiff::Timestamp = text(object, "/metadata/deletionTimestamp").parse().ok()?;
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    end.checked_sub(jiff::SignedDuration::from_secs(grace)).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skerry_schema::find;

    use super::*;

    fn pods() -> &'static Kind {
        find("", "v1", "pods").unwrap()
    }

    fn at() -> jiff::Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn grace(seconds: i64) -> Options {
        Options { grace_seconds: Some(seconds), ..Options::default() }
    }

    fn running() -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 20},
            "status": {"phase": "Running"}})
    }

    #[test]
    fn a_running_pod_gets_its_grace_and_a_second_request_can_only_shorten_it() {
        let Step::Mark(marked) = decide(pods(), &running(), &Options::default(), at()) else {
            panic!("marked")
        };
        assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:20Z");
        assert_eq!(decide(pods(), &marked, &Options::default(), at()), Step::Nothing);
        assert_eq!(decide(pods(), &marked, &grace(60), at()), Step::Nothing);
        let Step::Mark(shorter) = decide(pods(), &marked, &grace(5), at()) else { panic!("shortened") };
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
        assert_eq!(decide(pods(), &shorter, &grace(0), at()), Step::Remove);
    }

    #[test]
    fn pods_without_a_node_and_ended_ones_go_at_once() {
        let mut pod = running();
        pod["spec"]["nodeName"] = Value::Null;
        assert_eq!(decide(pods(), &pod, &Options::default(), at()), Step::Remove);
        let mut pod = running();
        pod["status"]["phase"] = "Succeeded".into();
        assert_eq!(decide(pods(), &pod, &Options::default(), at()), Step::Remove);
    }

    #[test]
    fn finalizers_hold_an_object_back() {
        let mut pod = running();
        pod["metadata"]["finalizers"] = json!(["example.com/x"]);
        let Step::Mark(marked) = decide(pods(), &pod, &grace(0), at()) else { panic!("marked") };
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
        assert_eq!(decide(pods(), &marked, &grace(0), at()), Step::Nothing);
    }

    #[test]
    fn propagation_sets_its_finalizer() {
        let kind = find("apps", "v1", "deployments").unwrap();
        let object = json!({"metadata": {"name": "d", "generation": 3}});
        let options = Options { propagation: Some(Propagation::Foreground), ..Options::default() };
        let Step::Mark(marked) = decide(kind, &object, &options, at()) else { panic!("marked") };
        assert_eq!(marked["metadata"]["finalizers"], json!([FOREGROUND]));
        assert_eq!(marked["metadata"]["generation"], 4);
        assert_eq!(decide(kind, &object, &Options::default(), at()), Step::Remove);
    }

    #[test]
    fn a_namespace_waits_for_its_content() {
        let kind = find("", "v1", "namespaces").unwrap();
        let object = json!({"metadata": {"name": "x"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let Step::Mark(marked) = decide(kind, &object, &Options::default(), at()) else { panic!("marked") };
        assert_eq!(marked["status"]["phase"], "Terminating");
    }
}
