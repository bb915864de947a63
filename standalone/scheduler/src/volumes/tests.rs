use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::cycle::{Decision, schedule};
use crate::message;
use crate::nodes::Nodes;
use crate::plugins::Namespaces;
use crate::preempt::preempt;

/// What there is, as JSON makes it.
#[derive(Default)]
struct World {
    claims: Vec<Arc<PersistentVolumeClaim>>,
    volumes: Vec<Arc<PersistentVolume>>,
    classes: Vec<Arc<StorageClass>>,
    unreadable: Vec<&'static str>,
}

impl Known for World {
    fn claim(&self, _: &str, name: &str) -> Result<Option<Arc<PersistentVolumeClaim>>, Unreadable> {
        if self.unreadable.contains(&name) {
            return Err(Unreadable);
        }
        Ok(self.claims.iter().find(|claim| claim.metadata.name.as_deref() == Some(name)).cloned())
    }

    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.iter().find(|volume| volume.metadata.name.as_deref() == Some(name)).cloned()
    }

    fn volumes(&self) -> Vec<Arc<PersistentVolume>> {
        self.volumes.clone()
    }

    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.iter().find(|class| class.metadata.name.as_deref() == Some(name)).cloned()
    }
}

impl World {
    fn new() -> Self {
        let class = |name: &str, provisioner: &str, mode: &str, extra: Value| {
            let mut class =
                json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
            for (name, value) in extra.as_object().unwrap() {
                class[name] = value.clone();
            }
            Arc::new(serde_json::from_value(class).unwrap())
        };
        let in_zone =
            json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": ["a"]}]}]});
        let classes = vec![
            class("later", "example.com/disks", "WaitForFirstConsumer", json!({})),
            class("zoned", "example.com/disks", "WaitForFirstConsumer", in_zone),
            class("by-hand", NO_PROVISIONER, "WaitForFirstConsumer", json!({})),
            class("at-once", "example.com/disks", "Immediate", json!({})),
        ];
        Self { classes, ..Default::default() }
    }

    fn claim(mut self, name: &str, class: &str, extra: Value) -> Self {
        let mut claim = json!({"metadata": {"name": name, "namespace": "ns", "uid": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": class}});
        json_patch::merge(&mut claim, &extra);
        self.claims.push(Arc::new(serde_json::from_value(claim).unwrap()));
        self
    }

    fn bound(self, name: &str, volume: &str) -> Self {
        let sides = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": volume}});
        self.claim(name, "later", sides)
    }

    /// A volume on one node.
    fn volume(mut self, name: &str, class: &str, node: &str) -> Self {
        let volume = json!({"metadata": {"name": name}, "status": {"phase": "Available"},
            "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": class,
                "local": {"path": "/a"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}});
        self.volumes.push(Arc::new(serde_json::from_value(volume).unwrap()));
        self
    }
}

fn pod(name: &str, claims: &[&str]) -> PodInfo {
    let volumes: Vec<Value> = claims
        .iter()
        .map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}))
        .collect();
    let pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": name},
        "spec": {"containers": [{"name": "c"}], "volumes": volumes}});
    PodInfo::of(&serde_json::from_value::<Pod>(pod).unwrap())
}

/// Nodes n1 in zone a and n2 in zone b.
fn nodes() -> Nodes {
    let mut nodes = Nodes::default();
    for (name, zone) in [("n1", "a"), ("n2", "b")] {
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": zone}},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}});
        nodes.set(&serde_json::from_value(node).unwrap());
    }
    nodes
}

/// The node, or why there is none.
fn decide(world: &World, nodes: &Nodes, pod: &PodInfo) -> Result<String, String> {
    let demands = Demands::of(pod, world);
    match schedule(pod, nodes, &Namespaces::new(), &demands, &mut 0) {
        Decision::Place(node) => Ok(node),
        Decision::Refuse(diagnosis) => {
            let preemption =
                preempt(pod, &mut nodes.clone(), (&Namespaces::new(), &demands), &diagnosis, &[]);
            Err(message::unschedulable(&diagnosis, &preemption))
        }
    }
}

#[test]
fn what_no_node_can_help_is_told_in_upstreams_words() {
    let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let lost = json!({"spec": {"volumeName": "v"}, "status": {"phase": "Lost"}});
    let mut world = World::new()
        .claim("at-once", "at-once", json!({}))
        .claim("classless", "", json!({}))
        .claim("going", "later", going)
        .claim("lost", "later", lost);
    world.unreadable.push("broken");
    let hopeless = "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    for (claim, why) in [
        ("none", "persistentvolumeclaim \"none\" not found"),
        ("at-once", "pod has unbound immediate PersistentVolumeClaims"),
        ("classless", "pod has unbound immediate PersistentVolumeClaims"),
        ("going", "persistentvolumeclaim \"going\" is being deleted"),
        ("lost", "persistentvolumeclaim \"lost\" bound to non-existent persistentvolume \"v\""),
        ("broken", "persistentvolumeclaim \"broken\" can't be read"),
    ] {
        let told = decide(&world, &nodes(), &pod("p", &[claim])).unwrap_err();
        assert_eq!(told, format!("0/2 nodes are available: {why}. {hopeless}"));
    }
}

#[test]
fn a_pod_goes_where_its_bound_volume_is() {
    let world = World::new()
        .volume("on-n2", "later", "n2")
        .volume("on-n3", "later", "n3")
        .bound("a", "on-n2")
        .bound("b", "on-n3");
    assert_eq!(decide(&world, &nodes(), &pod("p", &["a"])).unwrap(), "n2");
    let told = decide(&world, &nodes(), &pod("p", &["b"])).unwrap_err();
    assert!(
        told.starts_with("0/2 nodes are available: 2 node(s) had volume node affinity conflict."),
        "{told}"
    );
    let told = decide(&World::new().bound("a", "nowhere"), &nodes(), &pod("p", &["a"])).unwrap_err();
    assert!(
        told.contains("2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"),
        "{told}"
    );
}

#[test]
fn an_open_claim_takes_a_volume_of_the_node_or_has_one_made_there() {
    let world = World::new()
        .volume("on-n2", "by-hand", "n2")
        .claim("found", "by-hand", json!({}))
        .claim("too-many", "by-hand", json!({}))
        .claim("made", "later", json!({}))
        .claim("zoned", "zoned", json!({}));
    let nodes = nodes();
    assert_eq!(decide(&world, &nodes, &pod("p", &["found", "made"])).unwrap(), "n2");
    assert_eq!(decide(&world, &nodes, &pod("p", &["zoned"])).unwrap(), "n1");
    let told = decide(&world, &nodes, &pod("p", &["found", "too-many"])).unwrap_err();
    let text = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.";
    assert!(told.starts_with(text), "one volume is not given twice: {told}");
    let demands = Demands::of(&pod("p", &["found", "made"]), &world);
    let choices = demands.choose(nodes.facts_of("n2").unwrap()).unwrap();
    assert!(choices.iter().any(|choice| matches!(choice, Choice::Take(claim, volume)
        if claim.metadata.name.as_deref() == Some("found") && volume.metadata.name.as_deref() == Some("on-n2"))));
    assert!(choices.iter().any(
        |choice| matches!(choice, Choice::Make(claim) if claim.metadata.name.as_deref() == Some("made"))
    ));
}

#[test]
fn a_claim_that_was_promised_to_a_node_stays_there_until_it_is_let_go() {
    let selected = json!({"metadata": {"annotations": {SELECTED_NODE: "n2"}}});
    let world = World::new().claim("promised", "later", selected).claim("let-go", "later", json!({}));
    assert_eq!(decide(&world, &nodes(), &pod("p", &["promised"])).unwrap(), "n2");
    assert!(Demands::of(&pod("p", &["promised"]), &world).all_promised("n2"));
    assert!(!Demands::of(&pod("p", &["promised"]), &world).all_promised("n1"));
    assert!(!Demands::of(&pod("p", &["let-go"]), &world).all_promised("n2"));
}

#[test]
fn a_claim_for_one_pod_alone_waits_until_the_other_has_ended() {
    let alone = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"accessModes": ["ReadWriteOncePod"], "volumeName": "v"}});
    let world = World::new().volume("v", "later", "n1").claim("alone", "later", alone);
    let mut nodes = nodes();
    let first = pod("first", &["alone"]);
    assert_eq!(decide(&world, &nodes, &first).unwrap(), "n1");
    nodes.place(Arc::new(first.clone()), "n1");
    let told = decide(&world, &nodes, &pod("second", &["alone"])).unwrap_err();
    assert!(
        told.contains("node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod"),
        "{told}"
    );
    nodes.place(Arc::new(PodInfo { terminal: true, ..first }), "n1");
    assert_eq!(decide(&world, &nodes, &pod("second", &["alone"])).unwrap(), "n1");
}

#[test]
fn a_pods_own_claim_is_waited_for_and_must_be_its_own() {
    let volume = json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}});
    let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {"containers": [{"name": "c"}], "volumes": [volume]}});
    let pod = PodInfo::of(&serde_json::from_value::<Pod>(pod).unwrap());
    let mut world = World::default();
    let text = "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-v\"";
    assert_eq!(Demands::of(&pod, &world).refusal.as_deref(), Some(text));
    let claim = |uid: &str| -> Arc<PersistentVolumeClaim> {
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true});
        let claim = json!({"metadata": {"name": "p-v", "namespace": "ns", "ownerReferences": [owner],
            "annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "pv"}});
        Arc::new(serde_json::from_value(claim).unwrap())
    };
    world.claims = vec![claim("another")];
    let text = "PVC ns/p-v was not created for pod ns/p (pod is not owner)";
    assert_eq!(Demands::of(&pod, &world).refusal.as_deref(), Some(text));
    world.claims = vec![claim("u")];
    assert_eq!(Demands::of(&pod, &world).refusal, None);
}
