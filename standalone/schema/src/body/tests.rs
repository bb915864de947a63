use serde_json::json;

use super::{fit::base64_fault, *};

fn deployment(text: &str) -> Result<Decoded, DecodeError> {
    decode("apps/v1", "Deployment", text.as_bytes(), Format::Json)
}

#[test]
fn wrong_types_are_named_as_upstream_names_them() {
    let cases = [
        (
            r#"{"spec":{"replicas":"x"}}"#,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"spec":{"replicas":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":[{"image":5}]}}}}"#,
            "json: cannot unmarshal number into Go struct field Container.spec.template.spec.containers.image of type string",
        ),
        (
            r#"{"metadata":{"labels":{"a":5}}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":[{"resources":{"limits":{"cpu":"1x"}}}]}}}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ];
    for (body, detail) in cases {
        let expected = format!("Deployment in version \"v1\" cannot be handled as a Deployment: {detail}");
        assert_eq!(deployment(body).unwrap_err().to_string(), expected);
    }
}

#[test]
fn unknown_and_duplicate_fields_are_dropped_and_named() {
    let body =
        r#"{"spec":{"foo":1,"replicas":1,"replicas":2,"template":{"spec":{"containers":[{"imag":"a"}]}}}}"#;
    let decoded = deployment(body).unwrap();
    assert_eq!(
        decoded.strict,
        [
            r#"unknown field "spec.foo""#,
            r#"unknown field "spec.template.spec.containers[0].imag""#,
            r#"duplicate field "spec.replicas""#
        ]
    );
    assert_eq!(decoded.value["spec"], json!({"replicas": 2, "template": {"spec": {"containers": [{}]}}}));
    assert_eq!(decoded.value["kind"], "Deployment");
}

#[test]
fn yaml_reads_as_json_does() {
    let body = b"spec:\n  replicas: 1\n  replicas: 3\n  foo: x\n";
    let decoded = decode("apps/v1", "Deployment", body, Format::Yaml).unwrap();
    assert_eq!(decoded.value["spec"], json!({"replicas": 3}));
    assert_eq!(decoded.strict, [r#"unknown field "spec.foo""#, r#"duplicate field "spec.replicas""#]);
    assert!(decode("apps/v1", "Deployment", b"spec: [", Format::Yaml).is_err());
}

#[test]
fn another_kind_or_version_is_refused() {
    assert!(matches!(deployment(r#"{"kind":"Pod","apiVersion":"v1"}"#), Err(DecodeError::Kind { .. })));
    assert!(matches!(deployment(r#"{"apiVersion":"apps/v2"}"#), Err(DecodeError::Version { .. })));
    assert!(matches!(deployment("[]"), Err(DecodeError::Syntax { .. })));
    assert!(matches!(deployment(r#"{"a":1"#), Err(DecodeError::Syntax { .. })));
    assert!(matches!(deployment(r#"{} {}"#), Err(DecodeError::Syntax { .. })));
}

#[test]
fn deep_nesting_and_many_unknown_fields_stay_bounded() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(deployment(&deep).is_err());
    assert!(decode("apps/v1", "Deployment", deep.as_bytes(), Format::Yaml).is_err());
    let many: Vec<String> = (0..10_000).map(|n| format!("\"x{n}\":1")).collect();
    assert_eq!(deployment(&format!("{{{}}}", many.join(","))).unwrap().strict.len(), tree::MAX_REPORTED);
}

#[test]
fn yaml_that_grows_by_aliases_is_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let items = vec![format!("*a{}", n - 1); 10].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{items}]\n"));
    }
    let started = std::time::Instant::now();
    assert!(decode("v1", "ConfigMap", bomb.as_bytes(), Format::Yaml).is_err());
    assert!(started.elapsed().as_secs() < 10);
    let octal =
        decode("v1", "Pod", b"spec: {volumes: [{name: v, secret: {defaultMode: 0644}}]}", Format::Yaml)
            .unwrap();
    assert_eq!(octal.value["spec"]["volumes"][0]["secret"]["defaultMode"], 420);
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), text in "[\\[\\]{}:,\"'a-c0-9 \n&*!|>-]{0,80}") {
        for format in [Format::Json, Format::Yaml] {
            let _ = decode("v1", "Pod", &body, format);
            let _ = decode("v1", "Pod", text.as_bytes(), format);
        }
    }
}

#[test]
fn quantities_times_and_nulls_get_their_canonical_form() {
    let body = r#"{"metadata":{"creationTimestamp":null,"deletionTimestamp":"2026-01-01T02:00:00+02:00"},
        "spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":0.5,"memory":"1024Mi"}}}]}}"#;
    let pod = decode("v1", "Pod", body.as_bytes(), Format::Json).unwrap().value;
    assert_eq!(pod["metadata"], json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}));
    assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"], json!({"cpu": "500m", "memory": "1Gi"}));
}

#[test]
fn base64_faults_are_found() {
    for good in ["", "YQ==", "YWI=", "YWJj", "YW\nJj"] {
        assert_eq!(base64_fault(good), None, "{good}");
    }
    for bad in ["Y", "YQ=", "YQ", "a b=", "YQ==YQ==", "===="] {
        assert!(base64_fault(bad).is_some(), "{bad}");
    }
}
