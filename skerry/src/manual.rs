//! `docs/options.md`: what can be said to Skerry, made from the code. Only a test reads and writes it.

mod annotations;

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use clap::{Arg, ArgAction, Command, CommandFactory};

use crate::args::Cli;
use annotations::{ANNOTATIONS, OTHER_NAMES};

/// The subcommands that run things.
const DESCRIBED: [&str; 5] = ["up", "server", "node", "proxy", "lb"];

fn document() -> String {
    let mut text = String::from(
        "# Annotations and flags\n\n\
         Made from the code; do not edit by hand (`SKERRY_WRITE_DOCS=1 cargo test --release -p skerry manual` writes it again).\n\n\
         ## Annotations\n\n\
         An annotation that can't be read is taken as absent and told: by an Event of its object, or, by `skerry lb`, in its log. A Pod's is\n\
         refused: it gets no network until it can be read.\n\n\
         | annotation | of | what it means | values | default |\n| --- | --- | --- | --- | --- |\n",
    );
    for row in ANNOTATIONS {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} |",
            row.name, row.object, row.meaning, row.values, row.default
        );
    }
    let command = Cli::command();
    for name in DESCRIBED {
        let found = command.find_subcommand(name).unwrap_or_else(|| panic!("skerry {name} is gone"));
        let about = found.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = write!(
            text,
            "\n## skerry {name}\n\n{about}.\n\n| flag | what it means | default |\n| --- | --- | --- |\n"
        );
        for arg in found.get_arguments().filter(|arg| arg.get_id() != "help") {
            let _ = writeln!(text, "| `{}` | {} | {} |", flag(arg), meaning(arg, found), default(arg));
        }
    }
    text
}

/// As it is typed.
fn flag(arg: &Arg) -> String {
    let long = arg.get_long().unwrap_or_else(|| panic!("{} has no long form", arg.get_id()));
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    if !takes_value {
        return format!("--{long}");
    }
    let choices: Vec<String> =
        arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let value = match choices.is_empty() {
        false => choices.join("\\|"),
        true => {
            let names = arg.get_value_names().unwrap_or_default();
            names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ").replace('|', "\\|")
        }
    };
    format!("--{long} {value}")
}

fn meaning(arg: &Arg, command: &Command) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    assert!(
        !help.is_empty(),
        "skerry {}: --{} says nothing of what it means",
        command.get_name(),
        arg.get_id()
    );
    let mut text = help.replace('|', "\\|");
    for value in arg.get_possible_values() {
        if let Some(help) = value.get_help() {
            let _ = write!(text, "; `{}`: {help}", value.get_name());
        }
    }
    let ways = [
        (arg.is_required_set(), "must be given".to_owned()),
        (
            matches!(arg.get_action(), ArgAction::Append) && arg.get_value_delimiter().is_none(),
            "may be repeated".to_owned(),
        ),
        (arg.get_value_delimiter().is_some(), "several with commas between them".to_owned()),
    ];
    for (_, way) in ways.into_iter().filter(|(is_so, _)| *is_so) {
        let _ = write!(text, "; {way}");
    }
    text
}

fn default(arg: &Arg) -> String {
    let values: Vec<String> =
        arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    match (values.is_empty(), is_switch) {
        (false, false) => values.join(", "),
        _ => "–".to_owned(),
    }
}

const TREE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

#[test]
fn the_page_of_options_is_what_the_code_says() {
    let path = Path::new(TREE).join("docs/options.md");
    if std::env::var_os("SKERRY_WRITE_DOCS").is_some() {
        std::fs::write(&path, document()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        written,
        document(),
        "docs/options.md is not what the code says: SKERRY_WRITE_DOCS=1 writes it"
    );
}

/// Whatever of our names stands in the sources, in quotes, is described, and nothing else is.
#[test]
fn every_annotation_in_the_sources_is_described() {
    let mut found = BTreeSet::new();
    look_through(Path::new(TREE), &mut found);
    let described: BTreeSet<String> = ANNOTATIONS
        .iter()
        .map(|row| row.name)
        .chain(OTHER_NAMES.iter().map(|(name, _)| *name))
        .map(str::to_owned)
        .collect();
    assert_eq!(found, described, "left: in the sources; right: in skerry/src/manual/annotations.rs");
}

fn look_through(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let is_of_tests = ["target", "tests", "benches", "lab", "manual", "tests.rs"].contains(&&*name);
        if is_of_tests || name.starts_with('.') {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            look_through(&path, found);
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            // What a unit test at the end of a file says is no name of ours.
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            found.extend(text.split('"').filter(|part| is_name(part)).map(str::to_owned));
        }
    }
}

/// `skerry.io/…`, or below it.
fn is_name(text: &str) -> bool {
    let Some((domain, name)) = text.split_once('/') else { return false };
    let is_ours = domain == "skerry.io" || domain.ends_with(".skerry.io");
    is_ours && !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}
