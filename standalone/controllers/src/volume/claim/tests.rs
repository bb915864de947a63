use super::*;

fn claim(extra: Value) -> PersistentVolumeClaim {
    let mut claim = json!({
        "metadata": {"name": "data", "namespace": "ns", "uid": "c", "resourceVersion": "7"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "manual"},
        "status": {"phase": "Pending"},
    });
    json_patch::merge(&mut claim, &extra);
    serde_json::from_value(claim).unwrap()
}

fn volume(extra: Value) -> Arc<PersistentVolume> {
    let mut volume = json!({
        "metadata": {"name": "v", "uid": "v"},
        "spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/a"}, "storageClassName": "manual"},
        "status": {"phase": "Available"},
    });
    json_patch::merge(&mut volume, &extra);
    Arc::new(serde_json::from_value(volume).unwrap())
}

fn class(name: &str, provisioner: &str, mode: &str, is_default: bool) -> Arc<StorageClass> {
    let class = json!({"metadata": {"name": name, "annotations": {DEFAULT_CLASS: is_default.to_string()}},
        "provisioner": provisioner, "reclaimPolicy": "Delete", "volumeBindingMode": mode});
    Arc::new(serde_json::from_value(class).unwrap())
}

fn node(folder: Option<&str>) -> Node {
    let annotations = folder.map_or(json!({}), |folder| json!({"skerry.io/local-path": folder}));
    let labels = json!({"kubernetes.io/hostname": "n1"});
    serde_json::from_value(json!({"metadata": {"name": "n1", "labels": labels, "annotations": annotations}}))
        .unwrap()
}

fn step(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    classes: &[Arc<StorageClass>],
) -> Plan {
    plan(&Snapshot { claim, volumes, volume_is_unreadable: false, classes, node: None })
}

fn phase(plan: &Plan) -> Option<&str> {
    plan.status.as_ref().and_then(|status| status.phase.as_deref())
}

fn told(plan: &Plan) -> Option<&'static str> {
    plan.news.first().map(|news| news.reason)
}

#[test]
fn a_claim_and_a_volume_that_fits_name_each_other() {
    let plan = step(&claim(json!({})), &[volume(json!({}))], &[]);
    let (reserved, patch) = plan.reserve.as_ref().unwrap();
    assert_eq!((&*reserved.name_any(), &patch["spec"]["claimRef"]["uid"]), ("v", &json!("c")));
    let patch = plan.claim.as_ref().unwrap();
    assert_eq!(patch["spec"]["volumeName"], "v");
    assert_eq!(patch["metadata"]["annotations"], json!({BIND_COMPLETED: "yes", BOUND_BY_CONTROLLER: "yes"}));
    let status = plan.status.as_ref().unwrap();
    assert_eq!(
        (status.phase.as_deref(), &status.capacity.as_ref().unwrap()["storage"].0),
        (Some("Bound"), &"2Gi".to_owned())
    );
}

#[test]
fn what_was_cut_short_goes_on_from_whichever_side_was_written() {
    let reserved = volume(json!({"spec": {"claimRef": {"namespace": "ns", "name": "data", "uid": "c"}}}));
    let plan = step(&claim(json!({})), std::slice::from_ref(&reserved), &[]);
    assert!(plan.reserve.is_none() && plan.claim.is_some());
    let bound =
        claim(json!({"spec": {"volumeName": "v"}, "metadata": {"annotations": {BIND_COMPLETED: "yes"}}}));
    let plan = step(&bound, &[reserved], &[]);
    assert!(plan.reserve.is_none() && plan.claim.is_none());
    assert_eq!(phase(&plan), Some("Bound"));
}

#[test]
fn a_claim_that_names_a_volume_gets_that_one_or_none() {
    let named = claim(json!({"spec": {"volumeName": "v"}}));
    assert!(step(&named, &[volume(json!({}))], &[]).reserve.is_some());
    assert_eq!(phase(&step(&named, &[], &[])), Some("Pending"));
    let small = volume(json!({"spec": {"capacity": {"storage": "1Mi"}}}));
    let plan = step(&named, &[small], &[]);
    assert_eq!((phase(&plan), told(&plan)), (Some("Pending"), Some("VolumeMismatch")));
    let taken = volume(json!({"spec": {"claimRef": {"namespace": "ns", "name": "other", "uid": "x"}}}));
    let plan = step(&named, &[taken], &[]);
    assert_eq!((phase(&plan), told(&plan)), (Some("Pending"), Some("FailedBinding")));
}

#[test]
fn a_bound_claim_whose_volume_goes_is_lost_and_that_is_told_once() {
    let bound = json!({"spec": {"volumeName": "v"}, "metadata": {"annotations": {BIND_COMPLETED: "yes"}},
        "status": {"phase": "Bound"}});
    let plan = step(&claim(bound.clone()), &[], &[]);
    assert_eq!((phase(&plan), told(&plan)), (Some("Lost"), Some("ClaimLost")));
    let mut lost = bound.clone();
    lost["status"]["phase"] = json!("Lost");
    assert_eq!(told(&step(&claim(lost), &[], &[])), None);
    let taken = volume(json!({"spec": {"claimRef": {"namespace": "ns", "name": "other", "uid": "x"}}}));
    assert_eq!(told(&step(&claim(bound.clone()), &[taken], &[])), Some("ClaimMisbound"));
    let unreadable = claim(bound);
    let plan = super::plan(&Snapshot {
        claim: &unreadable,
        volumes: &[],
        volume_is_unreadable: true,
        classes: &[],
        node: None,
    });
    assert!(plan.status.is_none() && plan.news.is_empty(), "it may well be there");
}

#[test]
fn an_older_claim_gets_a_default_class_that_came_later() {
    let none = claim(json!({"spec": {"storageClassName": null}}));
    let classes = [class("a", "x", "Immediate", false), class("b", "x", "Immediate", true)];
    assert_eq!(step(&none, &[], &classes).claim.unwrap()["spec"]["storageClassName"], "b");
    assert_eq!(told(&step(&none, &[], &[])), Some("FailedBinding"));
    // One that wants none gets none.
    assert_eq!(
        told(&step(&claim(json!({"spec": {"storageClassName": ""}})), &[], &classes)),
        Some("FailedBinding")
    );
}

#[test]
fn without_a_volume_it_is_told_what_is_waited_for() {
    let of = |name: &str| claim(json!({"spec": {"storageClassName": name}}));
    let classes = [
        class("local", LOCAL_PATH, "WaitForFirstConsumer", true),
        class("at-once", LOCAL_PATH, "Immediate", false),
        class("by-hand", NO_PROVISIONER, "Immediate", false),
        class("cloud", "example.com/disks", "Immediate", false),
    ];
    for (name, reason) in [
        ("local", "WaitForFirstConsumer"),
        ("at-once", "ProvisioningFailed"),
        ("by-hand", "FailedBinding"),
        ("cloud", "ExternalProvisioning"),
        ("none-such", "ProvisioningFailed"),
    ] {
        let plan = step(&of(name), &[], &classes);
        assert_eq!((phase(&plan), told(&plan)), (Some("Pending"), Some(reason)), "{name}");
    }
    let annotated = step(&of("cloud"), &[], &classes).claim.unwrap();
    assert_eq!(annotated["metadata"]["annotations"][PROVISIONER], "example.com/disks");
}

#[test]
fn a_free_volume_is_not_taken_before_the_first_pods_node_is_known() {
    let classes = [class("manual", NO_PROVISIONER, "WaitForFirstConsumer", false)];
    let plan = step(&claim(json!({})), &[volume(json!({}))], &classes);
    assert_eq!((plan.reserve.is_some(), told(&plan)), (false, Some("WaitForFirstConsumer")));
    // The scheduler takes one for the claim; the rest is done here.
    let reserved = volume(json!({"spec": {"claimRef": {"namespace": "ns", "name": "data", "uid": "c"}}}));
    assert_eq!(phase(&step(&claim(json!({})), &[reserved], &classes)), Some("Bound"));
}

#[test]
fn a_folder_is_made_on_the_selected_node_as_the_claim_asks() {
    let classes = [class("local", LOCAL_PATH, "WaitForFirstConsumer", true)];
    let asking = |extra: Value| {
        let mut base = json!({"spec": {"storageClassName": "local"}, "metadata": {"annotations": {SELECTED_NODE: "n1"}}});
        json_patch::merge(&mut base, &extra);
        claim(base)
    };
    let on = |claim: &PersistentVolumeClaim, node: Option<&Node>| {
        plan(&Snapshot { claim, volumes: &[], volume_is_unreadable: false, classes: &classes, node })
    };
    let here = node(Some("/var/lib/skerry/node/volumes/"));
    let volume = on(&asking(json!({})), Some(&here)).make.unwrap();
    let spec = volume.spec.as_ref().unwrap();
    assert_eq!(volume.name_any(), "pvc-c");
    assert_eq!(spec.local.as_ref().unwrap().path, "/var/lib/skerry/node/volumes/pvc-c");
    assert_eq!(spec.capacity.as_ref().unwrap()["storage"].0, "1Gi");
    assert_eq!(
        (volume.finalizers(), &*volume.labels()["skerry.io/local-path-node"]),
        (&["skerry.io/local-path".to_owned()][..], "n1")
    );
    assert_eq!(spec.claim_ref.as_ref().unwrap().uid.as_deref(), Some("c"));
    for (extra, node, why) in [
        (json!({}), None, "not found"),
        (json!({}), Some(node(None)), "no folder for volumes"),
        (json!({"spec": {"volumeMode": "Block"}}), Some(here.clone()), "volumeMode Block"),
        (json!({"spec": {"accessModes": ["ReadWriteMany"]}}), Some(here.clone()), "accessMode ReadWriteMany"),
        (json!({"spec": {"selector": {}}}), Some(here), "selector"),
    ] {
        let plan = on(&asking(extra), node.as_ref());
        assert!(plan.make.is_none() && plan.news[0].message.contains(why), "{why}: {:?}", plan.news);
    }
}
