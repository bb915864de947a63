//! The v2 document as protobuf messages, of the definitions that Kubernetes' clients read it by
//! (`openapi.v2`, gnostic's `OpenAPIv2.proto`). The numbers are those of its fields.

use serde_json::{Map, Value};

pub fn document(json: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &json["swagger"]);
    let mut info = Message::default();
    info.text(1, &json["info"]["title"]);
    info.text(2, &json["info"]["version"]);
    out.message(2, info);
    let mut paths = Message::default();
    for (path, item) in members(&json["paths"]) {
        paths.named(2, path, path_item(item));
    }
    out.message(8, paths);
    out.message(9, schemas(&json["definitions"]));
    for requirement in items(&json["security"]) {
        let mut message = Message::default();
        for (name, _) in members(requirement) {
            message.named(1, name, Message::default());
        }
        out.message(12, message);
    }
    let mut security = Message::default();
    for (name, definition) in members(&json["securityDefinitions"]) {
        let mut key = Message::default();
        for (number, field) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
            key.text(number, &definition[field]);
        }
        let mut item = Message::default();
        item.message(2, key);
        security.named(1, name, item);
    }
    out.message(13, security);
    out.0
}

/// `Definitions` and `Properties`: repeated `NamedSchema`.
fn schemas(json: &Value) -> Message {
    let mut out = Message::default();
    for (name, found) in members(json) {
        out.named(1, name, schema(found));
    }
    out
}

fn schema(json: &Value) -> Message {
    let mut out = Message::default();
    for (number, field) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description")] {
        out.text(number, &json[field]);
    }
    if let Some(default) = json.get("default") {
        out.message(5, any(default));
    }
    out.flag(16, &json["uniqueItems"]);
    for field in items(&json["required"]) {
        out.text(19, field);
    }
    for value in items(&json["enum"]) {
        out.message(20, any(value));
    }
    match &json["additionalProperties"] {
        Value::Null => {}
        found => {
            let mut item = Message::default();
            match found {
                Value::Bool(_) => item.flag(2, found),
                found => item.message(1, schema(found)),
            }
            out.message(21, item);
        }
    }
    if let Some(kind) = json.get("type") {
        let mut types = Message::default();
        types.text(1, kind);
        out.message(22, types);
    }
    if let Some(found) = json.get("items") {
        let mut of_items = Message::default();
        of_items.message(1, schema(found));
        out.message(23, of_items);
    }
    if let Some(properties) = json.get("properties") {
        out.message(25, schemas(properties));
    }
    extensions(&mut out, 31, json);
    out
}

fn path_item(json: &Value) -> Message {
    let mut out = Message::default();
    for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(found) = json.get(method) {
            out.message(number, operation(found));
        }
    }
    for parameter in items(&json["parameters"]) {
        out.message(9, parameters_item(parameter));
    }
    out
}

fn operation(json: &Value) -> Message {
    let mut out = Message::default();
    out.text(5, &json["operationId"]);
    for (number, field) in [(6, "produces"), (7, "consumes")] {
        for media in items(&json[field]) {
            out.text(number, media);
        }
    }
    for parameter in items(&json["parameters"]) {
        out.message(8, parameters_item(parameter));
    }
    let mut responses = Message::default();
    for (code, found) in members(&json["responses"]) {
        let mut response = Message::default();
        response.text(1, &found["description"]);
        if let Some(found) = found.get("schema") {
            let mut item = Message::default();
            item.message(1, schema(found));
            response.message(2, item);
        }
        let mut value = Message::default();
        value.message(1, response);
        responses.named(1, code, value);
    }
    out.message(9, responses);
    for scheme in items(&json["schemes"]) {
        out.text(10, scheme);
    }
    extensions(&mut out, 13, json);
    out
}

/// `ParametersItem` → `Parameter` → `BodyParameter`, or `NonBodyParameter` → one by where it stands.
fn parameters_item(json: &Value) -> Message {
    let mut parameter = Message::default();
    if json["in"] == "body" {
        let mut body = Message::default();
        body.text(1, &json["description"]);
        body.text(2, &json["name"]);
        body.text(3, &json["in"]);
        body.flag(4, &json["required"]);
        body.message(5, schema(&json["schema"]));
        parameter.message(1, body);
    } else {
        let is_query = json["in"] == "query";
        let mut own = Message::default();
        own.flag(1, &json["required"]);
        own.text(2, &json["in"]);
        own.text(3, &json["description"]);
        own.text(4, &json["name"]);
        own.text(if is_query { 6 } else { 5 }, &json["type"]);
        own.flag(if is_query { 20 } else { 19 }, &json["uniqueItems"]);
        let mut of_kind = Message::default();
        of_kind.message(if is_query { 3 } else { 4 }, own);
        parameter.message(2, of_kind);
    }
    let mut item = Message::default();
    item.message(1, parameter);
    item
}

fn extensions(out: &mut Message, number: u32, json: &Value) {
    for (name, value) in members(json).filter(|(name, _)| name.starts_with("x-")) {
        out.named(number, name, any(value));
    }
}

/// `Any`: its second field is YAML, of which JSON is a part.
fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.bytes(2, value.to_string().as_bytes());
    out
}

fn members(json: &Value) -> impl Iterator<Item = (&String, &Value)> {
    json.as_object().into_iter().flat_map(Map::iter)
}

fn items(json: &Value) -> impl Iterator<Item = &Value> {
    json.as_array().into_iter().flatten()
}

/// A message's fields, written one behind the other (protobuf's encoding, "Message Structure").
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.varint(u64::from(number << 3 | 2));
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// What is no text is not there.
    fn text(&mut self, number: u32, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(number, text.as_bytes());
        }
    }

    fn flag(&mut self, number: u32, value: &Value) {
        if *value == Value::Bool(true) {
            self.varint(u64::from(number << 3));
            self.varint(1);
        }
    }

    fn message(&mut self, number: u32, message: Message) {
        self.bytes(number, &message.0);
    }

    /// A message of a name and a value, as which maps are written.
    fn named(&mut self, number: u32, name: &str, value: Message) {
        let mut named = Message::default();
        named.bytes(1, name.as_bytes());
        named.message(2, value);
        self.message(number, named);
    }
}
