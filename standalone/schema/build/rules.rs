//! Reads the table of field rules: a definition, then its fields, each with its rules.

use std::collections::BTreeMap;

use serde_json::Value;

#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Rule {
    pub required: bool,
    pub immutable: bool,
    /// A zero or an empty string counts as absent when the default is set.
    pub zero_is_absent: bool,
    pub default: Option<String>,
    pub values: Vec<String>,
    pub min: Option<i64>,
    pub max: Option<i64>,
    pub items: Option<usize>,
    pub form: Option<String>,
}

/// (definition, field) to its rule.
pub type Rules = BTreeMap<(String, String), Rule>;

/// # Panics
/// Where a definition or a field does not exist, or a word is unknown: a table with a slip must not build.
pub fn parse(text: &str, definitions: &BTreeMap<String, Value>) -> Rules {
    let mut rules = Rules::new();
    let mut definition = String::new();
    for (number, line) in text.lines().enumerate() {
        let place = format!("rules.txt:{}: {line}", number + 1);
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if !line.starts_with(' ') {
            definition = format!("io.k8s.{}", line.trim());
            assert!(definitions.contains_key(&definition), "{place}: no such definition");
            continue;
        }
        let mut words = line.split_whitespace();
        let field = words.next().unwrap_or_default().to_owned();
        assert!(definitions[&definition]["properties"][&field].is_object(), "{place}: no such field");
        let mut rule = Rule::default();
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "required" => rule.required = true,
                "immutable" => rule.immutable = true,
                "zero" => rule.zero_is_absent = true,
                "default" => {
                    let parsed: Result<Value, _> = serde_json::from_str(value);
                    let parsed = parsed.unwrap_or_else(|error| panic!("{place}: {error}"));
                    rule.zero_is_absent |= parsed.is_string();
                    rule.default = Some(value.to_owned());
                }
                "enum" => rule.values = value.split(',').map(str::to_owned).collect(),
                "min" => rule.min = Some(value.parse().unwrap_or_else(|_| panic!("{place}: min"))),
                "max" => rule.max = Some(value.parse().unwrap_or_else(|_| panic!("{place}: max"))),
                "items" => rule.items = Some(value.parse().unwrap_or_else(|_| panic!("{place}: items"))),
                "form" => rule.form = Some(value.to_owned()),
                _ => panic!("{place}: unknown word {name}"),
            }
        }
        assert!(rules.insert((definition.clone(), field), rule).is_none(), "{place}: given twice");
    }
    rules
}
