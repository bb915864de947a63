//! The definitions that describe the kinds, as `skerry-schema-definitions` has written them down, and those
//! of the metrics API, which is not part of Kubernetes' own document.

use std::{collections::BTreeMap, fs::File};

use flate2::read::GzDecoder;
use serde_json::Value;

/// A kind (group, version, name) and the name of the definition that describes it.
#[derive(serde::Deserialize)]
pub struct Root {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub definition: String,
}

#[derive(serde::Deserialize)]
pub struct Written {
    /// Version of the crate that they were derived from.
    #[serde(rename = "k8s-openapi")]
    pub k8s_openapi: String,
    pub roots: Vec<Root>,
    /// All definitions that the served kinds reach, by name.
    pub definitions: BTreeMap<String, Value>,
}

/// What is added to [`Written`].
#[derive(serde::Deserialize)]
struct Added {
    roots: Vec<Root>,
    definitions: BTreeMap<String, Value>,
}

/// All that was written down, and what stands in `added`.
pub fn read(path: &str, added: &str) -> Written {
    let open = |path: &str| File::open(path).unwrap_or_else(|error| panic!("open {path}: {error}"));
    let mut written: Written = serde_json::from_reader(GzDecoder::new(open(path)))
        .unwrap_or_else(|error| panic!("read {path}: {error}"));
    let added: Added =
        serde_json::from_reader(open(added)).unwrap_or_else(|error| panic!("read {added}: {error}"));
    written.roots.extend(added.roots);
    written.definitions.extend(added.definitions);
    written
}
