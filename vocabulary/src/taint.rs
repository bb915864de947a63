//! Taints and tolerations, <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>.

/// What of a taint is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taint<'a> {
    /// A qualified name, `node.kubernetes.io/not-ready`.
    pub key: &'a str,
    /// Empty: none.
    pub value: &'a str,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: &'a str,
}

/// A toleration; what is absent in the API is empty here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Toleration<'a> {
    /// Empty: with `Exists` every key.
    pub key: &'a str,
    /// `Exists` or `Equal`; empty: `Equal`.
    pub operator: &'a str,
    /// For `Equal`.
    pub value: &'a str,
    /// Empty: every effect.
    pub effect: &'a str,
}

impl Toleration<'_> {
    /// Whether this toleration tolerates the taint.
    pub fn tolerates(&self, taint: &Taint<'_>) -> bool {
        if !self.effect.is_empty() && self.effect != taint.effect
            || !self.key.is_empty() && self.key != taint.key
        {
            return false;
        }
        match self.operator {
            "Exists" => true,
            "Equal" | "" => !self.key.is_empty() && self.value == taint.value,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_match_as_documented() {
        let taint = Taint { key: "key1", value: "value1", effect: "NoSchedule" };
        let cases = [
            (["key1", "Equal", "value1", "NoSchedule"], true),
            (["key1", "", "value1", "NoSchedule"], true),
            (["key1", "Equal", "other", "NoSchedule"], false),
            (["key2", "Equal", "value1", "NoSchedule"], false),
            (["key1", "Exists", "", "NoSchedule"], true),
            (["key1", "Exists", "", "NoExecute"], false),
            (["key1", "Exists", "", ""], true),
            (["", "Exists", "", ""], true),
            (["", "Exists", "", "NoExecute"], false),
            (["", "Equal", "value1", ""], false),
            (["key1", "Like", "value1", ""], false),
        ];
        for ([key, operator, value, effect], expected) in cases {
            let toleration = Toleration { key, operator, value, effect };
            assert_eq!(toleration.tolerates(&taint), expected, "{toleration:?}");
        }
    }
}
