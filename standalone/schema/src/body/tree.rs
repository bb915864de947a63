//! Bytes to a JSON value, with every key that stands twice.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::limits::{Excess, MAX_DEPTH, MAX_VALUES};

/// What a document held.
pub struct Tree {
    pub value: Value,
    /// Paths of keys that stand more than once in their object; the last one counts.
    pub duplicates: Vec<String>,
}

/// How many duplicates are remembered: a hostile body does not make its own answer endless.
pub const MAX_REPORTED: usize = 100;

pub fn json(body: &[u8]) -> Result<Tree, String> {
    let mut seen = Seen::default();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let node = Node { parent: None, seen: &mut seen, depth: 0 };
    let value = node.deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())?;
    Ok(Tree { value, duplicates: seen.duplicates })
}

pub fn yaml(body: &[u8]) -> Result<Tree, String> {
    let mut seen = Seen::default();
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        with_snippet: false,
        // As Go's YAML reads `defaultMode: 0644`.
        legacy_octal_numbers: true,
    };
    let value = serde_saphyr::with_deserializer_from_slice_with_options(body, options, |deserializer| {
        Node { parent: None, seen: &mut seen, depth: 0 }.deserialize(deserializer)
    })
    .map_err(|error| error.to_string())?;
    Ok(Tree { value, duplicates: seen.duplicates })
}

/// What was met on the way.
#[derive(Default)]
struct Seen {
    duplicates: Vec<String>,
    /// A short text can hold a million empty lists, and each takes memory before anybody measures the whole.
    values: usize,
}

/// Where we are: a chain on the stack, written out only for a complaint.
struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl Place<'_> {
    fn write(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(out);
        }
        match self.step {
            Step::Key(key) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(key);
            }
            Step::Index(index) => out.push_str(&format!("[{index}]")),
        }
    }
}

struct Node<'a> {
    parent: Option<&'a Place<'a>>,
    seen: &'a mut Seen,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.depth > MAX_DEPTH {
            return Err(D::Error::custom(Excess::Depth));
        }
        self.seen.values += 1;
        if self.seen.values > MAX_VALUES {
            return Err(D::Error::custom(Excess::Values));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let place = Place { parent: self.parent, step: Step::Index(list.len()) };
            let node = Node { parent: Some(&place), seen: self.seen, depth: self.depth + 1 };
            let Some(value) = items.next_element_seed(node)? else { break };
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let place = Place { parent: self.parent, step: Step::Key(&key) };
            let node = Node { parent: Some(&place), seen: self.seen, depth: self.depth + 1 };
            let value = entries.next_value_seed(node)?;
            let duplicates = &mut self.seen.duplicates;
            if map.contains_key(&key) && duplicates.len() < MAX_REPORTED {
                let mut path = String::new();
                place.write(&mut path);
                if !duplicates.contains(&path) {
                    duplicates.push(path);
                }
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
