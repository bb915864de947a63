//! Jobs and CronJobs.

use serde_json::{Value, json};

use super::{hold, job, made, updated, with};

#[test]
fn every_rule_of_jobs() {
    let indexed = || [("/spec/completionMode", json!("Indexed")), ("/spec/completions", json!(3))];
    let and_indexed =
        |more: Vec<(&'static str, Value)>| indexed().into_iter().chain(more).collect::<Vec<_>>();
    let rules = |rule: Value| ("/spec/podFailurePolicy", json!({"rules": [rule]}));
    let codes = |operator: &str, values: Value| {
        rules(json!({"action": "FailJob", "onExitCodes": {"operator": operator, "values": values}}))
    };
    let rule = "spec.podFailurePolicy.rules[0]";
    hold(
        "batch/v1",
        "Job",
        &job(),
        &[
            (
                vec![("/spec/completionMode", json!("Indexed")), ("/spec/parallelism", json!(2))],
                "spec.completions: Required value: when completion mode is Indexed",
            ),
            (
                and_indexed(vec![("/spec/parallelism", json!(100_001))]),
                "spec.parallelism: Invalid value: 100001: must be less than",
            ),
            (
                vec![("/spec/backoffLimitPerIndex", json!(1))],
                "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
            ),
            (
                and_indexed(vec![("/spec/maxFailedIndexes", json!(1))]),
                "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes",
            ),
            (
                and_indexed(vec![
                    ("/spec/maxFailedIndexes", json!(4)),
                    ("/spec/backoffLimitPerIndex", json!(1)),
                ]),
                "spec.maxFailedIndexes: Invalid value: 4: must be less than or equal to completions",
            ),
            (vec![("/spec/managedBy", json!("example.com/a"))], ""),
            (
                vec![("/spec/managedBy", json!("a"))],
                "spec.managedBy: Invalid value: \"a\": must be a domain-prefixed path",
            ),
            (vec![codes("In", json!([1, 2]))], ""),
            (
                vec![codes("In", json!([0]))],
                "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0",
            ),
            (
                vec![codes("In", json!([2, 1]))],
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,1]: must be ordered",
            ),
            (
                vec![codes("In", json!([1, 1]))],
                "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Duplicate value",
            ),
            (vec![rules(json!({"action": "Ignore"}))], &format!("{rule}: Invalid value")),
            (
                vec![rules(json!({"action": "FailIndex", "onPodConditions": [{"type": "A"}]}))],
                &format!("{rule}.action: Invalid value"),
            ),
            (
                vec![
                    rules(json!({"action": "Ignore", "onPodConditions": [{"type": "A"}]})),
                    ("/spec/template/spec/restartPolicy", json!("OnFailure")),
                ],
                "spec.template.spec.restartPolicy: Invalid value: \"OnFailure\"",
            ),
            (
                vec![("/spec/successPolicy", json!({"rules": [{"succeededCount": 1}]}))],
                "spec.successPolicy: Invalid value",
            ),
            (
                and_indexed(vec![("/spec/successPolicy", json!({"rules": [{"succeededCount": 4}]}))]),
                "spec.successPolicy.rules[0].succeededCount: Invalid value: 4",
            ),
            (
                and_indexed(vec![("/spec/successPolicy", json!({"rules": []}))]),
                "spec.successPolicy.rules: Required value",
            ),
            (
                vec![
                    ("/spec/selector", json!({"matchLabels": {"a": "b"}})),
                    ("/spec/template/metadata/labels", json!({"a": "b"})),
                ],
                "spec.selector: Invalid value",
            ),
        ],
    );
    let cron = json!({"spec": {"schedule": "* * * * *", "jobTemplate": job()}});
    hold(
        "batch/v1",
        "CronJob",
        &cron,
        &[
            (
                vec![("/spec/jobTemplate/spec/selector", json!({"matchLabels": {"a": "b"}}))],
                "spec.jobTemplate.spec.selector: Invalid value",
            ),
            (
                vec![("/spec/jobTemplate/spec/manualSelector", json!(true))],
                "spec.jobTemplate.spec.manualSelector: Unsupported value",
            ),
        ],
    );
}

#[test]
fn a_suspended_jobs_pods_may_be_led_elsewhere_and_nothing_else() {
    let old = made("batch/v1", "Job", with(job(), &[("/spec/suspend", json!(true))])).unwrap();
    let template = "/spec/template";
    let at = |field: &str| format!("{template}/{field}");
    let change = |old: &Value, field: &str, value: Value| {
        updated("batch/v1", "Job", old, with(old.clone(), &[(&at(field), value)]), None).map(drop)
    };
    let allowed = [
        ("spec/nodeSelector", json!({"disk": "ssd"})),
        ("spec/tolerations", json!([{"operator": "Exists"}])),
        ("spec/schedulingGates", json!([{"name": "a"}])),
        ("metadata/annotations", json!({"a": "b"})),
        ("spec/affinity", json!({"nodeAffinity": {}})),
        ("spec/containers/0/resources", json!({"limits": {"cpu": "1"}})),
    ];
    for (field, value) in &allowed {
        assert_eq!(change(&old, field, value.clone()), Ok(()), "{field}");
    }
    let started = with(old.clone(), &[("/status/startTime", json!("2026-01-01T00:00:00Z"))]);
    let running = made("batch/v1", "Job", job()).unwrap();
    for before in [&started, &running] {
        for (field, value) in &allowed {
            let errors = change(before, field, value.clone()).unwrap_err();
            assert!(errors[0].starts_with("spec.template: Invalid value"), "{field}: {errors:?}");
        }
    }
    for (field, value) in [
        ("spec/containers/0/image", json!("b")),
        ("spec/restartPolicy", json!("OnFailure")),
        ("spec/affinity", json!({"podAffinity": {}})),
    ] {
        let errors = change(&old, field, value).unwrap_err();
        assert!(errors[0].starts_with("spec.template: Invalid value"), "{field}: {errors:?}");
    }
    // A CronJob's template is for Jobs to come.
    let cron = made("batch/v1", "CronJob", json!({"spec": {"schedule": "* * * * *", "jobTemplate": job()}}))
        .unwrap();
    let new = with(
        cron.clone(),
        &[
            ("/spec/jobTemplate/spec/template/spec/containers/0/image", json!("b")),
            ("/spec/jobTemplate/spec/completions", json!(5)),
        ],
    );
    assert_eq!(
        updated("batch/v1", "CronJob", &cron, new, None).unwrap()["spec"]["jobTemplate"]["spec"]["completions"],
        5
    );
}

#[test]
fn an_indexed_job_grows_with_its_parallelism() {
    let base = with(
        job(),
        &[
            ("/spec/completionMode", json!("Indexed")),
            ("/spec/completions", json!(3)),
            ("/spec/parallelism", json!(3)),
        ],
    );
    let old = made("batch/v1", "Job", base).unwrap();
    let grown = |completions: i64, parallelism: i64| {
        let new = with(
            old.clone(),
            &[("/spec/completions", json!(completions)), ("/spec/parallelism", json!(parallelism))],
        );
        updated("batch/v1", "Job", &old, new, None).map(drop)
    };
    assert_eq!(grown(5, 5), Ok(()));
    assert!(grown(5, 3).unwrap_err()[0].contains("can only be modified in tandem with spec.parallelism"));
}
