//! The table as people read it.

use super::table::{ROWS, Scope, When};

/// The list for people, as `docs/not-carried-out.md` has it.
pub fn document() -> String {
    let mut text = String::from(
        "# What is accepted and not carried out\n\n\
         The API server takes these objects and fields, and nobody acts on them yet. Who creates one, or changes it, is told so by\n\
         a `Warning:` header, which kubectl prints. Made from the table in `standalone/schema/src/unheeded/table.rs`; do not edit\n\
         by hand (`SKERRY_WRITE_DOCS=1 cargo test --release -p skerry-schema` writes it again).\n\n\
         Refused instead, since a pod would run less protected than it asks for: `hostUsers: false`, and AppArmor profiles other\n\
         than `Unconfined`.\n\n\
         | kind | field | what happens |\n| --- | --- | --- |\n",
    );
    for row in ROWS {
        let kind = match row.scope {
            Scope::Kind("", name) => name.to_owned(),
            Scope::Kind(group, name) => format!("{name}.{group}"),
            Scope::Pods => "pods and pod templates".to_owned(),
        };
        let place = row.subresource.map(|name| format!(" ({name})")).unwrap_or_default();
        let value = match row.when {
            When::Set => String::new(),
            When::False => ": false".to_owned(),
            When::Is(word) => format!(": {word}"),
            When::IsNot(word) => format!(" other than {word}"),
        };
        let field = match row.field {
            [] => "all of it".to_owned(),
            field => format!("`{}{value}`", shown(field)),
        };
        text.push_str(&format!("| {kind}{place} | {field} | {} |\n", row.text));
    }
    text
}

fn shown(field: &[&str]) -> String {
    let mut text = String::new();
    for step in field {
        match step.strip_prefix('!') {
            _ if *step == "[]" => text.push_str("[]"),
            Some(known) => text.push_str(&format!(".(any but {})", known.replace(',', ", "))),
            None if step.contains(['/', '*']) => text.push_str(&format!("[{step}]")),
            None => text.push_str(&format!("{}{step}", if text.is_empty() { "" } else { "." })),
        }
    }
    text
}
