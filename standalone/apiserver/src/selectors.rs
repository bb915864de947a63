//! Label and field selectors: parsing and matching.

use std::collections::BTreeMap;

use skerry_vocabulary::Operator;

/// The most requirements one selector may have: matching is linear in them, for every object and event.
const MAX_REQUIREMENTS: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("unable to parse requirement {text:?}: {problem}")]
    Label { text: String, problem: &'static str },
    #[error("invalid selector: {text:?}; can't understand {term:?}")]
    Field { text: String, term: String },
    #[error("a selector may have {MAX_REQUIREMENTS} requirements at most: shorten it")]
    TooMany,
}

/// All requirements must hold; none: everything matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

impl LabelSelector {
    /// `a=b,c!=d,e in (x,y),f notin (z),g,!h,i>1`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for term in split_outside_parentheses(text) {
            let term = term.trim();
            if term.is_empty() {
                if text.trim().is_empty() {
                    continue;
                }
                return Err(SelectorError::Label { text: text.into(), problem: "a requirement is empty" });
            }
            if requirements.len() == MAX_REQUIREMENTS {
                return Err(SelectorError::TooMany);
            }
            requirements.push(
                parse_label(term).map_err(|problem| SelectorError::Label { text: term.into(), problem })?,
            );
        }
        Ok(Self { requirements })
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|Requirement { key, operator, values }| {
            operator.holds(labels.get(key).map(String::as_str), values.iter().map(String::as_str))
        })
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut terms) = (0_u32, 0, Vec::new());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn parse_label(term: &str) -> Result<Requirement, &'static str> {
    let requirement =
        |key: &str, operator, values| Ok(Requirement { key: label_key(key)?, operator, values });
    if let Some(key) = term.strip_prefix('!') {
        return requirement(key, Operator::DoesNotExist, Vec::new());
    }
    if let Some((key, value)) = term.split_once("!=") {
        return requirement(key, Operator::NotIn, vec![label_value(value)?]);
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return requirement(key, Operator::In, vec![label_value(value)?]);
    }
    if let Some((key, value)) = term.split_once('>') {
        return requirement(key, Operator::Gt, vec![bound(value)?]);
    }
    if let Some((key, value)) = term.split_once('<') {
        return requirement(key, Operator::Lt, vec![bound(value)?]);
    }
    let Some((key, rest)) = term.split_once(char::is_whitespace) else {
        return requirement(term, Operator::Exists, Vec::new());
    };
    let rest = rest.trim_start();
    let (operator, list) = if let Some(list) = rest.strip_prefix("notin") {
        (Operator::NotIn, list)
    } else if let Some(list) = rest.strip_prefix("in") {
        (Operator::In, list)
    } else {
        return Err("found neither in, notin, =, ==, !=, > nor <");
    };
    let inner =
        list.trim().strip_prefix('(').and_then(|list| list.strip_suffix(')')).ok_or("expected (values)")?;
    let values = inner.split(',').map(label_value).collect::<Result<Vec<_>, _>>()?;
    requirement(key, operator, values)
}

fn bound(text: &str) -> Result<String, &'static str> {
    let bound = text.trim();
    let number = bound.parse::<i64>();
    number.map(|_| bound.to_owned()).map_err(|_| "> and < compare with an integer")
}

fn label_key(text: &str) -> Result<String, &'static str> {
    let key = text.trim();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if key.is_empty() || key.len() > 317 || !key.chars().all(allowed) {
        return Err("a key is [prefix/]name of letters, digits, '-', '_' and '.'");
    }
    Ok(key.to_owned())
}

fn label_value(text: &str) -> Result<String, &'static str> {
    let value = text.trim();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if value.len() > 63 || !value.chars().all(allowed) {
        return Err("a value has at most 63 letters, digits, '-', '_' and '.'");
    }
    Ok(value.to_owned())
}

/// `a=b,c!=d`; commas, equal signs and backslashes in a value are escaped by a backslash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    pub field: String,
    pub value: String,
    pub equal: bool,
}

impl FieldSelector {
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for term in split_unescaped(text) {
            if term.is_empty() {
                continue;
            }
            if requirements.len() == MAX_REQUIREMENTS {
                return Err(SelectorError::TooMany);
            }
            let fail = || SelectorError::Field { text: text.into(), term: term.into() };
            let at = term.find('=').ok_or_else(fail)?;
            let (field, value, equal) = if at > 0 && term.as_bytes()[at - 1] == b'!' {
                (&term[..at - 1], &term[at + 1..], false)
            } else {
                (&term[..at], term[at + 1..].strip_prefix('=').unwrap_or(&term[at + 1..]), true)
            };
            if field.is_empty() {
                return Err(fail());
            }
            requirements.push(FieldRequirement { field: field.into(), value: unescape(value), equal });
        }
        Ok(Self { requirements })
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// The value a field must have, where the selector pins it.
    pub fn pinned(&self, field: &str) -> Option<&str> {
        let found =
            self.requirements.iter().find(|requirement| requirement.equal && requirement.field == field);
        found.map(|requirement| requirement.value.as_str())
    }

    /// Adds the requirement that `field` has this value.
    pub fn pin(&mut self, field: &str, value: &str) {
        self.requirements.push(FieldRequirement {
            field: field.to_owned(),
            value: value.to_owned(),
            equal: true,
        });
    }

    pub fn matches(&self, fields: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = fields.get(&requirement.field).map_or("", String::as_str);
            (value == requirement.value) == requirement.equal
        })
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut escaped, mut start, mut terms) = (false, 0, Vec::new());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => plain.extend(characters.next()),
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn label_selectors_match_as_documented() {
        let labels = map(&[("app", "web"), ("tier", "front"), ("rank", "7"), ("example.com/x", "")]);
        let cases = [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app=api", false),
            ("app in (api, web)", true),
            ("app notin (api,web)", false),
            ("missing notin (a)", true),
            ("missing!=a", true),
            ("app", true),
            ("!app", false),
            ("!missing", true),
            ("rank>6,rank<8", true),
            ("rank>7", false),
            ("example.com/x=", true),
            ("app in (web),tier in (front,back)", true),
        ];
        for (text, expected) in cases {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&labels), expected, "{text}");
        }
    }

    #[test]
    fn malformed_selectors_are_refused() {
        for text in ["a b", "a in b", "a in (x", "=x", "a=b,,c=d", "a>x", "a=b c", "sp ace=x"] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
        assert!(FieldSelector::parse("metadata.name").is_err());
        assert_eq!(LabelSelector::parse(&vec!["a"; 300].join(",")), Err(SelectorError::TooMany));
    }

    #[test]
    fn field_selectors_escape_commas_and_equal_signs() {
        let selector = FieldSelector::parse(r"metadata.name=a\,b\=c,spec.nodeName!=n1").unwrap();
        assert_eq!(selector.pinned("metadata.name"), Some("a,b=c"));
        assert!(selector.matches(&map(&[("metadata.name", "a,b=c"), ("spec.nodeName", "n2")])));
        assert!(!selector.matches(&map(&[("metadata.name", "a,b=c"), ("spec.nodeName", "n1")])));
        assert!(FieldSelector::parse("spec.nodeName=").unwrap().matches(&map(&[])));
    }
}
