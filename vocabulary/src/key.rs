use std::{fmt, sync::Arc};

/// The name of an object within its kind: `NAMESPACE/NAME`, or the bare name of one that is in no namespace.
///
/// One allocation, shared by its clones. In its order the objects of one namespace stand together, since no
/// name holds a `/`: they begin at `ObjectKey::new(namespace, "")`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ObjectKey(Arc<str>);

impl ObjectKey {
    /// `namespace` is empty for an object that is in none.
    pub fn new(namespace: &str, name: &str) -> ObjectKey {
        match namespace {
            "" => ObjectKey(name.into()),
            _ => ObjectKey(format!("{namespace}/{name}").into()),
        }
    }

    /// Key of an object that is in no namespace.
    pub fn cluster(name: &str) -> ObjectKey {
        ObjectKey(name.into())
    }

    /// Namespace (empty for an object that is in none) and name.
    pub fn parts(&self) -> (&str, &str) {
        self.0.split_once('/').unwrap_or(("", &self.0))
    }

    /// Empty for an object that is in none.
    pub fn namespace(&self) -> &str {
        self.parts().0
    }

    /// Without the namespace.
    pub fn name(&self) -> &str {
        self.parts().1
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_key_is_shown_as_it_is_typed_and_taken_apart_again() {
        let key = ObjectKey::new("ns", "web");
        assert_eq!((key.to_string().as_str(), key.namespace(), key.name()), ("ns/web", "ns", "web"));
        let node = ObjectKey::cluster("n1");
        assert_eq!((node.to_string().as_str(), node.parts()), ("n1", ("", "n1")));
        assert_eq!(node, ObjectKey::new("", "n1"));
    }

    #[test]
    fn objects_of_one_namespace_stand_together() {
        let names = [("a", "x"), ("a-b", "x"), ("a", "a"), ("b", "x"), ("a.b", "z"), ("a", "z"), ("a0", "x")];
        let keys: BTreeSet<ObjectKey> = names.iter().map(|(ns, name)| ObjectKey::new(ns, name)).collect();
        let of_a: Vec<&str> = keys
            .range(ObjectKey::new("a", "")..)
            .take_while(|key| key.namespace() == "a")
            .map(ObjectKey::name)
            .collect();
        assert_eq!(of_a, ["a", "x", "z"]);
    }
}
