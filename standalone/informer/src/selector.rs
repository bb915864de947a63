//! Selectors of typed objects.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use skerry_vocabulary::Operator;

type Labels = BTreeMap<String, String>;

/// Whether `labels` has every pair of `wanted`. An absent set of labels is an empty one.
pub fn matches_labels(wanted: &Labels, labels: Option<&Labels>) -> bool {
    wanted.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
}

/// Whether the selector picks an object with these labels. The empty selector picks everything; an operator
/// that is not known picks nothing.
pub fn matches_selector(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    selector.match_labels.as_ref().is_none_or(|wanted| matches_labels(wanted, labels))
        && selector.match_expressions.iter().flatten().all(|expression| {
            let values = expression.values.as_deref().unwrap_or_default();
            requirement_holds(&expression.operator, labels.and_then(|l| l.get(&expression.key)), values)
        })
}

/// One requirement of a label or node selector. `Gt` and `Lt` (node selectors only) compare integers.
pub fn requirement_holds(operator: &str, value: Option<&String>, values: &[String]) -> bool {
    let values = values.iter().map(String::as_str);
    Operator::parse(operator).is_some_and(|operator| operator.holds(value.map(String::as_str), values))
}

/// Whether a required node affinity picks the node with this name and these labels. Terms are alternatives.
pub fn selects_node(selector: &NodeSelector, name: &String, labels: &Labels) -> bool {
    selector.node_selector_terms.iter().any(|term| node_term_holds(term, name, labels))
}

/// Whether every requirement of the term holds; a term without any picks nothing.
pub fn node_term_holds(term: &NodeSelectorTerm, name: &String, labels: &Labels) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|wanted| {
            let values = wanted.values.as_deref().unwrap_or_default();
            requirement_holds(&wanted.operator, labels.get(&wanted.key), values)
        })
        && fields.iter().all(|wanted| {
            // The one field there is.
            let value = (wanted.key == "metadata.name").then_some(name);
            requirement_holds(&wanted.operator, value, wanted.values.as_deref().unwrap_or_default())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn selectors_pick_as_documented() {
        let pod = labels(&[("app", "web"), ("tier", "front"), ("level", "5")]);
        let holds = |op: &str, key: &str, values: &[&str]| {
            let selector = LabelSelector {
                match_labels: None,
                match_expressions: Some(vec![LabelSelectorRequirement {
                    key: key.into(),
                    operator: op.into(),
                    values: Some(values.iter().map(|v| v.to_string()).collect()),
                }]),
            };
            matches_selector(&selector, Some(&pod))
        };
        assert!(holds("In", "app", &["web", "db"]));
        assert!(!holds("In", "missing", &["web"]));
        assert!(holds("NotIn", "missing", &["web"]));
        assert!(!holds("NotIn", "app", &["web"]));
        assert!(holds("Exists", "tier", &[]));
        assert!(holds("DoesNotExist", "missing", &[]));
        assert!(holds("Gt", "level", &["4"]) && !holds("Gt", "level", &["5"]));
        assert!(!holds("Bogus", "app", &["web"]));
        assert!(matches_selector(&LabelSelector::default(), None));
        assert!(matches_labels(&labels(&[("app", "web")]), Some(&pod)));
        assert!(!matches_labels(&labels(&[("app", "web")]), None));
    }
}
