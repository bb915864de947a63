//! Makes the shape tables and the OpenAPI documents out of Kubernetes' schemas and this crate's own tables.

mod gnostic;
mod openapi;
mod operation;
mod roots;
mod rules;
mod shapes;
mod swagger;

#[path = "../src/kinds/table.rs"]
#[expect(dead_code, reason = "the library reads more of the table than the build does")]
mod table;

use std::{env, fs, path::PathBuf};

use roots::Written;

fn main() {
    for path in ["build", "src/kinds/table.rs", "src/shape/merge.txt", "src/shape/rules.txt"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let Written { k8s_openapi, definitions, roots } =
        roots::read("build/definitions.json.gz", "build/metrics.json");
    println!("cargo::rustc-env=SKERRY_DEFINITIONS_OF={k8s_openapi}");
    let merge = shapes::merge_rules(&read("src/shape/merge.txt"));
    let rules = rules::parse(&read("src/shape/rules.txt"), &definitions);
    fs::write(out.join("shapes.rs"), shapes::generate(&definitions, &roots, &merge, &rules))
        .expect("write shapes.rs");
    openapi::generate(&definitions, &roots, &merge, &rules, &out);
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("read {path}: {error}"))
}
