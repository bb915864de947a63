//! Writes `standalone/schema/build/definitions.json.gz`: the schemas of every kind that is served, with
//! descriptions, as k8s-openapi derives them from Kubernetes' OpenAPI document. `cargo xtask definitions`
//! runs it when k8s-openapi changes.
//!
//! A program of its own, since deriving them compiles for longer than the API server does.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
};

use flate2::{Compression, write::GzEncoder};
use k8s_openapi::schemars::{Schema, generate::SchemaSettings};
use serde_json::{Value, json};

/// Takes k8s-openapi's version, which the file says of itself, and writes the file to standard output.
fn main() -> io::Result<()> {
    let version = std::env::args().nth(1).ok_or_else(|| io::Error::other("say k8s-openapi's version"))?;
    let mut generator = SchemaSettings::openapi3().into_generator();
    let mut roots = Vec::new();
    macro_rules! roots {
        ($($group:literal $version:literal $kind:literal $path:path;)*) => {{
            $(
                let schema = generator.subschema_for::<$path>();
                let definition = reference(&schema);
                roots.push(json!({"group": $group, "version": $version, "kind": $kind, "definition": definition}));
            )*
        }};
    }
    include!("../../build/typed.in");
    generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta>();
    let definitions: BTreeMap<String, Value> = generator.take_definitions(true).into_iter().collect();
    let whole = json!({"k8s-openapi": version, "roots": roots, "definitions": definitions});
    let mut gz = GzEncoder::new(io::stdout().lock(), Compression::best());
    gz.write_all(whole.to_string().as_bytes())?;
    gz.finish()?.flush()
}

/// The definition's name out of `{"$ref": "#/…/NAME"}`.
fn reference(schema: &Schema) -> String {
    let target = schema.get("$ref").and_then(Value::as_str).unwrap_or_default();
    target.rsplit('/').next().unwrap_or_default().to_owned()
}
