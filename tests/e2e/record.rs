//! The page of the walkthrough: what the rows typed and what was printed, written where
//! `SKERRY_WRITE_DOCS` is set.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use skerry_tests::{manifest, stable};

const PAGE: &str = "../docs/walkthrough.md";
/// Longer outputs are cut.
const MAX_LINES: usize = 12;
const ROW: &str = "row_";

const INTRODUCTION: &str = "# The walkthrough

What a person does first with a cluster, typed by the real kubectl on a server (`master`) and its workers, and what was
printed. Each section is an end-to-end test, whose name stands below its title; the tests hold more than is
shown here: what speaks to nodes is also typed with kubectl 1.20. Addresses, ages, times and names made at random are
replaced by stand-ins, and long outputs are cut.

Written by the tests themselves; do not edit it by hand. A row that is run alone renews its own section:

```sh
SKERRY_WRITE_DOCS=1 cargo xtask test --only skerry-tests/e2e -- row_
```
";

/// One command and what it printed.
struct Typed {
    prompt: String,
    line: String,
    printed: String,
}

thread_local! {
    /// Of the row that this thread runs.
    static TYPED: RefCell<Option<Vec<Typed>>> = const { RefCell::new(None) };
}

/// Sections by the names of their rows.
static SECTIONS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

fn is_wanted() -> bool {
    std::env::var_os("SKERRY_WRITE_DOCS").is_some()
}

/// Runs a case; what a row types meanwhile becomes its section, if it succeeds.
pub fn case<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    if !is_wanted() || !name.starts_with(ROW) {
        return work();
    }
    TYPED.set(Some(Vec::new()));
    let outcome = work();
    let typed = TYPED.take().unwrap_or_default();
    if outcome.is_ok() {
        let mut sections = SECTIONS.lock().unwrap_or_else(PoisonError::into_inner);
        sections.insert(name.to_owned(), section(name, &typed));
    }
    outcome
}

/// Keeps a command of the row that this thread runs. One that is typed again at once, until it shows what is
/// waited for, stands there once.
pub fn typed(prompt: &str, line: &str, printed: &str) {
    TYPED.with_borrow_mut(|typed| {
        let Some(typed) = typed else { return };
        typed.pop_if(|last| last.prompt == prompt && last.line == line);
        let (prompt, line) = (prompt.to_owned(), line.to_owned());
        typed.push(Typed { prompt, line, printed: printed.to_owned() });
    });
}

/// The lines that have one of these words in them, with what is left out marked.
pub fn lines_with(printed: &str, words: &[&str]) -> String {
    let (mut text, mut is_left_out) = (String::new(), false);
    for line in printed.lines() {
        let is_wanted = words.iter().any(|words| words.lines().any(|words| line.contains(words)));
        match (is_wanted, is_left_out) {
            (true, _) => {
                text += line;
                text.push('\n');
            }
            (false, false) => text += "…\n",
            (false, true) => {}
        }
        is_left_out = !is_wanted;
    }
    text
}

/// Writes the sections of the rows that ran; those of others stay as they are.
///
/// # Errors
/// When the page can't be written.
pub fn write<'a>(names: impl Iterator<Item = &'a str>) -> Result<()> {
    let sections = SECTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    if sections.is_empty() {
        return Ok(());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let before = fs::read_to_string(&path).unwrap_or_default();
    let kept = |name: &str| {
        let is_its = |section: &&str| section.contains(&format!("\n`{name}`\n"));
        before.split("\n## ").skip(1).find(is_its).map(|section| format!("\n## {section}"))
    };
    let mut rows: Vec<&str> = names.filter(|name| name.starts_with(ROW)).collect();
    rows.sort_by_key(|name| name.get(..ROW.len() + 2).map(str::to_owned));
    let mut page = INTRODUCTION.to_owned();
    for name in rows {
        let Some(section) = sections.get(name).cloned().or_else(|| kept(name)) else { continue };
        page += section.trim_end();
        page.push('\n');
    }
    fs::write(&path, page).with_context(|| format!("write {}", path.display()))
}

fn section(name: &str, typed: &[Typed]) -> String {
    let words = name.trim_start_matches(ROW).replace('_', " ");
    let (number, title) = words.split_once(' ').unwrap_or(("", &words));
    let number = number.trim_start_matches('0');
    let mut text = format!("\n## {number}: {title}\n\n`{name}`\n");
    if typed.is_empty() {
        return text;
    }
    text += "\n```console\n";
    let manifests = manifest("");
    let plain = |text: &str| stable(&text.replace(&manifests, ""));
    let mut shown = BTreeSet::new();
    for Typed { prompt, line, printed } in typed {
        let (line, printed) = (plain(line), plain(printed));
        // What shows nothing new stands there once.
        if !shown.insert((line.clone(), printed.clone())) {
            continue;
        }
        let _ = writeln!(text, "{prompt}$ {}", line.trim_end());
        let lines: Vec<&str> = printed.lines().map(str::trim_end).collect();
        for line in lines.iter().take(MAX_LINES) {
            let _ = writeln!(text, "{line}");
        }
        if lines.len() > MAX_LINES {
            let _ = writeln!(text, "… {} more lines", lines.len() - MAX_LINES);
        }
    }
    text + "```\n"
}
