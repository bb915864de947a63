use serde_json::{Value, json};

use super::*;

fn pod(security: Value, container: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {"securityContext": security, "containers": [container]},
    }))
    .unwrap()
}

fn first(pod: &Pod) -> &Container {
    &pod.spec.as_ref().unwrap().containers[0]
}

fn parts(env: Vec<(String, String)>) -> ContainerParts {
    ContainerParts {
        attempt: 2,
        image: v1::Image { id: "sha256:1".into(), ..Default::default() },
        env,
        mounts: vec![],
        log_path: "c/2.log".into(),
        termination_file: "/f".into(),
        node_memory_bytes: 1 << 30,
        target: None,
    }
}

#[test]
fn command_and_args_are_expanded_with_the_containers_environment() {
    let pod = pod(json!({}), json!({"name": "c", "command": ["sh", "$(A)"], "args": ["$(B)"]}));
    let config = config(&pod, first(&pod), parts(vec![("A".into(), "1".into())])).unwrap();
    assert_eq!((config.command, config.args), (vec!["sh".to_owned(), "1".into()], vec!["$(B)".to_owned()]));
    assert_eq!(config.annotations[labels::RESTART_COUNT], "2");
}

#[test]
fn a_privileged_container_sees_all_of_proc() {
    let pod = pod(json!({"runAsUser": 5}), json!({"name": "c", "securityContext": {"privileged": true}}));
    let security = security(&pod, first(&pod), &v1::Image::default()).unwrap();
    assert!(security.privileged && security.masked_paths.is_empty());
    assert_eq!(security.run_as_user.unwrap().value, 5);
}

#[test]
fn run_as_non_root_looks_at_the_image() {
    let pod = pod(json!({"runAsNonRoot": true}), json!({"name": "c"}));
    let root = v1::Image::default();
    let named = v1::Image { username: "www".into(), ..Default::default() };
    let numeric = |value| v1::Image { uid: Some(v1::Int64Value { value }), ..Default::default() };
    assert!(verify_non_root(&pod, first(&pod), &root).unwrap_err().contains("will run as root"));
    assert!(verify_non_root(&pod, first(&pod), &numeric(0)).unwrap_err().contains("will run as root"));
    assert!(verify_non_root(&pod, first(&pod), &named).unwrap_err().contains("non-numeric user (www)"));
    assert_eq!(verify_non_root(&pod, first(&pod), &numeric(7)), Ok(()));
}

/// Every field of both security contexts that concerns Linux: the pod's, the container's, and what the
/// runtime is asked for, as a path into its request. Fields that are judged before (`sysctls`, what the node
/// can't give) or that belong to volumes (`fsGroup` as owner, `fsGroupChangePolicy` and
/// `seLinuxChangePolicy`, which say nothing of the kinds of volumes that are served) have tests of their own.
#[test]
fn every_field_of_a_security_context_reaches_the_runtime_or_is_refused() {
    type Read = fn(&v1::LinuxContainerSecurityContext) -> Value;
    let user: Read = |asked| json!(asked.run_as_user.as_ref().map(|user| user.value));
    let group: Read = |asked| json!(asked.run_as_group.as_ref().map(|group| group.value));
    let groups: Read = |asked| json!(asked.supplemental_groups);
    let policy: Read = |asked| json!(asked.supplemental_groups_policy);
    let seccomp: Read = |asked| {
        let profile = asked.seccomp.clone().unwrap();
        json!([profile.profile_type, profile.localhost_ref])
    };
    let apparmor: Read =
        |asked| json!(asked.apparmor.clone().map(|profile| (profile.profile_type, profile.localhost_ref)));
    let selinux: Read =
        |asked| json!(asked.selinux_options.clone().map(|se| (se.user, se.role, se.r#type, se.level)));
    let capabilities: Read =
        |asked| json!(asked.capabilities.clone().map(|all| (all.add_capabilities, all.drop_capabilities)));
    let masked: Read = |asked| json!([asked.masked_paths.len(), asked.readonly_paths.len()]);
    let none = json!({});
    let localhost = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}});
    let level = |level: &str| json!({"seLinuxOptions": {"level": level}});
    let cases: Vec<(Value, Value, Read, Value)> = vec![
        (json!({"runAsUser": 5}), none.clone(), user, json!(5)),
        (json!({"runAsUser": 5}), json!({"runAsUser": 6}), user, json!(6)),
        (none.clone(), none.clone(), user, json!(null)),
        (json!({"runAsUser": 5, "runAsGroup": 7}), none.clone(), group, json!(7)),
        (json!({"runAsUser": 5, "runAsGroup": 7}), json!({"runAsGroup": 8}), group, json!(8)),
        // A group alone: the image's user is named with it, here root's.
        (json!({"runAsGroup": 7}), none.clone(), group, json!(7)),
        (json!({"runAsGroup": 7}), none.clone(), user, json!(0)),
        (json!({"supplementalGroups": [3, 4], "fsGroup": 9}), none.clone(), groups, json!([3, 4, 9])),
        (json!({"supplementalGroupsPolicy": "Strict"}), none.clone(), policy, json!(1)),
        (json!({"supplementalGroupsPolicy": "Merge"}), none.clone(), policy, json!(0)),
        (none.clone(), none.clone(), seccomp, json!([1, ""])),
        (json!({"seccompProfile": {"type": "RuntimeDefault"}}), none.clone(), seccomp, json!([0, ""])),
        (localhost.clone(), json!({"seccompProfile": {"type": "Unconfined"}}), seccomp, json!([1, ""])),
        (none.clone(), localhost.clone(), seccomp, json!([2, "/var/lib/kubelet/seccomp/a/b.json"])),
        (none.clone(), none.clone(), apparmor, json!(null)),
        (json!({"appArmorProfile": {"type": "RuntimeDefault"}}), none.clone(), apparmor, json!([0, ""])),
        (
            json!({"appArmorProfile": {"type": "RuntimeDefault"}}),
            json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "k"}}),
            apparmor,
            json!([2, "k"]),
        ),
        (level("s0:c1"), none.clone(), selinux, json!(["", "", "", "s0:c1"])),
        (level("s0:c1"), level("s0:c2"), selinux, json!(["", "", "", "s0:c2"])),
        (
            none.clone(),
            json!({"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}}),
            capabilities,
            json!([["NET_ADMIN"], ["ALL"]]),
        ),
        (none.clone(), json!({"privileged": true}), |asked| json!(asked.privileged), json!(true)),
        (
            none.clone(),
            json!({"readOnlyRootFilesystem": true}),
            |asked| json!(asked.readonly_rootfs),
            json!(true),
        ),
        (
            none.clone(),
            json!({"allowPrivilegeEscalation": false}),
            |asked| json!(asked.no_new_privs),
            json!(true),
        ),
        (
            none.clone(),
            json!({"allowPrivilegeEscalation": true}),
            |asked| json!(asked.no_new_privs),
            json!(false),
        ),
        (none.clone(), json!({"procMount": "Default"}), masked, json!([12, 5])),
        (none.clone(), json!({"procMount": "Unmasked"}), masked, json!([0, 0])),
    ];
    for (pods, own, read, expected) in cases {
        let pod = pod(pods.clone(), json!({"name": "c", "securityContext": own}));
        let asked = security(&pod, first(&pod), &v1::Image::default()).unwrap();
        assert_eq!(read(&asked), expected, "{pods} {own}");
    }
    let refused = [
        json!({"procMount": "Whole"}),
        json!({"seccompProfile": {"type": "Localhost"}}),
        json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "../../etc/x"}}),
        json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "/etc/x"}}),
        json!({"seccompProfile": {"type": "Strict"}}),
        json!({"appArmorProfile": {"type": "Localhost"}}),
        json!({"appArmorProfile": {"type": "Strict"}}),
    ];
    for own in refused {
        let pod = pod(json!({}), json!({"name": "c", "securityContext": own}));
        assert!(security(&pod, first(&pod), &v1::Image::default()).is_err(), "{own}");
    }
}

#[test]
fn a_group_without_a_user_goes_with_the_images_user() {
    let pod = pod(json!({"runAsGroup": 7}), json!({"name": "c"}));
    let asked = |image: v1::Image| {
        let asked = security(&pod, first(&pod), &image).unwrap();
        (asked.run_as_user.map(|user| user.value), asked.run_as_username, asked.run_as_group.map(|g| g.value))
    };
    let numeric = v1::Image { uid: Some(v1::Int64Value { value: 33 }), ..Default::default() };
    assert_eq!(asked(numeric), (Some(33), String::new(), Some(7)));
    let named = v1::Image { username: "www".into(), ..Default::default() };
    assert_eq!(asked(named), (None, "www".into(), Some(7)));
}

#[test]
fn an_apparmor_profile_of_an_old_manifest_counts() {
    let mut pod = pod(json!({"appArmorProfile": {"type": "Unconfined"}}), json!({"name": "c"}));
    let mut annotate = |value: &str| {
        let key = "container.apparmor.security.beta.kubernetes.io/c".to_owned();
        pod.metadata.annotations = Some([(key, value.to_owned())].into());
        let profile = profiles::apparmor(&pod, first(&pod));
        profile.map(|profile| profile.map(|profile| (profile.profile_type, profile.localhost_ref)))
    };
    assert_eq!(annotate("localhost/k"), Ok(Some((2, "k".to_owned()))));
    assert_eq!(annotate("runtime/default"), Ok(Some((0, String::new()))));
    assert!(annotate("anything").is_err());
}

#[test]
fn a_container_with_a_target_sees_its_processes_unless_all_are_in_view() {
    let namespaces = |spec: serde_json::Value| {
        let pod = pod(json!({}), json!({"name": "c"}));
        let mut pod = pod;
        pod.spec.as_mut().unwrap().share_process_namespace = spec.as_bool();
        let parts = ContainerParts { target: Some("other".into()), ..parts(vec![]) };
        let config = config(&pod, first(&pod), parts).unwrap();
        config.linux.unwrap().security_context.unwrap().namespace_options.unwrap()
    };
    let own = namespaces(json!(false));
    assert_eq!((own.pid, own.target_id.as_str()), (v1::NamespaceMode::Target as i32, "other"));
    let shared = namespaces(json!(true));
    assert_eq!((shared.pid, shared.target_id.as_str()), (v1::NamespaceMode::Pod as i32, ""));
}
