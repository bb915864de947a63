//! What the documents say of tests is true of the sources.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use skerry_lab::paths;

/// Where tests are named: in code type, or the rows of the case table in quotes.
const DOCUMENT: &str = "docs/behaviours.md";

#[test]
fn every_test_that_the_documents_name_exists() {
    let root = paths::workspace();
    let text = fs::read_to_string(root.join(DOCUMENT)).unwrap();
    let tests = between(&text, '`').into_iter().map(|name| format!("fn {name}("));
    // Some are named where they are listed for a runner of our own.
    let listed = |name: &str| format!("\"{name}\"");
    let mut missing: BTreeSet<String> = tests.collect();
    let mut rows: BTreeSet<String> = between(&text, '"').into_iter().map(listed).collect();
    assert!(missing.len() > 50 && rows.len() > 30, "{} tests and {} rows", missing.len(), rows.len());
    let mut sources = Vec::new();
    collect(&root, "rs", &mut sources);
    for path in sources {
        let source = fs::read_to_string(&path).unwrap();
        missing.retain(|name| {
            let bare = name.trim_start_matches("fn ").trim_end_matches('(');
            !source.contains(name.as_str()) && !source.contains(&listed(bare))
        });
        rows.retain(|row| !source.contains(row.as_str()));
    }
    assert!(
        missing.is_empty() && rows.is_empty(),
        "{DOCUMENT} names what is not there: {missing:?} {rows:?}"
    );
}

#[test]
fn the_walkthrough_shows_each_row_that_is_tested_and_no_other() {
    let root = paths::workspace();
    let page = fs::read_to_string(root.join("docs/walkthrough.md")).unwrap();
    let tests = fs::read_to_string(root.join("tests/e2e/main.rs")).unwrap();
    let rows = |text: &str, mark: char| -> BTreeSet<String> {
        let names = between(text, mark).into_iter().filter(|name| name.starts_with("row_"));
        names.map(str::to_owned).collect()
    };
    let shown = page.lines().filter(|line| line.starts_with('`')).collect::<String>();
    assert_eq!(rows(&shown, '`'), rows(&tests, '"'), "docs/walkthrough.md says how it is written");
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let root = paths::workspace();
    let mut documents = Vec::new();
    collect(&root, "md", &mut documents);
    let mut broken = Vec::new();
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let file = target.split('#').next().unwrap_or_default();
            if !document.with_file_name(file).exists() {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

fn between(text: &str, mark: char) -> Vec<&str> {
    text.split(mark).skip(1).step_by(2).collect()
}

/// Files with this extension, below a folder.
fn collect(folder: &Path, extension: &str, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, extension, into);
        } else if path.extension().is_some_and(|found| found == extension) {
            into.push(path);
        }
    }
}
