//! What a pod asks for is given or refused.

use crate::support::{Bed, NODE, able, condition, phase};
use anyhow::{Context as _, Result};
use k8s_openapi::{api::core::v1::Pod, api::node::v1::RuntimeClass};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

const BUSYBOX: &str = "busybox";

fn sleeper() -> Value {
    json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "image": BUSYBOX, "command": ["sleep", "1000"]}]})
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut spec = sleeper();
    change(&mut spec);
    spec
}

fn reason(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|status| status.reason.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_does_not_fit_its_node_is_refused_by_the_node() -> Result<()> {
    if !able("a_pod_that_does_not_fit_its_node_is_refused_by_the_node") {
        return Ok(());
    }
    let mut bed = Bed::new().await?;
    let port =
        |spec: &mut Value| spec["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 8123}]);
    bed.create("first", with(port)).await?;
    bed.pod("first", "is Ready", |pod| condition(pod, "Ready")).await?;
    let sysctls = |name: &str| json!({"sysctls": [{"name": name, "value": "1"}]});
    let refused = [
        ("port", with(port), "NodePorts"),
        (
            "cpu",
            with(|spec| spec["containers"][0]["resources"] = json!({"requests": {"cpu": "1000"}})),
            "OutOfcpu",
        ),
        ("selector", with(|spec| spec["nodeSelector"] = json!({"disk": "ssd"})), "NodeAffinity"),
        ("sysctl", with(|spec| spec["securityContext"] = sysctls("net.core.somaxconn")), "SysctlForbidden"),
    ];
    for (name, spec, expected) in refused {
        bed.create(name, spec).await?;
        let pod = bed.pod(name, "Failed", |pod| phase(pod) == "Failed").await?;
        assert_eq!(reason(&pod), expected);
        let message = pod.status.as_ref().and_then(|status| status.message.clone()).context("a message")?;
        let told = message.strip_prefix("Pod was rejected: ").context("why")?;
        bed.until("an event", async || {
            let events = bed.events(name).await?;
            Ok(events.iter().any(|event| *event == format!("{expected} {told}")).then_some(()))
        })
        .await?;
        bed.pods().delete(name, &Default::default()).await?;
        bed.gone(name).await?;
    }
    // A restarted agent judges by what runs; a label of this moment counts.
    bed.agent.take().context("an agent")?.kill()?;
    bed.create("again", with(port)).await?;
    let label = json!({"metadata": {"labels": {"disk": "ssd"}}});
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(bed.client.clone());
    nodes.patch(NODE, &PatchParams::default(), &Patch::Merge(&label)).await?;
    bed.create("selector", with(|spec| spec["nodeSelector"] = json!({"disk": "ssd"}))).await?;
    bed.start_agent()?;
    bed.pod("again", "Failed", |pod| phase(pod) == "Failed" && reason(pod) == "NodePorts").await?;
    bed.pod("selector", "is Ready", |pod| condition(pod, "Ready")).await?;
    // What left makes room, and what the first one had is free again.
    for name in ["first", "again"] {
        bed.pods()
            .delete(name, &DeleteParams { grace_period_seconds: Some(1), ..Default::default() })
            .await?;
        bed.gone(name).await?;
    }
    bed.create("last", with(port)).await?;
    bed.pod("last", "is Ready", |pod| condition(pod, "Ready")).await?;
    Ok(())
}

/// Waits for an event that says so; the pod is still Pending.
async fn no_sandbox(bed: &Bed, name: &str, why: &str) -> Result<()> {
    let begin = "FailedCreatePodSandBox Failed to create pod sandbox: ";
    bed.until("an event", async || {
        let events = bed.events(name).await?;
        Ok(events.iter().any(|event| event.starts_with(begin) && event.contains(why)).then_some(()))
    })
    .await?;
    assert_eq!(phase(&bed.pods().get(name).await?), "Pending");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_class_runs_a_pod_by_its_handler_or_not_at_all() -> Result<()> {
    if !able("a_runtime_class_runs_a_pod_by_its_handler_or_not_at_all") {
        return Ok(());
    }
    let mut bed = Bed::new().await?;
    let classes: Api<RuntimeClass> = Api::all(bed.client.clone());
    let class = |name: &str, handler: &str| -> Result<RuntimeClass> {
        Ok(serde_json::from_value(json!({"metadata": {"name": name}, "handler": handler}))?)
    };
    classes.create(&PostParams::default(), &class("none", "no-such-handler")?).await?;
    classes.create(&PostParams::default(), &class("later", "runc")?).await?;
    bed.create("unknown", with(|spec| spec["runtimeClassName"] = json!("none"))).await?;
    no_sandbox(&bed, "unknown", "no runtime for \"no-such-handler\" is configured").await?;
    // A class that has gone since: the pod waits for it, and starts when it comes.
    bed.agent.take().context("an agent")?.kill()?;
    bed.create("waits", with(|spec| spec["runtimeClassName"] = json!("later"))).await?;
    classes.delete("later", &Default::default()).await?;
    bed.start_agent()?;
    no_sandbox(&bed, "waits", "runtimeclass.node.k8s.io \"later\" not found").await?;
    classes.create(&PostParams::default(), &class("later", "runc")?).await?;
    bed.pod("waits", "is Ready", |pod| condition(pod, "Ready")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn names_groups_and_kernel_parameters_are_as_they_were_asked_for() -> Result<()> {
    if !able("names_groups_and_kernel_parameters_are_as_they_were_asked_for") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    let script = "hostname; cat /proc/sys/net/ipv4/tcp_syncookies; id -u; id -g; grep alias /etc/hosts; \
        grep -c p.sub.default.svc.cluster.local /etc/hosts";
    bed.create(
        "p",
        json!({"restartPolicy": "Never", "subdomain": "sub", "setHostnameAsFQDN": true,
            "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["alias"]}],
            "securityContext": {"runAsGroup": 3000, "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "0"}]},
            "containers": [{"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script]}]}),
    )
    .await?;
    let pod = bed.pod("p", "has ended", |pod| matches!(phase(pod), "Succeeded" | "Failed")).await?;
    let uid = pod.metadata.uid.context("a uid")?;
    let log = bed.sh(&format!("cut -d' ' -f4- /var/log/pods/default_p_{uid}/c/0.log"))?;
    let expected = ["p.sub.default.svc.cluster.local", "0", "0", "3000", "192.0.2.9\talias", "1"];
    assert_eq!(log.lines().collect::<Vec<&str>>(), expected);
    // All containers of a pod together have the limits of the pod.
    let limits = json!({"cpu": "1500m", "memory": "64Mi"});
    bed.create("whole", with(|spec| spec["resources"] = json!({"limits": limits}))).await?;
    let pod = bed.pod("whole", "is Ready", |pod| condition(pod, "Ready")).await?;
    let uid = pod.metadata.uid.context("a uid")?;
    let read = |file: &str| {
        let find = format!("find /sys/fs/cgroup -path '*pod{uid}/{file}' | head -n1");
        bed.sh(&format!("found=$({find}); test -n \"$found\" && cat \"$found\""))
    };
    let memory = read("memory.max").or_else(|_| read("memory.limit_in_bytes"))?;
    assert_eq!(memory.trim(), (64 << 20).to_string());
    let cpu = read("cpu.max").or_else(|_| read("cpu.cfs_quota_us"))?;
    assert!(cpu.starts_with("150000"), "{cpu}");
    let subdomain = "s".repeat(60);
    let long = with(|spec| {
        spec["subdomain"] = json!(subdomain);
        spec["setHostnameAsFQDN"] = json!(true);
    });
    bed.create("long", long).await?;
    bed.until("an event about the name", async || {
        let events = bed.events("long").await?;
        let why =
            "Failed to create pod sandbox: failed to construct FQDN from pod hostname and cluster domain";
        Ok(events.iter().any(|event| event.contains(why)).then_some(()))
    })
    .await?;
    assert_eq!(phase(&bed.pods().get("long").await?), "Pending");
    Ok(())
}
