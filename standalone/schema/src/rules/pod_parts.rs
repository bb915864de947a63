//! The parts of a pod's specification, each by itself. Each rule is upstream's (`pkg/apis/core/validation`).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use skerry_vocabulary::Quantity;

use super::{Errors, index, join, key, syntax};
use crate::FieldError;

type Object = Map<String, Value>;

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;

fn list<'a>(map: &'a Object, name: &str) -> &'a [Value] {
    map.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(map: &'a Object, name: &str) -> &'a str {
    map.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn is_true(map: &Object, name: &str) -> bool {
    map.get(name) == Some(&json!(true))
}

/// What holds between the parts of a pod's spec.
pub fn spec(map: &Object, path: &str, errors: &mut Errors) {
    let mut gates = BTreeSet::new();
    for (at, gate) in list(map, "schedulingGates").iter().enumerate() {
        if !gates.insert(gate["name"].as_str()) {
            let at = index(&join(path, "schedulingGates"), at);
            errors.push(FieldError::duplicate(at, &gate["name"]));
        }
    }
    let mut spread = BTreeSet::new();
    for (at, constraint) in list(map, "topologySpreadConstraints").iter().enumerate() {
        let pair =
            ["topologyKey", "whenUnsatisfiable"].map(|name| constraint[name].as_str().unwrap_or_default());
        if !spread.insert(pair) {
            let at = index(&join(path, "topologySpreadConstraints"), at);
            let shown = json!(format!("{{{}, {}}}", pair[0], pair[1]));
            errors.push(FieldError::duplicate(join(&at, "{topologyKey, whenUnsatisfiable}"), &shown));
        }
    }
    let mut claims = BTreeSet::new();
    for (at, claim) in list(map, "resourceClaims").iter().enumerate() {
        if !claims.insert(claim["name"].as_str()) {
            let at = join(&index(&join(path, "resourceClaims"), at), "name");
            errors.push(FieldError::duplicate(at, &claim["name"]));
        }
    }
    if let Some(security) = map.get("securityContext").and_then(Value::as_object) {
        sysctls(map, security, &join(path, "securityContext.sysctls"), errors);
    }
    for name in ["initContainers", "containers", "ephemeralContainers"] {
        for (at, container) in list(map, name).iter().enumerate() {
            let path = index(&join(path, name), at);
            let security = &container["securityContext"];
            if security["procMount"] == "Unmasked" && map.get("hostUsers") != Some(&json!(false)) {
                let at = join(&path, "securityContext.procMount");
                errors.push(FieldError::invalid(
                    at,
                    &json!("Unmasked"),
                    "`hostUsers` must be false to use `Unmasked`",
                ));
            }
            for (at, mount) in container["volumeMounts"].as_array().into_iter().flatten().enumerate() {
                if mount["mountPropagation"] == "Bidirectional" && security["privileged"] != true {
                    let at = join(&index(&join(&path, "volumeMounts"), at), "mountPropagation");
                    let detail = "Bidirectional mount propagation is available only to privileged containers";
                    errors.push(FieldError::forbidden(at, detail));
                }
            }
        }
    }
    ephemeral(map, path, errors);
}

fn sysctls(spec: &Object, security: &Object, path: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (at, sysctl) in list(security, "sysctls").iter().enumerate() {
        let (at, name) = (join(&index(path, at), "name"), sysctl["name"].as_str().unwrap_or_default());
        if name.is_empty() {
            continue;
        }
        if let Some(complaint) = syntax::sysctl(name) {
            errors.push(FieldError::invalid(&at, &sysctl["name"], &complaint));
            continue;
        }
        // Both ways to write one.
        let name = name.replace('/', ".");
        if !seen.insert(name.clone()) {
            errors.push(FieldError::duplicate(&at, &sysctl["name"]));
        }
        let is_ipc = ["kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue."]
            .iter()
            .any(|part| name.starts_with(part));
        for (field, applies) in [("hostNetwork", name.starts_with("net.")), ("hostIPC", is_ipc)] {
            if applies && is_true(spec, field) {
                let detail = format!("may not be specified when '{field}' is true");
                errors.push(FieldError::invalid(&at, &sysctl["name"], &detail));
            }
        }
    }
}

fn ephemeral(map: &Object, path: &str, errors: &mut Errors) {
    let names: BTreeSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|name| list(map, name))
        .filter_map(|container| container["name"].as_str())
        .collect();
    for (at, container) in list(map, "ephemeralContainers").iter().enumerate() {
        let path = index(&join(path, "ephemeralContainers"), at);
        let target = container["targetContainerName"].as_str().unwrap_or_default();
        if !target.is_empty() && !names.contains(target) {
            errors.push(FieldError::not_found(join(&path, "targetContainerName"), &json!(target)));
        }
        for name in ["ports", "resources", "lifecycle"] {
            let is_set = match container.get(name) {
                Some(Value::Array(items)) => !items.is_empty(),
                Some(Value::Object(map)) => !map.is_empty(),
                _ => false,
            };
            if is_set {
                errors.push(FieldError::forbidden(
                    join(&path, name),
                    "cannot be set for an Ephemeral Container",
                ));
            }
        }
    }
}

/// A new pod as a whole.
pub fn pod(map: &Object, old: Option<&Object>, errors: &mut Errors) {
    if let Some(cost) = map.get("metadata").and_then(|metadata| metadata["annotations"].get(DELETION_COST))
        && cost.as_str().is_none_or(|text| text.parse::<i32>().is_err() || text.starts_with('+'))
    {
        let at = key("metadata.annotations", DELETION_COST);
        errors.push(FieldError::invalid(at, cost, "must be a 32bit integer"));
    }
    let (None, Some(spec)) = (old, map.get("spec").and_then(Value::as_object)) else { return };
    if !list(spec, "ephemeralContainers").is_empty() {
        errors.push(FieldError::forbidden("spec.ephemeralContainers", "cannot be set on create"));
    }
    if !list(spec, "schedulingGates").is_empty() && !text(spec, "nodeName").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden("spec.nodeName", detail));
    }
}

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

pub fn env_from(map: &Object, path: &str, errors: &mut Errors) {
    let set = ["configMapRef", "secretRef"].iter().filter(|name| map.contains_key(**name)).count();
    let empty = json!("");
    if set == 0 {
        let detail = "must specify one of: `configMapRef` or `secretRef`";
        errors.push(FieldError::invalid(path, &empty, detail));
    } else if set > 1 {
        errors.push(FieldError::invalid(
            path,
            &empty,
            "may not have more than one field specified at a time",
        ));
    }
}

pub fn mount(map: &Object, path: &str, errors: &mut Errors) {
    if !text(map, "subPath").is_empty() && !text(map, "subPathExpr").is_empty() {
        let detail = "subPathExpr and subPath are mutually exclusive";
        errors.push(FieldError::invalid(join(path, "subPathExpr"), &map["subPathExpr"], detail));
    }
    if matches!(text(map, "recursiveReadOnly"), "Enabled" | "IfPossible") {
        let at = join(path, "recursiveReadOnly");
        if !is_true(map, "readOnly") {
            errors.push(FieldError::forbidden(&at, "may only be specified when readOnly is true"));
        }
        if !matches!(text(map, "mountPropagation"), "" | "None") {
            let detail = "may only be specified when mountPropagation is None or not specified";
            errors.push(FieldError::forbidden(at, detail));
        }
    }
}

pub fn security(map: &Object, path: &str, errors: &mut Errors) {
    if map.get("allowPrivilegeEscalation") != Some(&json!(false)) {
        return;
    }
    if is_true(map, "privileged") {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.push(FieldError::invalid(path, &json!(map), detail));
    }
    let added = map.get("capabilities").and_then(|capabilities| capabilities["add"].as_array());
    if added.into_iter().flatten().any(|name| name == "CAP_SYS_ADMIN") {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        errors.push(FieldError::invalid(path, &json!(map), detail));
    }
}

pub fn seccomp(map: &Object, path: &str, errors: &mut Errors) {
    let (at, file) = (join(path, "localhostProfile"), map.get("localhostProfile"));
    match (text(map, "type") == "Localhost", file) {
        (true, None) => errors.push(FieldError::required(at, "must be set when seccomp type is Localhost")),
        (false, Some(file)) => {
            errors.push(FieldError::invalid(at, file, "can only be set when seccomp type is Localhost"));
        }
        _ => {}
    }
}

pub fn node_term(map: &Object, path: &str, errors: &mut Errors) {
    for (at, field) in list(map, "matchFields").iter().enumerate() {
        let path = index(&join(path, "matchFields"), at);
        if field["key"] != "metadata.name" {
            let detail = "not a valid field selector key";
            errors.push(FieldError::invalid(join(&path, "key"), &field["key"], detail));
        }
        if !matches!(field["operator"].as_str(), Some("In" | "NotIn")) {
            let detail = "not a valid selector operator";
            errors.push(FieldError::invalid(join(&path, "operator"), &field["operator"], detail));
        }
        if field["values"].as_array().map_or(0, Vec::len) != 1 {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(FieldError::required(join(&path, "values"), detail));
        }
    }
    for (at, expression) in list(map, "matchExpressions").iter().enumerate() {
        let path = join(&index(&join(path, "matchExpressions"), at), "values");
        for (at, value) in expression["values"].as_array().into_iter().flatten().enumerate() {
            if let Some(complaint) = value.as_str().and_then(syntax::label_value) {
                errors.push(FieldError::invalid(index(&path, at), value, &complaint));
            }
        }
    }
}

pub fn pod_term(map: &Object, path: &str, errors: &mut Errors) {
    for name in ["matchLabelKeys", "mismatchLabelKeys"] {
        if !list(map, name).is_empty() && !map.contains_key("labelSelector") {
            let detail = "must not be specified when labelSelector is not set";
            errors.push(FieldError::forbidden(join(path, name), detail));
        }
        for (at, key) in list(map, name).iter().enumerate() {
            if let Some(complaint) = key.as_str().and_then(syntax::qualified_name) {
                errors.push(FieldError::invalid(index(&join(path, name), at), key, &complaint));
            }
        }
    }
    for (at, key) in list(map, "matchLabelKeys").iter().enumerate() {
        if list(map, "mismatchLabelKeys").contains(key) {
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.push(FieldError::invalid(index(&join(path, "matchLabelKeys"), at), key, detail));
        }
    }
}

pub fn spread(map: &Object, path: &str, errors: &mut Errors) {
    if map.contains_key("minDomains") && text(map, "whenUnsatisfiable") != "DoNotSchedule" {
        let detail = format!(
            "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
            text(map, "whenUnsatisfiable")
        );
        errors.push(FieldError::invalid(join(path, "minDomains"), &map["minDomains"], &detail));
    }
}

pub fn dns(map: &Object, path: &str, errors: &mut Errors) {
    let (servers, searches) = (list(map, "nameservers"), list(map, "searches"));
    if servers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.push(FieldError::invalid(join(path, "nameservers"), &map["nameservers"], &detail));
    }
    let at = join(path, "searches");
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.push(FieldError::invalid(&at, &map["searches"], &detail));
    }
    let names: Vec<&str> = searches.iter().filter_map(Value::as_str).collect();
    if names.join(" ").len() > MAX_SEARCH_CHARACTERS {
        let detail = format!(
            "must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list"
        );
        errors.push(FieldError::invalid(&at, &map["searches"], &detail));
    }
    for (number, name) in names.iter().enumerate().filter(|(_, name)| **name != ".") {
        // Names of services have underscores, and a dot at the end is allowed.
        let plain = name.strip_suffix('.').unwrap_or(name).replace('_', "-");
        if let Some(complaint) = syntax::subdomain(plain.trim_start_matches('-')) {
            errors.push(FieldError::invalid(index(&at, number), &json!(name), &complaint));
        }
    }
    for (number, option) in list(map, "options").iter().enumerate() {
        if option["name"].as_str().is_none_or(str::is_empty) {
            errors.push(FieldError::required(index(&join(path, "options"), number), "must not be empty"));
        }
    }
}

pub fn header(map: &Object, path: &str, errors: &mut Errors) {
    let name = text(map, "name");
    if !name.is_empty() && !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for \
             validation is '[-A-Za-z0-9]+')";
        errors.push(FieldError::invalid(join(path, "name"), &json!(name), detail));
    }
}

pub fn projection(map: &Object, path: &str, errors: &mut Errors) {
    if map.is_empty() {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
    for source in map.keys().skip(1) {
        errors.push(FieldError::forbidden(join(path, source), "may not specify more than 1 volume type"));
    }
}

pub fn downward_file(map: &Object, path: &str, errors: &mut Errors) {
    match (map.get("fieldRef"), map.get("resourceFieldRef")) {
        (Some(_), Some(_)) => {
            let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.push(FieldError::invalid(path, &json!("resource"), detail));
        }
        (None, None) => {
            let detail = "one of fieldRef and resourceFieldRef is required";
            errors.push(FieldError::required(path, detail));
        }
        _ => {}
    }
}

/// The names of what a container asks for, and what can't be shared.
pub fn resources(map: &Object, path: &str, errors: &mut Errors) {
    let none = Map::new();
    let of = |side: &str| map.get(side).and_then(Value::as_object).unwrap_or(&none);
    let amount = |value: &Value| value.as_str().and_then(|text| Quantity::parse(text).ok());
    let (limits, requests) = (of("limits"), of("requests"));
    for side in ["limits", "requests"] {
        for (name, value) in of(side) {
            let at = key(&join(path, side), name);
            let is_native = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
                || name.starts_with("hugepages-");
            if !name.contains('/') && !is_native {
                errors.push(FieldError::invalid(
                    &at,
                    &json!(name),
                    "must be a standard resource for containers",
                ));
            }
            if name.contains('/') && amount(value).is_some_and(|amount| amount.nano() % 1_000_000_000 != 0) {
                errors.push(FieldError::invalid(at, value, "must be an integer"));
            }
        }
    }
    for (name, request) in
        requests.iter().filter(|(name, _)| name.contains('/') || name.starts_with("hugepages-"))
    {
        match limits.get(name) {
            None => {
                let at = join(path, "limits");
                errors.push(FieldError::required(at, "Limit must be set for non overcommitable resources"));
            }
            Some(limit) if amount(limit) != amount(request) => {
                let shown = amount(limit).map(|amount| amount.canonical()).unwrap_or_default();
                let detail = format!("must be equal to {name} limit of {shown}");
                errors.push(FieldError::invalid(join(path, "requests"), request, &detail));
            }
            Some(_) => {}
        }
    }
}
