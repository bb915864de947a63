//! Small pieces that several kinds' cells are made of.

use serde_json::{Map, Value};

pub const NONE: &str = "<none>";
pub const UNSET: &str = "<unset>";
pub const UNKNOWN: &str = "<unknown>";

/// `text`, or `<none>` where it is empty.
pub fn or_none(text: &str) -> &str {
    if text.is_empty() { NONE } else { text }
}

/// `a=b,c=d`, sorted; `<none>` where there are none.
pub fn labels(map: Option<&Map<String, Value>>) -> String {
    let mut pairs: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort();
    or_none(&pairs.join(",")).to_owned()
}

/// A `LabelSelector`: `a=b,c in (d,e),!f`.
pub fn selector(selector: &Value) -> String {
    let mut parts: Vec<(String, String)> = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), format!("{name}={}", value.as_str().unwrap_or_default())))
        .collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let name = expression["key"].as_str().unwrap_or_default();
        let mut values: Vec<&str> =
            expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match expression["operator"].as_str() {
            Some("In") => format!("{name} in ({values})"),
            Some("NotIn") => format!("{name} notin ({values})"),
            Some("DoesNotExist") => format!("!{name}"),
            _ => name.to_owned(),
        };
        parts.push((name.to_owned(), text));
    }
    parts.sort();
    or_none(&parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")).to_owned()
}

/// `a,b,c + 2 more...`: the first three; `empty` where there are none.
pub fn first_three(items: &[String], empty: &str) -> String {
    const SHOWN: usize = 3;
    match items.len() {
        0 => empty.to_owned(),
        count if count <= SHOWN => items.join(","),
        count => format!("{} + {} more...", items[..SHOWN].join(","), count - SHOWN),
    }
}

/// `RWO,ROX`.
pub fn access_modes(modes: &Value) -> String {
    let short: Vec<&str> = modes
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|mode| match mode.as_str()? {
            "ReadWriteOnce" => Some("RWO"),
            "ReadOnlyMany" => Some("ROX"),
            "ReadWriteMany" => Some("RWX"),
            "ReadWriteOncePod" => Some("RWOP"),
            _ => None,
        })
        .collect();
    short.join(",")
}
