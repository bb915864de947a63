//! Debian's kubectl 1.20, which applies and explains by the OpenAPI v2 document in its protobuf form; and
//! lists of objects.

use anyhow::{Result, ensure};
use skerry_tests::manifest;

use crate::world::{SOON, World};

const LIST: &str = r#"
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: first}
  data: {a: "1"}
- apiVersion: v1
  kind: Service
  metadata: {name: second}
  spec: {selector: {app: x}, ports: [{port: 80, targetPort: web}]}
"#;

pub fn applies_and_explains(world: &World) -> Result<()> {
    let namespace = world.namespace("old-kubectl")?;
    let ns = &namespace.name;
    let old = world.kubectl().of_1_20()?;
    let said = old.run(&format!("apply -n {ns} -f {}", manifest("my-nginx-deployment.yaml")))?;
    ensure!(said.contains("created"), "{said}");
    let said = old.run(&format!("apply -n {ns} -f {}", manifest("my-nginx-deployment.yaml")))?;
    ensure!(said.contains("unchanged"), "{said}");
    old.run(&format!(
        "wait deployment --all -n {ns} --for=condition=Available --timeout={}s",
        SOON.as_secs()
    ))?;
    // It checks a manifest by the document before it sends it.
    let wrong = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: wrong}\ndatum: {a: b}\n";
    let refused = old.feed(&format!("apply -n {ns} -f -"), wrong).err().map(|error| format!("{error:#}"));
    let refused = refused.unwrap_or_default();
    ensure!(refused.contains("unknown field \"datum\""), "{refused}");
    let explained = old.run("explain pod.spec.containers.resources")?;
    ensure!(explained.contains("KIND:     Pod") && explained.contains("limits"), "{explained}");
    Ok(())
}

pub fn lists_are_applied_by_both(world: &World) -> Result<()> {
    let namespace = world.namespace("lists")?;
    let ns = &namespace.name;
    for (kubectl, word) in [(world.kubectl().clone(), "created"), (world.kubectl().of_1_20()?, "unchanged")] {
        let said = kubectl.feed(&format!("apply -n {ns} -f -"), LIST)?;
        for object in ["configmap/first", "service/second"] {
            ensure!(said.contains(&format!("{object} {word}")), "{said}");
        }
    }
    Ok(())
}
