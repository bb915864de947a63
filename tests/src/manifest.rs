use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

/// The path of a manifest in `tests/manifests`, as it is typed behind `kubectl apply -f`.
pub fn manifest(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests").join(name).display().to_string()
}

/// The manifest's text with some of its words exchanged: cases run side by side, each in a namespace of its
/// own.
///
/// # Errors
/// When a word is not in it.
pub fn manifest_with(name: &str, exchanged: &[(&str, &str)]) -> Result<String> {
    let mut text = fs::read_to_string(manifest(name)).with_context(|| format!("read {name}"))?;
    for (from, to) in exchanged {
        ensure!(text.contains(from), "{from:?} is not in {name}");
        text = text.replace(from, to);
    }
    Ok(text)
}
