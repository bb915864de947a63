//! The crate's own files: which may use which.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// From the bottom to the top: a folder may use itself and those before it.
const FOLDERS: [&str; 4] = ["packets", "state", "steps", "hooks"];

/// `folder/file` → the files that it uses.
type Uses = BTreeMap<String, BTreeSet<String>>;

const OWN: &str = "the folder's own";

fn uses() -> Uses {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut uses = Uses::new();
    for folder in FOLDERS {
        let files = fs::read_dir(src.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        let own = src.join(format!("{folder}.rs"));
        for path in files.chain([own.clone()]) {
            // What a folder itself is asked for is in the file beside it.
            let file = if path == own { OWN } else { path.file_stem().unwrap().to_str().unwrap() };
            let text = fs::read_to_string(&path).unwrap();
            let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            let used = code.match_indices("crate::").flat_map(|(at, root)| leaves(&code[at + root.len()..]));
            uses.insert(format!("{folder}/{file}"), used.collect());
        }
    }
    let files: Vec<String> = uses.keys().cloned().collect();
    let file = |path: String| if files.contains(&path) { path } else { format!("{}/{OWN}", folder(&path)) };
    uses.into_iter().map(|(user, used)| (user, used.into_iter().map(file).collect())).collect()
}

/// The files that a use tree names: `a::{b::C, d::{E, F}}` is `a/b` and `a/d`.
fn leaves(tree: &str) -> Vec<String> {
    let (mut found, mut path, mut depths, mut word) = (Vec::new(), Vec::new(), Vec::new(), String::new());
    for letter in tree.chars() {
        match letter {
            letter if letter.is_alphanumeric() || letter == '_' => word.push(letter),
            ':' if !word.is_empty() => path.push(std::mem::take(&mut word)),
            ':' | ' ' => {}
            '{' => depths.push(path.len()),
            _ => {
                path.push(std::mem::take(&mut word));
                found.push(path.iter().take(2).cloned().collect::<Vec<_>>().join("/"));
                match (letter, depths.last()) {
                    (',', Some(depth)) => path.truncate(*depth),
                    ('}', Some(_)) if depths.len() > 1 => {
                        depths.pop();
                        path.truncate(*depths.last().unwrap());
                    }
                    _ => break,
                }
            }
        }
    }
    found.retain(|path| path.contains('/') && !path.ends_with('/'));
    found
}

fn folder(file: &str) -> &str {
    file.split('/').next().unwrap()
}

#[test]
fn use_trees_are_read() {
    assert_eq!(leaves("a::b::C;"), ["a/b"]);
    assert_eq!(leaves("{a::{b::C, d::{E, F}}, g::h};x"), ["a/b", "a/d", "a/d", "g/h"]);
    assert!(uses()["hooks/uplink"].contains("steps/service"), "{:?}", uses());
}

#[test]
fn no_folder_uses_one_above_it() {
    let rank = |file: &str| FOLDERS.iter().position(|name| *name == folder(file)).unwrap();
    for (user, used) in uses() {
        for file in used {
            assert!(rank(&file) <= rank(&user), "{user} uses {file}");
        }
    }
}

#[test]
fn no_two_files_use_each_other() {
    let mut uses = uses();
    // Files that use none of those that are left can go; what can't is a circle.
    while let Some(file) = uses
        .iter()
        .find(|(user, used)| used.iter().all(|file| file == *user || !uses.contains_key(file)))
        .map(|(user, _)| user.clone())
    {
        uses.remove(&file);
    }
    assert!(uses.is_empty(), "a circle: {uses:?}");
}
