//! One OpenAPI v3 document a group-version: schemas with descriptions and merge rules, paths with their
//! operations. And of all of them the one v2 document, as JSON and as protobuf.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::Write as _,
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    gnostic,
    operation::{operation, operation_id, path_parameter, pretty},
    roots::Root,
    rules::Rules,
    shapes::Merges,
    swagger,
    table::{Deleted, GROUP_ORDER, KINDS, Kind, Subresource},
};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

struct Source<'a> {
    definitions: &'a BTreeMap<String, Value>,
    roots: &'a [Root],
    merges: &'a Merges,
    rules: &'a Rules,
}

/// Writes `openapi-N.gz` and `openapi.rs`, a table of (path, bytes, hash), and the same of version 2.
pub fn generate(
    definitions: &BTreeMap<String, Value>,
    roots: &[Root],
    merges: &Merges,
    rules: &Rules,
    out: &Path,
) {
    let source = Source { definitions, roots, merges, rules };
    let mut table = String::from("static DOCUMENTS: &[Document] = &[\n");
    let mut documents = Vec::new();
    for group in GROUP_ORDER {
        let versions: BTreeSet<&str> =
            KINDS.iter().filter(|kind| kind.group == *group).map(|kind| kind.version).collect();
        for version in versions {
            let path =
                if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            let document = source.document(group, version, &path);
            let file = format!("openapi-{}.gz", documents.len());
            let _ = writeln!(table, "{},", written(out, &file, &path, document.to_string().as_bytes()));
            documents.push(document);
        }
    }
    table.push_str("];\n");
    let whole = swagger::document(&documents);
    for (name, file, bytes) in [
        ("JSON_V2", "openapi-v2-json.gz", whole.to_string().into_bytes()),
        ("PROTOBUF_V2", "openapi-v2-protobuf.gz", gnostic::document(&whole)),
    ] {
        let _ = writeln!(table, "static {name}: Document = {};", written(out, file, "", &bytes));
    }
    fs::write(out.join("openapi.rs"), table).expect("write openapi.rs");
}

/// Writes a document, packed; the expression that has it.
fn written(out: &Path, file: &str, path: &str, bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    });
    let mut gz = GzEncoder::new(Vec::new(), Compression::best());
    gz.write_all(bytes).expect("gzip into memory");
    fs::write(out.join(file), gz.finish().expect("gzip into memory")).expect("write the document");
    format!(
        "Document {{ path: {path:?}, hash: {hash:?}, gz: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}\")) }}"
    )
}

impl Source<'_> {
    fn document(&self, group: &str, version: &str, root: &str) -> Value {
        let kinds: Vec<&Kind> =
            KINDS.iter().filter(|kind| kind.group == group && kind.version == version).collect();
        let mut paths = Map::new();
        let mut needed: BTreeSet<String> = BTreeSet::new();
        let mut schemas = Map::new();
        needed.extend(["DeleteOptions", "Status", "ListMeta"].map(|name| format!("{META}.{name}")));
        for kind in &kinds {
            let definition = self.definition(kind.group, kind.version, kind.kind);
            needed.insert(definition.clone());
            if kind.verbs.contains(&"list") {
                let list = list_schema(kind, &definition);
                schemas.insert(format!("{definition}List"), list);
            }
            for sub in kind.subresources.iter().filter(|sub| !sub.group.is_empty() || sub.kind == "Binding") {
                needed.insert(self.sub_definition(kind, sub));
            }
            self.kind_paths(kind, &definition, root, &mut paths);
        }
        let mut queue: Vec<String> = needed.iter().cloned().collect();
        while let Some(name) = queue.pop() {
            let schema = &self.definitions[&name];
            let mut found = BTreeSet::new();
            references(schema, &mut found);
            queue.extend(found.iter().filter(|name| !needed.contains(*name)).cloned());
            needed.extend(found);
            schemas.insert(name.clone(), self.schema(&name, schema, group, version));
        }
        schemas.sort_keys();
        paths.sort_keys();
        let security = json!({"BearerToken": {
            "type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer token",
        }});
        json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": "v1.36.0"},
            "paths": paths,
            "components": {"schemas": schemas, "securitySchemes": security},
        })
    }

    fn definition(&self, group: &str, version: &str, kind: &str) -> String {
        self.roots
            .iter()
            .find(|root| root.group == group && root.version == version && root.kind == kind)
            .unwrap_or_else(|| panic!("no definition for {group}/{version} {kind}"))
            .definition
            .clone()
    }

    fn sub_definition(&self, kind: &Kind, sub: &Subresource) -> String {
        if sub.group.is_empty() {
            self.definition(kind.group, kind.version, sub.kind)
        } else {
            self.definition(sub.group, sub.version, sub.kind)
        }
    }

    /// A definition with what the published document adds: merge rules, the kind it is, enums, defaults.
    fn schema(&self, name: &str, schema: &Value, group: &str, version: &str) -> Value {
        let mut schema = schema.clone();
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            for (field, property) in properties.iter_mut() {
                let Some(property) = property.as_object_mut() else { continue };
                let key = (name.to_owned(), field.clone());
                if let Some(merge) = self.merges.get(&key) {
                    let mut put =
                        |name: &str, value: Value| property.insert(format!("x-kubernetes-{name}"), value);
                    if let Some(strategy) = &merge.strategy {
                        put("patch-strategy", json!(strategy));
                    }
                    if let Some(merge_key) = &merge.key {
                        put("patch-merge-key", json!(merge_key));
                    }
                    if let Some(list) = &merge.list {
                        put("list-type", json!(list));
                    }
                    if !merge.list_keys.is_empty() {
                        put("list-map-keys", json!(merge.list_keys));
                    }
                    if let Some(map) = &merge.map {
                        put("map-type", json!(map));
                    }
                }
                if let Some(rule) = self.rules.get(&key) {
                    if let Some(default) = &rule.default {
                        let value = serde_json::from_str(default).expect("rules.txt was checked");
                        property.insert("default".into(), value);
                    }
                    if !rule.values.is_empty() && property.get("type") == Some(&json!("string")) {
                        property.insert("enum".into(), json!(rule.values));
                    }
                }
            }
        }
        let gvks: Vec<Value> = if name == format!("{META}.DeleteOptions") {
            vec![gvk(group, version, "DeleteOptions")]
        } else {
            self.roots
                .iter()
                .filter(|root| root.definition == name)
                .map(|root| gvk(&root.group, &root.version, &root.kind))
                .collect()
        };
        if !gvks.is_empty() {
            schema["x-kubernetes-group-version-kind"] = json!(gvks);
        }
        schema
    }

    fn kind_paths(&self, kind: &Kind, definition: &str, root: &str, paths: &mut Map<String, Value>) {
        let base = if kind.namespaced {
            format!("/{root}/namespaces/{{namespace}}/{}", kind.plural)
        } else {
            format!("/{root}/{}", kind.plural)
        };
        let mut common = vec![pretty()];
        if kind.namespaced {
            common.push(path_parameter("namespace", "the namespace"));
        }
        let own = (kind.group, kind.version, kind.kind);
        let list = format!("{definition}List");
        let mut collection = Map::new();
        for (verb, method, action) in [
            ("list", "get", "list"),
            ("create", "post", "post"),
            ("deletecollection", "delete", "deletecollection"),
        ] {
            if kind.verbs.contains(&verb) {
                let (body, answer) = match verb {
                    "list" => (None, list.as_str()),
                    "create" => (Some(definition), definition),
                    _ => (
                        Some("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"),
                        "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
                    ),
                };
                let id = operation_id(verb, kind, "", "");
                collection.insert(method.into(), operation(&id, action, own, body, answer));
            }
        }
        collection.insert("parameters".into(), json!(common));
        paths.insert(base.clone(), Value::Object(collection));
        if kind.namespaced && kind.verbs.contains(&"list") {
            let id =
                format!("{}ForAllNamespaces", operation_id("list", kind, "", "").replace("Namespaced", ""));
            let get = operation(&id, "list", own, None, &list);
            paths.insert(format!("/{root}/{}", kind.plural), json!({"get": get, "parameters": [pretty()]}));
        }
        common.push(path_parameter("name", "the object's name"));
        let item = format!("{base}/{{name}}");
        if kind.verbs.contains(&"get") {
            let entry = self.item(kind, "", own, definition, kind.verbs, &common);
            paths.insert(item.clone(), entry);
        }
        for sub in kind.subresources {
            let group_version =
                if sub.group.is_empty() { (kind.group, kind.version) } else { (sub.group, sub.version) };
            let gvk = (group_version.0, group_version.1, sub.kind);
            let connect = sub.kind.ends_with("Options");
            let definition = if connect { String::new() } else { self.sub_definition(kind, sub) };
            let entry = self.item(kind, sub.name, gvk, &definition, sub.verbs, &common);
            paths.insert(format!("{item}/{}", sub.name), entry);
        }
    }

    /// The path of one object (`sub` is empty) or of one of its subresources.
    fn item(
        &self,
        kind: &Kind,
        sub: &str,
        gvk: (&str, &str, &str),
        definition: &str,
        verbs: &[&str],
        common: &[Value],
    ) -> Value {
        let mut entry = Map::new();
        for verb in verbs {
            let (method, action) = match *verb {
                "get" => ("get", "get"),
                "update" => ("put", "put"),
                "patch" => ("patch", "patch"),
                "delete" => ("delete", "delete"),
                "create" if !sub.is_empty() => ("post", "post"),
                _ => continue,
            };
            let action = if definition.is_empty() { "connect" } else { action };
            let delete = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
            let (body, answer) = match method {
                _ if definition.is_empty() => (None, ""),
                "get" => (None, definition),
                "delete" if kind.deleted == Deleted::Object => (Some(delete), definition),
                "delete" => (Some(delete), "io.k8s.apimachinery.pkg.apis.meta.v1.Status"),
                "patch" => (Some("patch"), definition),
                _ => (Some(definition), definition),
            };
            let id = operation_id(if action == "connect" { "connect" } else { verb }, kind, sub, method);
            entry.insert(method.into(), operation(&id, action, gvk, body, answer));
        }
        entry.insert("parameters".into(), json!(common));
        Value::Object(entry)
    }
}

pub fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                found.insert(target.rsplit('/').next().unwrap_or_default().to_owned());
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

pub fn reference(definition: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{definition}")})
}

fn list_schema(kind: &Kind, definition: &str) -> Value {
    let list = format!("{}List", kind.kind);
    json!({
        "description": format!("{list} is a list of {} objects.", kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of this list's schema."},
            "items": {"type": "array", "description": "The objects.", "items": {"allOf": [reference(definition)], "default": {}}},
            "kind": {"type": "string", "description": "The kind of this list."},
            "metadata": {"allOf": [reference(&format!("{META}.ListMeta"))], "default": {}, "description": "The list's metadata."},
        },
        "x-kubernetes-group-version-kind": [gvk(kind.group, kind.version, &list)],
    })
}
