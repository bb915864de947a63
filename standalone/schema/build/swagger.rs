//! The OpenAPI v2 document (Swagger 2.0), made of the v3 documents: one for all groups, in the older form.

use serde_json::{Map, Value, json};

/// All schemas and paths of the v3 documents.
pub fn document(v3: &[Value]) -> Value {
    let (mut definitions, mut paths) = (Map::new(), Map::new());
    for document in v3 {
        for (name, found) in document["components"]["schemas"].as_object().into_iter().flatten() {
            let found = schema(found);
            match definitions.get_mut(name) {
                // One that several documents share is of a kind of each (DeleteOptions).
                Some(known) => join_kinds(known, &found),
                None => _ = definitions.insert(name.clone(), found),
            }
        }
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            paths.insert(path.clone(), path_item(item));
        }
    }
    definitions.sort_keys();
    paths.sort_keys();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer token",
        }},
        "security": [{"BearerToken": []}],
    })
}

fn join_kinds(known: &mut Value, other: &Value) {
    const KINDS: &str = "x-kubernetes-group-version-kind";
    let Some(kinds) = known.get_mut(KINDS).and_then(Value::as_array_mut) else { return };
    for kind in other[KINDS].as_array().into_iter().flatten() {
        if !kinds.contains(kind) {
            kinds.push(kind.clone());
        }
    }
}

/// Bounds of numbers, `nullable` and alternatives are left out: upstream's document has none of them.
fn schema(v3: &Value) -> Value {
    let mut v2 = Map::new();
    for (name, value) in v3.as_object().into_iter().flatten() {
        match name.as_str() {
            "$ref" => _ = v2.insert(name.clone(), reference(value)),
            // A reference that has a description beside it.
            "allOf" => _ = v2.insert("$ref".to_owned(), reference(&value[0]["$ref"])),
            "properties" => {
                let properties = value.as_object().into_iter().flatten();
                let properties: Map<String, Value> =
                    properties.map(|(name, property)| (name.clone(), schema(property))).collect();
                v2.insert(name.clone(), Value::Object(properties));
            }
            "items" => _ = v2.insert(name.clone(), schema(value)),
            "additionalProperties" if value.is_object() => _ = v2.insert(name.clone(), schema(value)),
            "x-kubernetes-int-or-string" => {
                v2.insert("type".to_owned(), json!("string"));
                v2.insert("format".to_owned(), json!("int-or-string"));
            }
            "nullable" | "anyOf" | "oneOf" | "minimum" | "maximum" => {}
            _ => _ = v2.insert(name.clone(), value.clone()),
        }
    }
    if v2.contains_key("$ref") {
        v2.shift_remove("default");
    }
    Value::Object(v2)
}

fn reference(v3: &Value) -> Value {
    let name = v3.as_str().and_then(|target| target.rsplit('/').next()).unwrap_or_default();
    json!(format!("#/definitions/{name}"))
}

fn path_item(v3: &Value) -> Value {
    let members = v3.as_object().into_iter().flatten().map(|(name, value)| {
        let value = if name == "parameters" { parameters(value).into() } else { operation(value) };
        (name.clone(), value)
    });
    Value::Object(members.collect())
}

fn parameters(v3: &Value) -> Vec<Value> {
    let all = v3.as_array().into_iter().flatten();
    all.map(|parameter| {
        let mut v2 = parameter.as_object().cloned().unwrap_or_default();
        let schema = v2.shift_remove("schema").unwrap_or_default();
        v2.extend(schema.as_object().cloned().unwrap_or_default());
        Value::Object(v2)
    })
    .collect()
}

fn operation(v3: &Value) -> Value {
    let mut parameters = parameters(&v3["parameters"]);
    let body = v3["requestBody"]["content"].as_object();
    let consumes: Vec<&String> = body.into_iter().flatten().map(|(media, _)| media).collect();
    if let Some((_, content)) = body.and_then(|body| body.iter().next()) {
        let required = v3["requestBody"]["required"] == true;
        parameters.push(
            json!({"name": "body", "in": "body", "required": required, "schema": schema(&content["schema"])}),
        );
    }
    let responses = v3["responses"].as_object().into_iter().flatten().map(|(code, response)| {
        let mut v2 = json!({"description": response["description"]});
        let content = response["content"].as_object().and_then(|content| content.values().next());
        if let Some(content) = content {
            v2["schema"] = schema(&content["schema"]);
        }
        (code.clone(), v2)
    });
    let responses: Map<String, Value> = responses.collect();
    let mut v2 = json!({
        "consumes": if consumes.is_empty() { json!(["*/*"]) } else { json!(consumes) },
        "produces": ["application/json", "application/yaml"],
        "schemes": ["https"],
        "operationId": v3["operationId"],
        "responses": responses,
        "x-kubernetes-action": v3["x-kubernetes-action"],
        "x-kubernetes-group-version-kind": v3["x-kubernetes-group-version-kind"],
    });
    if !parameters.is_empty() {
        v2["parameters"] = parameters.into();
    }
    v2
}
