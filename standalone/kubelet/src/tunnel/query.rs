//! Paths and queries of the exchanges.

/// Decoded `(name, value)` pairs in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: &str) -> Query {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    pub fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// `1` or `true`, under any of these names.
    pub fn flag(&self, names: &[&str]) -> bool {
        names.iter().any(|name| matches!(self.first(name), Some("1" | "true")))
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.first(name)?.parse().ok()
    }
}

/// The decoded parts of a path.
pub fn parts(path: &str) -> Vec<String> {
    path.trim_matches('/').split('/').map(decode).collect()
}

/// `%XX` and `+`; what is no valid escape stays as it is.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escaped = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (byte, escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(*byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone_and_repeated_names_kept_in_order() {
        let query = Query::parse("command=sh&command=-c&command=echo+%22a%20b%22%2B%zz&input=1&tty=0&n=12");
        assert_eq!(query.all("command"), ["sh", "-c", "echo \"a b\"+%zz"]);
        assert!(query.flag(&["stdin", "input"]) && !query.flag(&["tty"]));
        assert_eq!(query.number("n"), Some(12));
        assert_eq!(parts("/exec/ns/a%2Fb/c/"), ["exec", "ns", "a/b", "c"]);
    }
}
