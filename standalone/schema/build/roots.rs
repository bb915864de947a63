//! Which Rust type of k8s-openapi describes which kind.

use std::collections::BTreeMap;

use k8s_openapi::schemars::{Schema, generate::SchemaSettings};
use serde_json::Value;

/// A kind (group, version, name) and the name of the definition that describes it.
pub struct Root {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub definition: String,
}

/// All definitions that the served kinds reach, by name, and the kinds themselves.
pub fn definitions() -> (BTreeMap<String, Value>, Vec<Root>) {
    let mut generator = SchemaSettings::openapi3().into_generator();
    let mut roots = Vec::new();
    macro_rules! roots {
        ($($group:literal $version:literal $kind:literal $path:path;)*) => {{
            $(
                let schema = generator.subschema_for::<$path>();
                roots.push(Root { group: $group, version: $version, kind: $kind, definition: reference(&schema) });
            )*
        }};
    }
    include!("typed.in");
    generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta>();
    (generator.take_definitions(true).into_iter().collect(), roots)
}

fn reference(schema: &Schema) -> String {
    let target = schema.get("$ref").and_then(Value::as_str).expect("a kind is described by a reference");
    target.rsplit('/').next().unwrap_or_default().to_owned()
}
