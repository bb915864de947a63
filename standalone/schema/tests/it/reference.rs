//! Our tables against the published reference data, where that is at hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use serde_json::Value;
use skerry_schema::{
    Deleted, Format, Kind, ListType, METRICS_GROUP, Shape, Ty, decode, find_kind, kinds, split_api_version,
};

/// `$SKERRY_KUBERNETES_REFERENCE`, or `shared/kubernetes` beside the workspace: see docs/testing.md,
/// "Kubernetes' own documents".
fn reference(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SKERRY_KUBERNETES_REFERENCE").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/kubernetes"),
        PathBuf::from,
    );
    if folder.is_dir() {
        return Some(folder);
    }
    skerry_lab::skipped(test, &format!("no Kubernetes reference: {} is absent", folder.display()));
    None
}

fn openapi(folder: &std::path::Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("openapi-v2.json")).unwrap()).unwrap()
}

/// `apps.v1.Deployment.json` → (`apps/v1`, `Deployment`).
fn kind_of_fixture(stem: &str) -> Option<(String, String)> {
    let parts: Vec<&str> = stem.trim_end_matches(".after_roundtrip").split('.').collect();
    let (kind, rest) = parts.split_last()?;
    let (version, group) = rest.split_last()?;
    let group = group.join(".");
    let api_version = if group == "core" { (*version).to_owned() } else { format!("{group}/{version}") };
    Some((api_version, (*kind).to_owned()))
}

/// Fields of the fixtures (made with 1.35) that 1.36 does not have: part of a kind's name, part of the
/// complaint.
const GONE: &[(&str, &str)] = &[("", "spec.workloadRef"), ("CSINode", "\"status\"")];

#[test]
fn every_fixture_of_a_served_kind_decodes_whole() {
    let Some(folder) = reference("every_fixture_of_a_served_kind_decodes_whole") else { return };
    let mut seen = BTreeSet::new();
    let mut faults = Vec::new();
    for entry in fs::read_dir(folder.join("golden")).unwrap() {
        let path = entry.unwrap().path();
        let (Some(stem), Some(extension)) = (path.file_stem(), path.extension()) else { continue };
        let format = match extension.to_str() {
            Some("json") => Format::Json,
            Some("yaml") => Format::Yaml,
            _ => continue,
        };
        let Some((api_version, kind)) = kind_of_fixture(stem.to_str().unwrap()) else { continue };
        let (group, version) = split_api_version(&api_version);
        if find_kind(&api_version, &kind).is_none() || Shape::of(group, version, &kind).is_none() {
            continue;
        }
        match decode(&api_version, &kind, &fs::read(&path).unwrap(), format) {
            Ok(decoded)
                if decoded
                    .strict
                    .iter()
                    .all(|fault| GONE.iter().any(|(k, f)| kind.contains(k) && fault.contains(f))) =>
            {
                seen.insert((api_version, kind));
            }
            Ok(decoded) => faults.push(format!("{}: {:?}", path.display(), decoded.strict)),
            Err(error) => faults.push(format!("{}: {error}", path.display())),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(seen.len() >= 50, "{}", seen.len());
}

/// What discovery calls the document's actions.
fn verbs(actions: &BTreeSet<String>) -> BTreeSet<&'static str> {
    let mut verbs = BTreeSet::new();
    for action in actions {
        match action.as_str() {
            "post" => verbs.insert("create"),
            "put" => verbs.insert("update"),
            "patch" => verbs.insert("patch"),
            "get" => verbs.insert("get"),
            "list" => verbs.insert("list"),
            "delete" => verbs.insert("delete"),
            "deletecollection" => verbs.insert("deletecollection"),
            _ => false,
        };
    }
    verbs
}

/// Subresources that nobody serves yet: they are not listed in discovery either.
const NOT_SERVED: &[&str] = &["serviceaccounts/token"];

/// All kinds but those of the metrics API, which upstream serves beside the document.
fn published_kinds() -> impl Iterator<Item = &'static Kind> {
    kinds().iter().filter(|kind| kind.group != METRICS_GROUP)
}

#[test]
fn what_a_deletion_answers_is_what_the_published_document_says() {
    let Some(folder) = reference("what_a_deletion_answers_is_what_the_published_document_says") else {
        return;
    };
    let document = openapi(&folder);
    for kind in published_kinds().filter(|kind| kind.has_verb("delete")) {
        let root = if kind.group.is_empty() { "/api" } else { "/apis" };
        let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let path = format!("{root}/{}{scope}/{}/{{name}}", kind.api_version(), kind.plural);
        let answer = &document["paths"][&path]["delete"]["responses"]["200"]["schema"]["$ref"];
        let name = answer.as_str().unwrap_or_default().rsplit('.').next();
        let expected = if kind.deleted == Deleted::Object { kind.kind } else { "Status" };
        assert_eq!(name, Some(expected), "{path}");
    }
}

#[test]
fn kinds_and_paths_are_those_of_the_published_document() {
    let Some(folder) = reference("kinds_and_paths_are_those_of_the_published_document") else { return };
    let mut published: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    let mut gvks = BTreeMap::new();
    for (path, item) in openapi(&folder)["paths"].as_object().unwrap() {
        let Some(rest) = path
            .strip_prefix("/api/")
            .map(|rest| format!("/{rest}"))
            .or_else(|| path.strip_prefix("/apis/").map(str::to_owned))
        else {
            continue;
        };
        if rest.contains("/watch/")
            || rest.contains("alpha")
            || rest.contains("beta")
            || rest.contains("{path}")
        {
            continue;
        }
        let parts: Vec<&str> = rest.trim_matches('/').split('/').collect();
        let (group_version, rest) =
            if path.starts_with("/api/") { parts.split_at(1) } else { parts.split_at(parts.len().min(2)) };
        let rest: Vec<&str> = match rest {
            ["namespaces", "{namespace}", rest @ ..] => rest.to_vec(),
            rest => rest.to_vec(),
        };
        let resource = match rest.as_slice() {
            [plural] | [plural, "{name}"] => (*plural).to_owned(),
            [plural, "{name}", sub] => format!("{plural}/{sub}"),
            _ => continue,
        };
        if NOT_SERVED.contains(&resource.as_str()) {
            continue;
        }
        for operation in item.as_object().unwrap().values() {
            let Some(action) = operation.get("x-kubernetes-action").and_then(Value::as_str) else { continue };
            let key = (group_version.join("/"), resource.clone());
            published.entry(key.clone()).or_default().insert(action.to_owned());
            gvks.insert(key, operation["x-kubernetes-group-version-kind"].clone());
        }
    }
    let mut ours = BTreeMap::new();
    for kind in published_kinds() {
        ours.insert(
            (kind.api_version(), kind.plural.to_owned()),
            (kind.kind, kind.group, kind.version, kind.verbs),
        );
        for sub in kind.subresources {
            let (group, version) =
                if sub.group.is_empty() { (kind.group, kind.version) } else { (sub.group, sub.version) };
            let name = format!("{}/{}", kind.plural, sub.name);
            ours.insert((kind.api_version(), name), (sub.kind, group, version, sub.verbs));
        }
    }
    let names = |keys: Vec<&(String, String)>| keys.into_iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(ours.keys().collect()), names(published.keys().collect()));
    for (key, (kind, group, version, verbs_ours)) in ours {
        let gvk = &gvks[&key];
        assert_eq!(
            (kind, group, version),
            (gvk["kind"].as_str().unwrap(), gvk["group"].as_str().unwrap(), gvk["version"].as_str().unwrap()),
            "{key:?}"
        );
        if !published[&key].contains("connect") {
            let verbs_ours: BTreeSet<&str> =
                verbs_ours.iter().copied().filter(|verb| *verb != "watch").collect();
            assert_eq!(verbs(&published[&key]), verbs_ours, "{key:?}");
        }
    }
}

/// All shapes that the served kinds reach, by name.
fn shapes() -> BTreeMap<&'static str, Shape> {
    let mut found = BTreeMap::new();
    let mut queue: Vec<Shape> =
        published_kinds().filter_map(|kind| Shape::of(kind.group, kind.version, kind.kind)).collect();
    while let Some(shape) = queue.pop() {
        if found.insert(shape.name(), shape).is_none() {
            for field in shape.fields() {
                let mut ty = field.ty();
                while let Some(inner) = ty.inner() {
                    ty = inner;
                }
                queue.extend(ty.shape());
            }
        }
    }
    found
}

#[test]
fn fields_types_and_merge_rules_are_those_of_the_published_document() {
    let Some(folder) = reference("fields_types_and_merge_rules_are_those_of_the_published_document") else {
        return;
    };
    let document = openapi(&folder);
    let mut checked = 0;
    for (name, shape) in shapes() {
        let Some(definition) = document["definitions"].get(name) else {
            panic!("{name} is not in the published document")
        };
        let none = serde_json::Map::new();
        let properties = definition["properties"].as_object().unwrap_or(&none);
        let ours: BTreeSet<&str> = shape.fields().iter().map(|field| field.name()).collect();
        let theirs: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
        assert_eq!(ours, theirs, "{name}");
        for field in shape.fields() {
            let property = &properties[field.name()];
            let text = |key: &str| property[format!("x-kubernetes-{key}").as_str()].as_str();
            let strategy = text("patch-strategy").unwrap_or_default();
            let place = format!("{name}.{}", field.name());
            assert_eq!(field.merges(), strategy.split(',').any(|word| word == "merge"), "{place}");
            assert_eq!(field.retains_keys(), strategy.split(',').any(|word| word == "retainKeys"), "{place}");
            assert_eq!(field.merge_key(), text("patch-merge-key"), "{place}");
            let list = match (text("list-type"), text("map-type")) {
                (Some("atomic"), _) | (None, Some("atomic")) => ListType::Atomic,
                (Some("set"), _) => ListType::Set,
                (Some("map"), _) => ListType::Map,
                _ => ListType::Unset,
            };
            assert_eq!(field.list_type(), list, "{place}");
            let keys: Vec<&str> = property["x-kubernetes-list-map-keys"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            assert_eq!(field.list_keys(), keys, "{place}");
            let wanted = match (property["type"].as_str(), property["format"].as_str()) {
                (Some("integer"), Some("int32")) => Some(Ty::Int32),
                (Some("integer"), _) => Some(Ty::Int64),
                (Some("boolean"), _) => Some(Ty::Bool),
                (Some("string"), Some("byte")) => Some(Ty::Bytes),
                (Some("string"), None) => Some(Ty::String),
                (Some("number"), _) => Some(Ty::Number),
                _ => None,
            };
            if let Some(wanted) = wanted {
                assert_eq!(field.ty(), wanted, "{place}");
            }
            checked += 1;
        }
    }
    assert!(checked > 2000, "{checked}");
}

/// They are written down, since deriving them compiles for longer than all the rest of the crate.
#[test]
fn the_definitions_are_of_the_k8s_openapi_that_is_used() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock")).unwrap();
    let (_, rest) = lock.split_once("name = \"k8s-openapi\"\nversion = \"").unwrap();
    let used = rest.split_once('"').unwrap().0;
    assert_eq!(
        env!("SKERRY_DEFINITIONS_OF"),
        used,
        "run `cargo xtask definitions` and look at the difference"
    );
}
