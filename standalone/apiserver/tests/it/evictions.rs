//! `pods/eviction`: what a disruption budget allows, through the API.

use http::Method;
use serde_json::{Value, json};

use crate::support::{Client, PODS, TestServer, bind, pod};

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

/// A ready pod.
async fn ready(admin: &Client, name: &str) {
    let mut object = pod(name);
    object["metadata"]["labels"] = json!({"app": "web"});
    admin.post(PODS, &object).await.ok();
    bind(admin, name, "n1").await.ok();
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    admin.patch(&format!("{PODS}/{name}/status"), "strategic-merge", &status).await.ok();
}

/// A budget, with the status that its controller would write.
async fn budget(admin: &Client, name: &str, allowed: i64) {
    let object = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    let made = admin.post(BUDGETS, &object).await.ok();
    let status = json!({"status": {"observedGeneration": made["metadata"]["generation"], "currentHealthy": 1 + allowed,
        "desiredHealthy": 1, "expectedPods": 1 + allowed, "disruptionsAllowed": allowed}});
    admin.patch(&format!("{BUDGETS}/{name}/status"), "merge", &status).await.ok();
}

async fn evict(admin: &Client, name: &str, query: &str, options: Value) -> crate::support::Answer {
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}, "deleteOptions": options});
    admin.post(&format!("{PODS}/{name}/eviction{query}"), &eviction).await
}

async fn status(admin: &Client) -> Value {
    admin.get(&format!("{BUDGETS}/b")).await.ok()["status"].clone()
}

#[tokio::test]
async fn evictions_take_from_the_budget_until_it_allows_no_more() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for name in ["p", "q", "r"] {
        ready(&admin, name).await;
    }
    budget(&admin, "b", 1).await;
    for (query, options) in [("?dryRun=All", json!({})), ("", json!({"dryRun": ["All"]}))] {
        evict(&admin, "p", query, options).await.ok();
        assert_eq!(status(&admin).await["disruptionsAllowed"], 1, "a dry run takes nothing");
        assert_eq!(admin.get(&format!("{PODS}/p")).await.ok()["metadata"].get("deletionTimestamp"), None);
    }
    let misnamed = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "q"}});
    let refused = admin.post(&format!("{PODS}/p/eviction"), &misnamed).await.refused(400);
    assert_eq!(refused, "name in URL does not match name in Eviction object");
    let other = json!({"preconditions": {"uid": "another"}});
    evict(&admin, "p", "", other).await.refused(409);
    assert_eq!(status(&admin).await["disruptionsAllowed"], 1, "a precondition that fails takes nothing");

    assert_eq!(evict(&admin, "p", "", json!({})).await.status, 201);
    let told = status(&admin).await;
    assert_eq!(told["disruptionsAllowed"], 0);
    assert!(told["disruptedPods"]["p"].is_string(), "{told}");
    let going = admin.get(&format!("{PODS}/p")).await.ok();
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let refused = evict(&admin, "q", "", json!({})).await;
    assert_eq!((refused.status.as_u16(), refused.headers.get("retry-after")), (429, None));
    assert_eq!(
        refused.body["details"]["causes"][0]["message"],
        "The disruption budget b needs 1 healthy pods and has 2 currently"
    );
    assert_eq!(refused.refused(429), "Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(admin.get(&format!("{PODS}/q")).await.ok()["metadata"].get("deletionTimestamp"), None);
    // Deleting is not evicting.
    admin.send(Method::DELETE, &format!("{PODS}/q"), &[], "").await.ok();

    // A budget that changes is asked anew only once its controller has seen the change.
    admin.patch(&format!("{BUDGETS}/b"), "merge", &json!({"spec": {"minAvailable": 0}})).await.ok();
    let refused = evict(&admin, "r", "", json!({})).await;
    assert_eq!(refused.headers["retry-after"], "10");
    assert_eq!(
        refused.body["details"]["causes"][0]["message"],
        "The disruption budget b is still being processed by the server."
    );
}

#[tokio::test]
async fn of_many_evictions_at_once_as_many_are_allowed_as_the_budget_says() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let names: Vec<String> = (0..8).map(|number| format!("p{number}")).collect();
    for name in &names {
        ready(&admin, name).await;
    }
    budget(&admin, "b", 3).await;
    let outcomes =
        futures::future::join_all(names.iter().map(|name| evict(&admin, name, "", json!({})))).await;
    let codes: Vec<u16> = outcomes.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 3, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 429).count(), 5, "{codes:?}");
    assert_eq!(status(&admin).await["disruptedPods"].as_object().unwrap().len(), 3);
}
