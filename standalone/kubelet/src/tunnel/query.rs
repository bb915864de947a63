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

    /// Ports under this name, which may stand there more than once, or list several with commas.
    pub fn ports(&self, name: &str) -> Result<Vec<i32>, String> {
        let mut ports = Vec::new();
        for text in self.all(name) {
            if text.is_empty() {
                return Err(format!("query parameter {name:?} cannot be empty"));
            }
            for one in text.split(',') {
                match one.parse::<u16>() {
                    Ok(0) => return Err(format!("port {text:?} must be > 0")),
                    Ok(port) => ports.push(i32::from(port)),
                    Err(error) => return Err(format!("unable to parse {text:?} as a port: {error}")),
                }
            }
        }
        Ok(ports)
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

    #[test]
    fn ports_may_be_repeated_or_listed_and_nothing_else() {
        let ports = |query: &str| Query::parse(query).ports("port");
        assert_eq!(ports("port=1234&x=1&port=80%2C443"), Ok(vec![1234, 80, 443]));
        assert_eq!(ports(""), Ok(vec![]));
        for query in ["port=", "port=abc", "port=0", "port=65536", "port=1,", "port=80&port=-1"] {
            assert!(ports(query).is_err(), "{query}");
        }
    }
}
