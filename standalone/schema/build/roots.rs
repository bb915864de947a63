//! The definitions that describe the kinds, as `skerry-schema-definitions` has written them down.

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

pub fn read(path: &str) -> Written {
    let file = File::open(path).unwrap_or_else(|error| panic!("open {path}: {error}"));
    serde_json::from_reader(GzDecoder::new(file)).unwrap_or_else(|error| panic!("read {path}: {error}"))
}
