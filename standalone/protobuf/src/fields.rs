//! The table of messages.

use std::{collections::HashMap, sync::OnceLock};

/// How a field's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    String,
    Bytes,
    Bool,
    /// int32, int64, uint32, uint64: all varints of the two's complement.
    Integer,
    Double,
    /// A message, by full name.
    Message(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cardinality {
    One,
    Repeated,
    /// Keys are strings.
    Map,
}

#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub number: u32,
    /// The key in JSON.
    pub name: &'static str,
    pub of: Type,
    pub cardinality: Cardinality,
    /// Absent and zero differ (a pointer in the reference types): a zero on the wire was meant.
    pub nullable: bool,
    /// JSON leaves a zero away.
    pub omit_empty: bool,
    /// The message's fields stand in the parent's JSON object.
    pub inline: bool,
}

pub type Fields = Vec<Field>;

static TABLE: OnceLock<HashMap<&'static str, Fields>> = OnceLock::new();

fn table() -> &'static HashMap<&'static str, Fields> {
    TABLE.get_or_init(|| parse(include_str!("fields.txt")))
}

/// The fields of a message in the order of their numbers; `None`: no such message.
pub fn fields(message: &str) -> Option<&'static Fields> {
    table().get(message)
}

/// The table's own copy of a message's name; `None`: no such message.
pub fn name(message: &str) -> Option<&'static str> {
    table().get_key_value(message).map(|(name, _)| *name)
}

/// Lines `>message`, then `number name type flags` for each field; flags: `r` repeated, `m` map, `p`
/// nullable, `o` and `z` left away when empty, `i` inline, `-` none.
fn parse(text: &'static str) -> HashMap<&'static str, Fields> {
    let mut table: HashMap<&'static str, Fields> = HashMap::new();
    let mut message = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('>') {
            message = name;
            table.entry(message).or_default();
            continue;
        }
        let mut words = line.split(' ');
        let (Some(number), Some(name), Some(of), Some(flags)) =
            (words.next().and_then(|n| n.parse().ok()), words.next(), words.next(), words.next())
        else {
            continue;
        };
        let field = Field {
            number,
            name,
            of: scalar(of).unwrap_or(Type::Message(of)),
            cardinality: match flags {
                flags if flags.contains('r') => Cardinality::Repeated,
                flags if flags.contains('m') => Cardinality::Map,
                _ => Cardinality::One,
            },
            nullable: flags.contains('p'),
            omit_empty: flags.contains(['o', 'z']),
            inline: flags.contains('i'),
        };
        table.entry(message).or_default().push(field);
    }
    table
}

fn scalar(name: &str) -> Option<Type> {
    match name {
        "string" => Some(Type::String),
        "bytes" => Some(Type::Bytes),
        "bool" => Some(Type::Bool),
        "int32" | "int64" | "uint32" | "uint64" => Some(Type::Integer),
        "double" => Some(Type::Double),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_read_and_every_type_is_known() {
        let text = include_str!("fields.txt");
        let table = parse(text);
        let lines = text.lines().filter(|line| !line.starts_with('>')).count();
        assert_eq!(table.values().map(Vec::len).sum::<usize>(), lines);
        for (message, fields) in &table {
            assert!(fields.is_sorted_by_key(|f| f.number), "{message}");
            for field in fields {
                if let Type::Message(of) = field.of {
                    assert!(table.contains_key(of), "{message}.{}: {of}", field.name);
                }
            }
        }
    }
}
