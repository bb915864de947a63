//! `matchLabelKeys` and `mismatchLabelKeys` of pod affinity terms (KEP-3633): what they name is written into
//! the term's selector when the pod is created, with the values that the pod's labels have then.

use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

/// Lists of an affinity, and where in an entry its term stands.
const LISTS: [(&str, Option<&str>); 2] = [
    ("requiredDuringSchedulingIgnoredDuringExecution", None),
    ("preferredDuringSchedulingIgnoredDuringExecution", Some("podAffinityTerm")),
];
const OPERATORS: [(&str, &str); 2] = [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")];

/// Completes the selectors of a new pod's terms. A key that the pod has no label of is passed over; a term
/// without a selector selects nothing and stays so.
pub fn complete(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (list, within) in LISTS {
            let entries = pod.pointer_mut(&format!("/spec/affinity/{kind}/{list}"));
            for entry in entries.and_then(Value::as_array_mut).into_iter().flatten() {
                let term = match within {
                    None => Some(entry),
                    Some(within) => entry.get_mut(within),
                };
                if let Some(term) = term.and_then(Value::as_object_mut) {
                    complete_term(term, &labels);
                }
            }
        }
    }
}

fn complete_term(term: &mut Object, labels: &Object) {
    let mut added = Vec::new();
    for (list, operator) in OPERATORS {
        let keys = term.get(list).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let known = keys.filter_map(|key| Some((key, labels.get(key)?)));
        added.extend(known.map(|(key, value)| json!({"key": key, "operator": operator, "values": [value]})));
    }
    if added.is_empty() {
        return;
    }
    let Some(selector) = term.get_mut("labelSelector").and_then(Value::as_object_mut) else { return };
    if let Some(expressions) = selector.entry("matchExpressions").or_insert_with(|| json!([])).as_array_mut()
    {
        expressions.extend(added);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(term: &Value) -> Value {
        json!({
            "metadata": {"labels": {"app": "web", "pod-template-hash": "abc"}},
            "spec": {"affinity": {
                "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]},
                "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
                    [{"weight": 1, "podAffinityTerm": term}]},
            }},
        })
    }

    fn completed(term: &Value) -> [Value; 2] {
        let mut pod = pod(term);
        complete(&mut pod);
        [
            "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/0/labelSelector",
            "/spec/affinity/podAffinity/preferredDuringSchedulingIgnoredDuringExecution/0/podAffinityTerm/labelSelector",
        ]
        .map(|at| pod.pointer(at).cloned().unwrap_or(Value::Null))
    }

    #[test]
    fn keys_become_expressions_with_the_pods_own_values() {
        let term = json!({
            "topologyKey": "zone",
            "labelSelector": {"matchLabels": {"app": "web"}},
            "matchLabelKeys": ["pod-template-hash", "absent"],
            "mismatchLabelKeys": ["app"],
        });
        let expected = json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "pod-template-hash", "operator": "In", "values": ["abc"]},
                {"key": "app", "operator": "NotIn", "values": ["web"]},
            ],
        });
        assert_eq!(completed(&term), [expected.clone(), expected]);
    }

    #[test]
    fn a_term_without_a_selector_or_without_known_keys_stays_as_it_is() {
        let none = json!({"topologyKey": "zone", "matchLabelKeys": ["app"]});
        assert_eq!(completed(&none), [Value::Null, Value::Null]);
        let absent = json!({"labelSelector": {}, "matchLabelKeys": ["absent"]});
        assert_eq!(completed(&absent), [json!({}), json!({})]);
    }
}
