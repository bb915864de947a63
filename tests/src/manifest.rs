use std::path::Path;

/// The path of a manifest in `tests/manifests`, as it is typed behind `kubectl apply -f`.
pub fn manifest(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests").join(name).display().to_string()
}
