//! What the API accepts though nobody carries it out: one [table](table::ROWS), from which come the
//! `Warning:` headers of writes and the list in `docs/not-carried-out.md`. A row goes when its feature comes.

mod table;

use serde_json::Value;

use crate::Kind;
use table::{ROWS, Row, Scope, When};

/// The kinds that hold pods to be, and where.
const TEMPLATES: &[(&str, &str, &[&str])] = &[
    ("", "Pod", &[]),
    ("", "PodTemplate", &["template"]),
    ("", "ReplicationController", &["spec", "template"]),
    ("apps", "DaemonSet", &["spec", "template"]),
    ("apps", "Deployment", &["spec", "template"]),
    ("apps", "ReplicaSet", &["spec", "template"]),
    ("apps", "StatefulSet", &["spec", "template"]),
    ("batch", "CronJob", &["spec", "jobTemplate", "spec", "template"]),
    ("batch", "Job", &["spec", "template"]),
];

/// What to tell who writes `new` (over `old`): one text for each row that holds of what is written, or of
/// what changes. Objects that a controller makes were told of when their template was typed; a status asks
/// for nothing.
pub fn warnings(kind: &Kind, old: Option<&Value>, new: &Value, subresource: Option<&str>) -> Vec<String> {
    let owners = new.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    if owners.into_iter().flatten().any(|owner| owner["controller"] == true) {
        return Vec::new();
    }
    let rows = ROWS.iter().filter(|row| row.subresource == subresource);
    rows.filter_map(|row| row.warning(kind, old, new)).collect()
}

impl Row {
    fn warning(&self, kind: &Kind, old: Option<&Value>, new: &Value) -> Option<String> {
        let base: &[&str] = match self.scope {
            Scope::Kind(group, name) => {
                (kind.group == group && kind.kind == name).then_some(&[] as &[&str])?
            }
            Scope::Pods => {
                TEMPLATES.iter().find(|(group, name, _)| *group == kind.group && *name == kind.kind)?.2
            }
        };
        if self.field.is_empty() {
            let changed = old.is_none_or(|old| asked(old) != asked(new));
            return changed.then(|| format!("{}: {}", kind.qualified(), self.text));
        }
        let (now, before) = (self.found(base, new), old.map(|old| self.found(base, old)).unwrap_or_default());
        let values =
            |found: &[(String, &Value)]| found.iter().map(|(_, value)| (*value).clone()).collect::<Vec<_>>();
        let (path, _) = now.first()?;
        // Not by paths: what merely moved within its list is not new.
        (values(&now) != values(&before)).then(|| format!("{path}: {}", self.text))
    }

    /// The values that the row is about, with their paths.
    fn found<'a>(&self, base: &[&str], object: &'a Value) -> Vec<(String, &'a Value)> {
        let Some(root) = base.iter().try_fold(object, |value, name| value.get(name)) else {
            return Vec::new();
        };
        if !self.unless.is_empty()
            && self.unless.iter().try_fold(root, |value, name| value.get(name)) == Some(&Value::Bool(true))
        {
            return Vec::new();
        }
        let mut found = Vec::new();
        collect(root, self.field, base.join("."), &mut found);
        found.retain(|(_, value)| self.when.holds(value));
        found
    }
}

/// All but what the server and controllers write.
fn asked(object: &Value) -> Vec<(&String, &Value)> {
    let fields = object.as_object().into_iter().flatten();
    fields
        .filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status" | "apiVersion" | "kind"))
        .collect()
}

impl When {
    fn holds(self, value: &Value) -> bool {
        match self {
            When::Set => match value {
                Value::Null | Value::Bool(false) => false,
                Value::String(text) => !text.is_empty(),
                Value::Array(items) => !items.is_empty(),
                Value::Object(_) | Value::Bool(true) => true,
                Value::Number(number) => number.as_i64() != Some(0),
            },
            When::False => *value == Value::Bool(false),
            When::Is(word) => value == word,
            When::IsNot(word) => value.as_str().is_some_and(|text| !text.is_empty() && text != word),
        }
    }
}

/// Follows a field's path: `NAME`; `[]`, each item of a list; `NAME*`, keys that begin so; `!A,B`, keys but
/// these.
fn collect<'a>(value: &'a Value, field: &[&str], path: String, found: &mut Vec<(String, &'a Value)>) {
    let Some((step, rest)) = field.split_first() else {
        found.push((path, value));
        return;
    };
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if *step == "[]" {
        for (at, item) in value.as_array().into_iter().flatten().enumerate() {
            collect(item, rest, format!("{path}[{at}]"), found);
        }
    } else if let Some(known) = step.strip_prefix('!') {
        for (name, item) in value.as_object().into_iter().flatten() {
            if !known.split(',').any(|known| known == name) {
                collect(item, rest, below(name), found);
            }
        }
    } else if let Some(prefix) = step.strip_suffix('*') {
        for (name, item) in value.as_object().into_iter().flatten() {
            if name.starts_with(prefix) {
                collect(item, rest, format!("{path}[{name}]"), found);
            }
        }
    } else if let Some(item) = value.get(step) {
        // Label and annotation keys are written as upstream writes keys of maps.
        let path = if step.contains(['/', '.']) { format!("{path}[{step}]") } else { below(step) };
        collect(item, rest, path, found);
    }
}

#[cfg(test)]
mod document;
#[cfg(test)]
mod tests;
