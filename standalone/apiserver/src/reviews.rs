//! Virtual resources: a client asks who it is and what it may do; component statuses.

use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    api::{Api, Call},
    authorize::{Decision, authorize, may_read_path},
    body,
    error::ApiError,
    object::text,
    pki::Subject,
    request::{Query, ResourceRequest, Verb},
    respond::{self, Reply},
};

/// The answer for a kind that is not stored; `None`: it is.
pub async fn answer(api: &Api, call: &Call) -> Option<Result<Reply, ApiError>> {
    let create = call.request.verb == Verb::Create;
    Some(match (call.kind.kind, create) {
        ("SelfSubjectReview", true) => self_subject(call),
        ("SelfSubjectAccessReview", true) => access(call, &call.subject),
        ("SubjectAccessReview" | "LocalSubjectAccessReview", true) => subject_access(call),
        ("SelfSubjectRulesReview", true) => rules(call),
        ("TokenReview", true) => token(call),
        ("Binding", true) => crate::subresources::bind(api, call).await,
        ("ComponentStatus", _) => component_status(call),
        _ => return None,
    })
}

fn read(call: &Call) -> Result<Value, ApiError> {
    Ok(body::read(call, &call.kind.api_version(), call.kind.kind)?.value)
}

/// The groups upstream's authenticator adds.
pub fn groups(subject: &Subject) -> Vec<String> {
    subject.organizations.iter().cloned().chain(["system:authenticated".to_owned()]).collect()
}

fn self_subject(call: &Call) -> Result<Reply, ApiError> {
    let mut review = read(call)?;
    review["status"] =
        json!({"userInfo": {"username": call.subject.common_name, "groups": groups(&call.subject)}});
    Ok(respond::value(StatusCode::CREATED, &review))
}

fn access(call: &Call, subject: &Subject) -> Result<Reply, ApiError> {
    let mut review = read(call)?;
    review["status"] = decide(subject, &review["spec"]);
    Ok(respond::value(StatusCode::CREATED, &review))
}

fn subject_access(call: &Call) -> Result<Reply, ApiError> {
    let review = read(call)?;
    let named = review["spec"]["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let groups: Vec<&str> = named.collect();
    access(call, &Subject::new(text(&review, "/spec/user"), &groups))
}

fn decide(subject: &Subject, spec: &Value) -> Value {
    let is_master = subject.organizations.iter().any(|group| group == "system:masters");
    let Some(request) = asked(&spec["resourceAttributes"]) else {
        // Paths that are no resources: discovery and health, which everyone who is known may read.
        let path = text(spec, "/nonResourceAttributes/path").trim_start_matches('/');
        let first = path.split('/').next().unwrap_or_default();
        let reads = text(spec, "/nonResourceAttributes/verb") == "get" && may_read_path(subject, first);
        return json!({"allowed": is_master || reads});
    };
    if text(spec, "/resourceAttributes/verb") == "impersonate" {
        return json!({"allowed": false, "reason": "this server does not support impersonation yet"});
    }
    if is_master {
        return json!({"allowed": true});
    }
    match authorize(subject, &request, &Query::default()) {
        Decision::Allow => json!({"allowed": true}),
        Decision::Deny => json!({"allowed": false}),
        Decision::When(_) => json!({"allowed": false, "reason": "depends on the object"}),
    }
}

fn asked(attributes: &Value) -> Option<ResourceRequest> {
    let verb = match text(attributes, "/verb") {
        "get" => Verb::Get,
        "list" => Verb::List,
        "watch" => Verb::Watch,
        "create" => Verb::Create,
        "update" => Verb::Update,
        "patch" => Verb::Patch,
        "deletecollection" => Verb::DeleteCollection,
        // An unknown verb, "*" too, is judged by the strictest one.
        _ if attributes.is_object() => Verb::Delete,
        _ => return None,
    };
    let field = |name: &str| attributes[name].as_str().unwrap_or_default().to_owned();
    Some(ResourceRequest {
        verb,
        group: field("group"),
        version: field("version"),
        namespace: field("namespace"),
        resource: field("resource"),
        name: field("name"),
        subresource: field("subresource"),
        rest: String::new(),
    })
}

fn rules(call: &Call) -> Result<Reply, ApiError> {
    let mut review = read(call)?;
    let is_master = call.subject.organizations.iter().any(|group| group == "system:masters");
    let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
    review["status"] = json!({
        "resourceRules": if is_master { all } else { json!([]) },
        "nonResourceRules": [{"verbs": [if is_master { "*" } else { "get" }], "nonResourceURLs": ["*"]}],
        "incomplete": !is_master,
    });
    Ok(respond::value(StatusCode::CREATED, &review))
}

/// Tokens are not issued, so none is valid.
fn token(call: &Call) -> Result<Reply, ApiError> {
    let mut review = read(call)?;
    review["status"] = json!({"authenticated": false, "user": {}, "error": "this server authenticates client certificates only"});
    Ok(respond::value(StatusCode::CREATED, &review))
}

fn component_status(call: &Call) -> Result<Reply, ApiError> {
    let status = |name: &str| {
        json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
            "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]})
    };
    match (call.request.verb, call.request.name.as_str()) {
        (Verb::Get, "etcd-0") => crate::api::shaped(call, StatusCode::OK, status("etcd-0")),
        (Verb::Get, _) => Err(ApiError::not_found(call.about())),
        (Verb::List, _) => {
            let list = json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": [status("etcd-0")]});
            Ok(respond::value(StatusCode::OK, &list))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}
