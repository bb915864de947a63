use std::io::Read;

use super::*;

fn document(path: &str) -> Value {
    serde_json::from_slice(&unpacked(openapi_v3(path).unwrap())).unwrap()
}

fn unpacked(document: Document) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(document.gz).read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn kubectl_finds_what_it_asks_a_document_for() {
    let apps = document("apis/apps/v1");
    let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let gvk = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    assert_eq!(patch["x-kubernetes-group-version-kind"], gvk);
    let names: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"fieldValidation") && names.contains(&"dryRun"), "{names:?}");
    let schemas = &apps["components"]["schemas"];
    assert_eq!(schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"], json!([gvk]));
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
}

#[test]
fn every_reference_of_every_document_leads_somewhere() {
    fn walk(value: &Value, schemas: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                    let name = target.strip_prefix("#/components/schemas/").unwrap();
                    assert!(schemas.get(name).is_some(), "{name}");
                }
                map.values().for_each(|value| walk(value, schemas));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, schemas)),
            _ => {}
        }
    }
    for entry in DOCUMENTS {
        let document = document(entry.path);
        walk(&document, &document["components"]["schemas"]);
        assert!(openapi_v3_index().contains(&format!("/openapi/v3/{}?hash={}", entry.path, entry.hash)));
    }
}

#[test]
fn version_2_has_every_kind_and_leads_nowhere_else() {
    let whole: Value = serde_json::from_slice(&unpacked(openapi_v2(FormV2::Json))).unwrap();
    fn walk(value: &Value, definitions: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                    let name = target.strip_prefix("#/definitions/").unwrap();
                    assert!(definitions.get(name).is_some(), "{name}");
                    assert!(map.get("type").is_none(), "clients refuse a reference with a type: {map:?}");
                }
                map.values().for_each(|value| walk(value, definitions));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, definitions)),
            _ => {}
        }
    }
    // A field may be called `$ref`: its value is no text then.
    walk(&whole, &whole["definitions"]);
    let definitions = whole["definitions"].as_object().unwrap();
    for kind in crate::kinds() {
        let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let is_of = |definition: &Value| {
            definition["x-kubernetes-group-version-kind"].as_array().is_some_and(|kinds| kinds.contains(&gvk))
        };
        assert!(definitions.values().any(is_of), "{gvk}");
    }
    let port = &definitions["io.k8s.api.core.v1.ServicePort"]["properties"]["targetPort"];
    assert_eq!(port["$ref"], "#/definitions/io.k8s.apimachinery.pkg.util.intstr.IntOrString");
    let either = &definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
    assert_eq!((&either["type"], &either["format"]), (&json!("string"), &json!("int-or-string")));
    let options = &definitions["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"];
    assert!(options["x-kubernetes-group-version-kind"].as_array().unwrap().len() > 10);
}

/// The fields of a message: number, and the bytes of those that have a length.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        match tag & 7 {
            0 => {
                varint(&mut bytes);
                found.push((tag >> 3, &[] as &[u8]));
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                let (field, rest) = bytes.split_at(length);
                bytes = rest;
                found.push((tag >> 3, field));
            }
            other => panic!("wire type {other}"),
        }
    }
    found
}

fn field(message: &[u8], number: u64) -> &[u8] {
    fields(message).into_iter().find(|(found, _)| *found == number).unwrap().1
}

/// The value of a map's entry.
fn entry<'a>(map: &'a [u8], number: u64, name: &str) -> &'a [u8] {
    let entries = fields(map).into_iter().filter(|(found, _)| *found == number);
    let mut named = entries.filter(|(_, entry)| field(entry, 1) == name.as_bytes());
    field(named.next().unwrap_or_else(|| panic!("no {name}")).1, 2)
}

#[test]
fn the_protobuf_form_says_what_the_json_says() {
    let json: Value = serde_json::from_slice(&unpacked(openapi_v2(FormV2::Json))).unwrap();
    let bytes = unpacked(openapi_v2(FormV2::Protobuf));
    assert_eq!(field(&bytes, 1), b"2.0");
    let definitions = field(&bytes, 9);
    assert_eq!(fields(definitions).len(), json["definitions"].as_object().unwrap().len());
    assert_eq!(fields(field(&bytes, 8)).len(), json["paths"].as_object().unwrap().len());
    // PodSpec.containers: type, items and the key that patches merge by.
    let spec = entry(definitions, 1, "io.k8s.api.core.v1.PodSpec");
    let containers = entry(field(spec, 25), 1, "containers");
    assert_eq!(field(field(containers, 22), 1), b"array");
    let item = field(field(containers, 23), 1);
    assert_eq!(field(item, 1), b"#/definitions/io.k8s.api.core.v1.Container");
    let key = entry(containers, 31, "x-kubernetes-patch-merge-key");
    assert_eq!(field(key, 2), b"\"name\"");
    let kinds = entry(entry(definitions, 1, "io.k8s.api.core.v1.Pod"), 31, "x-kubernetes-group-version-kind");
    assert_eq!(
        serde_json::from_slice::<Value>(field(kinds, 2)).unwrap(),
        json!([{"group": "", "version": "v1", "kind": "Pod"}])
    );
}
