use std::io::Read;

use super::*;

fn document(path: &str) -> Value {
    let mut json = String::new();
    flate2::read::GzDecoder::new(openapi_v3(path).unwrap().gz).read_to_string(&mut json).unwrap();
    serde_json::from_str(&json).unwrap()
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
