//! POST of an `Eviction` at `pods/NAME/eviction`: a deletion that the pod's disruption budget has to allow
//! (KEP-85).
//!
//! The budget's controller works out how many pods may go; here one of them is taken, in the budget's own
//! status, before the pod is deleted. The pod is noted there, so that the controller counts it as gone though
//! it may still be there for a while.

use http::StatusCode;
use serde_json::{Value, json};
use skerry_vocabulary::time;

use crate::{
    api::{Api, Call, built_in, parse},
    body::{self, Checked},
    delete::{self, Options},
    error::{ApiError, Subject},
    list::{self, Filter},
    object::{self, set_condition, text},
    request::Query,
    respond::{self, Reply},
    selectors::LabelSelector,
    subresources::selector_text,
    update::{Place, change},
};

const VIOLATES: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
/// Evictions that the budget's controller has not confirmed yet; beyond that it is taken for gone.
const MAX_DISRUPTED: usize = 2000;
/// When to ask again while the controller has not seen the budget's newest version, seconds.
const RETRY_AFTER_S: u64 = 10;

pub async fn evict(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let eviction = body::read(call, "policy/v1", "Eviction")?.value;
    let name = &call.request.name;
    let named = object::name(&eviction);
    if !named.is_empty() && named != name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let options = Options::from_parts(&eviction["deleteOptions"], &Query::default(), call.is_dry_run()?)?;
    let pod = parse(call.kind, &api.entry(call).await?)?;
    delete::preconditions(call.about(), &pod, &options)?;
    if let Some(budget) = guard(&pod, &budgets(api, &call.request.namespace).await?)? {
        let place = Place {
            kind: built_in("policy", "v1", "poddisruptionbudgets")?,
            namespace: &call.request.namespace,
            name: &budget,
            subresource: Some("status"),
            dry_run: options.is_dry_run(),
        };
        let now = jiff::Timestamp::now();
        change(api, &place, |budget| {
            Ok(Checked { value: taken_from(budget, name, now)?, warnings: Vec::new() })
        })
        .await?;
    }
    let place = Place {
        kind: call.kind,
        namespace: &call.request.namespace,
        name,
        subresource: Some("status"),
        dry_run: options.is_dry_run(),
    };
    change(api, &place, |pod| Ok(Checked { value: evicted(pod), warnings: Vec::new() })).await?;
    delete::delete_one(api, call.kind, &call.request.namespace, name, &options).await?;
    let success =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::value(StatusCode::CREATED, &success))
}

/// The namespace's budgets.
async fn budgets(api: &Api, namespace: &str) -> Result<Vec<Value>, ApiError> {
    let kind = built_in("policy", "v1", "poddisruptionbudgets")?;
    let page = list::select(api, kind, namespace, &Filter::default(), None, None, 0).await?;
    page.entries.iter().map(|entry| parse(kind, entry)).collect()
}

/// The name of the budget that has to allow the eviction; `None`: nobody has to.
fn guard(pod: &Value, budgets: &[Value]) -> Result<Option<String>, ApiError> {
    // It serves nobody (any more, or yet): its end disrupts nothing.
    let serves = !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed" | "Pending");
    if !serves || object::is_being_deleted(pod) {
        return Ok(None);
    }
    let mut guards = budgets.iter().filter(|budget| selects(budget, pod));
    let Some(budget) = guards.next() else { return Ok(None) };
    if guards.next().is_some() {
        return Err(ApiError::new(
            500,
            "InternalError",
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    let count = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    if !is_ready(pod) {
        // What is not ready is not counted as healthy: its end takes nothing away (KEP-3017).
        let always = text(budget, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow";
        let healthy = count("currentHealthy") >= count("desiredHealthy") && count("desiredHealthy") > 0;
        if always || healthy {
            return Ok(None);
        }
    }
    Ok(Some(object::name(budget).to_owned()))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// A budget without a selector guards nothing, one with an empty one its whole namespace.
fn selects(budget: &Value, pod: &Value) -> bool {
    let selector = &budget["spec"]["selector"];
    let Ok(selector) = LabelSelector::parse(&selector_text(selector)) else { return false };
    let labels = pod.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
    let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    !budget["spec"]["selector"].is_null() && selector.matches(&labels)
}

/// The budget with one pod fewer that may go, and the pod noted.
fn taken_from(budget: &Value, pod: &str, now: jiff::Timestamp) -> Result<Value, ApiError> {
    let name = object::name(budget);
    let status = &budget["status"];
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let refuse = |cause: String| {
        let cause = json!({"reason": "DisruptionBudget", "message": cause});
        ApiError::new(429, "TooManyRequests", VIOLATES).with_causes(json!([cause]))
    };
    if number(&status["observedGeneration"]) < number(&budget["metadata"]["generation"]) {
        let cause = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refuse(cause).retried_after(RETRY_AFTER_S));
    }
    let allowed = number(&status["disruptionsAllowed"]);
    let forbidden = |why: &str| {
        Err(ApiError::forbidden(Subject { group: "policy", resource: "poddisruptionbudget", name }, why))
    };
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status["disruptedPods"].as_object().map_or(0, serde_json::Map::len) > MAX_DISRUPTED {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        let (desired, current) = (number(&status["desiredHealthy"]), number(&status["currentHealthy"]));
        return Err(refuse(format!(
            "The disruption budget {name} needs {desired} healthy pods and has {current} currently"
        )));
    }
    let mut budget = budget.clone();
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    if allowed == 1 {
        let condition = json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "observedGeneration": status["observedGeneration"], "lastTransitionTime": time::seconds(now)});
        set_condition(&mut budget, condition);
    }
    budget["status"]["disruptedPods"][pod] = time::seconds(now).into();
    Ok(budget)
}

/// The pod, saying that it is evicted; one that has ended is just deleted.
fn evicted(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if !matches!(text(&pod, "/status/phase"), "Succeeded" | "Failed") && !object::is_being_deleted(&pod) {
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "lastProbeTime": null,
            "lastTransitionTime": time::seconds(jiff::Timestamp::now())});
        set_condition(&mut pod, condition);
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evicted_pod_says_so_unless_it_has_ended() {
        let reason = |phase: &str| {
            let pod = evicted(&json!({"status": {"phase": phase}}));
            pod["status"]["conditions"][0]["reason"].as_str().map(str::to_owned)
        };
        assert_eq!(reason("Running").as_deref(), Some("EvictionByEvictionAPI"));
        assert_eq!(reason("Succeeded"), None);
    }

    fn pod(phase: &str, ready: bool) -> Value {
        let condition = json!({"type": "Ready", "status": if ready { "True" } else { "False" }});
        json!({"metadata": {"name": "p", "labels": {"app": "web"}}, "status": {"phase": phase, "conditions": [condition]}})
    }

    fn budget(selector: Value, healthy: i64, desired: i64) -> Value {
        json!({"metadata": {"name": "b", "generation": 1}, "spec": {"selector": selector}, "status": {
            "observedGeneration": 1, "currentHealthy": healthy, "desiredHealthy": desired,
            "disruptionsAllowed": (healthy - desired).max(0)}})
    }

    fn web() -> Value {
        json!({"matchLabels": {"app": "web"}})
    }

    #[test]
    fn a_pod_that_serves_is_guarded_by_the_one_budget_that_selects_it() {
        let guarded = |pod: &Value, budgets: &[Value]| guard(pod, budgets).map_err(|error| error.code());
        let serving = pod("Running", true);
        let b = Ok(Some("b".to_owned()));
        assert_eq!(guarded(&serving, &[budget(web(), 2, 1)]), b);
        assert_eq!(guarded(&serving, &[budget(json!({}), 2, 1)]), b, "an empty selector selects all");
        assert_eq!(guarded(&serving, &[budget(Value::Null, 2, 1)]), Ok(None), "none selects none");
        assert_eq!(guarded(&serving, &[budget(json!({"matchLabels": {"app": "db"}}), 2, 1)]), Ok(None));
        assert_eq!(guarded(&serving, &[budget(web(), 2, 1), budget(json!({}), 2, 1)]), Err(500));
        for phase in ["Pending", "Succeeded", "Failed"] {
            assert_eq!(guarded(&pod(phase, false), &[budget(web(), 0, 1)]), Ok(None), "{phase}");
        }
        let mut going = serving;
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(guarded(&going, &[budget(web(), 0, 1)]), Ok(None));
    }

    #[test]
    fn an_unhealthy_pod_goes_as_its_budgets_policy_says() {
        let unhealthy = pod("Running", false);
        let guarded = |budget: Value| guard(&unhealthy, &[budget]).unwrap().is_some();
        assert!(!guarded(budget(web(), 2, 2)), "the budget is met without it");
        assert!(guarded(budget(web(), 1, 2)), "the application is disrupted already");
        assert!(guarded(budget(web(), 0, 0)), "nothing was worked out yet");
        let mut always = budget(web(), 1, 2);
        always["spec"]["unhealthyPodEvictionPolicy"] = "AlwaysAllow".into();
        assert!(!guarded(always));
    }

    #[test]
    fn one_disruption_is_taken_and_the_pod_noted() {
        let now: jiff::Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let taken = taken_from(&budget(web(), 3, 1), "p", now).unwrap();
        assert_eq!(taken["status"]["disruptionsAllowed"], 1);
        assert_eq!(taken["status"]["disruptedPods"], json!({"p": "2026-01-02T03:04:05Z"}));
        assert_eq!(taken["status"].get("conditions"), None);
        let last = taken_from(&taken, "q", now).unwrap();
        assert_eq!(last["status"]["disruptionsAllowed"], 0);
        assert_eq!(last["status"]["conditions"][0]["reason"], "InsufficientPods");
        let refused = taken_from(&last, "r", now).unwrap_err();
        assert_eq!(
            (refused.code(), refused.to_string().as_str(), refused.retry_after_seconds()),
            (429, VIOLATES, None)
        );
        let cause = &refused.status()["details"]["causes"][0];
        assert_eq!(cause["reason"], "DisruptionBudget");
        assert_eq!(cause["message"], "The disruption budget b needs 1 healthy pods and has 3 currently");
    }

    #[test]
    fn a_budget_that_its_controller_has_not_seen_allows_nothing_yet() {
        let mut changed = budget(web(), 3, 1);
        changed["metadata"]["generation"] = 2.into();
        let refused = taken_from(&changed, "p", jiff::Timestamp::now()).unwrap_err();
        assert_eq!((refused.code(), refused.retry_after_seconds()), (429, Some(10)));
        let mut full = budget(web(), 3, 1);
        for at in 0..=MAX_DISRUPTED {
            full["status"]["disruptedPods"][format!("p{at}")] = "2026-01-02T03:04:05Z".into();
        }
        assert_eq!(taken_from(&full, "p", jiff::Timestamp::now()).unwrap_err().code(), 403);
    }
}
