//! Taints and tolerations of typed objects.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Whether one of the tolerations tolerates the taint. An empty key with `Exists` tolerates every taint, an
/// empty effect every effect.
pub fn tolerated<'a>(taint: &Taint, tolerations: impl IntoIterator<Item = &'a Toleration>) -> bool {
    tolerations.into_iter().any(|toleration| tolerates(toleration, taint))
}

/// Whether this toleration tolerates the taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    fn text(field: &Option<String>) -> &str {
        field.as_deref().unwrap_or_default()
    }
    let taint =
        skerry_vocabulary::Taint { key: &taint.key, value: text(&taint.value), effect: &taint.effect };
    let toleration = skerry_vocabulary::Toleration {
        key: text(&toleration.key),
        operator: text(&toleration.operator),
        value: text(&toleration.value),
        effect: text(&toleration.effect),
    };
    toleration.tolerates(&taint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: &str, effect: &str) -> Taint {
        Taint { key: key.into(), value: Some(value.into()), effect: effect.into(), time_added: None }
    }

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        Toleration {
            key: Some(key.into()),
            operator: Some(operator.into()),
            value: Some(value.into()),
            effect: Some(effect.into()),
            toleration_seconds: None,
        }
    }

    #[test]
    fn tolerations_match_as_documented() {
        let key1 = taint("key1", "value1", "NoSchedule");
        assert!(tolerates(&toleration("key1", "Equal", "value1", "NoSchedule"), &key1));
        assert!(!tolerates(&toleration("key1", "Equal", "other", "NoSchedule"), &key1));
        assert!(tolerates(&toleration("key1", "Exists", "", "NoSchedule"), &key1));
        assert!(!tolerates(&toleration("key1", "Exists", "", "NoExecute"), &key1));
        assert!(tolerates(&toleration("key1", "Exists", "", ""), &key1));
        assert!(tolerates(&toleration("", "Exists", "", ""), &key1));
        assert!(!tolerates(&toleration("", "Equal", "value1", ""), &key1));
        assert!(!tolerated(&key1, []));
    }
}
