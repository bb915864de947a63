//! Pods on a real containerd, told by our own API server.

use crate::support::{Bed, able, condition, phase, state};
use anyhow::Result;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{Api, api::PostParams};
use serde_json::json;

const BUSYBOX: &str = "busybox";

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_answers_for_itself_and_leaves_nothing_behind() -> Result<()> {
    if !able("a_pod_runs_answers_for_itself_and_leaves_nothing_behind") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    let begun = std::time::Instant::now();
    bed.create(
        "web",
        json!({"containers": [{"name": "c", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "echo hello $(WHO); trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"],
            "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]}),
    )
    .await?;
    let pod = bed.pod("web", "is Running and Ready", |pod| condition(pod, "Ready")).await?;
    eprintln!("ready after {:?}", begun.elapsed());
    let status = pod.status.as_ref().unwrap();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert!(status.pod_ip.as_deref().unwrap().starts_with("10.244.0."), "{:?}", status.pod_ip);
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    let uid = pod.metadata.uid.clone().unwrap();
    let log = bed.sh(&format!("cat /var/log/pods/default_web_{uid}/c/0.log"))?;
    assert!(log.trim_end().ends_with("stdout F hello web"), "{log}");
    let events = bed.events("web").await?;
    for reason in ["Pulled", "Created", "Started"] {
        assert!(events.iter().any(|event| event.starts_with(reason)), "{reason} in {events:?}");
    }
    bed.pods().delete("web", &Default::default()).await?;
    bed.gone("web").await?;
    assert_eq!(
        bed.sh("ls /var/log/pods /var/lib/skerry/node/kubelet/pods | grep -c web || true")?.trim(),
        "0"
    );
    let left = bed.sh(&format!("find /sys/fs/cgroup -name '*{uid}*' | wc -l"))?;
    assert_eq!(left.trim(), "0", "cgroup folders");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_decide_the_phase() -> Result<()> {
    if !able("exit_codes_decide_the_phase") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    for (name, code) in [("good", 0), ("bad", 3)] {
        let command = format!("echo last words > /dev/termination-log; exit {code}");
        bed.create(
            name,
            json!({"restartPolicy": "Never", "containers": [
                {"name": "c", "image": BUSYBOX, "command": ["sh", "-c", command]}]}),
        )
        .await?;
    }
    bed.pod("good", "Succeeded", |pod| phase(pod) == "Succeeded").await?;
    let bad = bed.pod("bad", "Failed", |pod| phase(pod) == "Failed").await?;
    let end = state(&bad).unwrap().terminated.unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (3, Some("Error")));
    assert_eq!(end.message.as_deref(), Some("last words\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_container_is_restarted_with_back_off() -> Result<()> {
    if !able("a_failing_container_is_restarted_with_back_off") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    bed.create("crash", json!({"containers": [{"name": "c", "image": BUSYBOX, "command": ["false"]}]}))
        .await?;
    let pod = bed.pod("crash", "CrashLoopBackOff", |pod| waiting(pod) == "CrashLoopBackOff").await?;
    let status = &pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
    assert_eq!(status.restart_count, 1, "the first restart is at once");
    let message = status.state.clone().unwrap().waiting.unwrap().message.unwrap();
    let uid = pod.metadata.uid.clone().unwrap();
    assert_eq!(message, format!("back-off 10s restarting failed container=c pod=crash_default({uid})"));
    assert_eq!(status.last_state.clone().unwrap().terminated.unwrap().exit_code, 1);
    bed.pod("crash", "was restarted again", |pod| restarts(pod) == 2).await?;
    bed.until("an event about the back-off", async || {
        let events = bed.events("crash").await?;
        Ok(events
            .into_iter()
            .find(|event| event.starts_with("BackOff Back-off restarting failed container c")))
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_flip_readiness_and_restart_what_does_not_live() -> Result<()> {
    if !able("probes_flip_readiness_and_restart_what_does_not_live") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    bed.sh("mkdir -p /var/lib/probe && touch /var/lib/probe/alive")?;
    let probe = |file: &str| json!({"exec": {"command": ["test", "-e", format!("/probe/{file}")]}, "periodSeconds": 1, "failureThreshold": 1});
    bed.create(
        "probed",
        json!({"terminationGracePeriodSeconds": 1, "volumes": [{"name": "v", "hostPath": {"path": "/var/lib/probe"}}],
            "containers": [{"name": "c", "image": BUSYBOX, "command": ["sleep", "1000"],
                "volumeMounts": [{"name": "v", "mountPath": "/probe"}],
                "readinessProbe": probe("ready"), "livenessProbe": probe("alive")}]}),
    )
    .await?;
    let pod = bed.pod("probed", "runs", |pod| phase(pod) == "Running").await?;
    assert!(!condition(&pod, "Ready"));
    bed.sh("touch /var/lib/probe/ready")?;
    bed.pod("probed", "is Ready", |pod| condition(pod, "Ready")).await?;
    bed.sh("rm /var/lib/probe/ready")?;
    bed.pod("probed", "is not Ready", |pod| !condition(pod, "Ready")).await?;
    bed.sh("rm /var/lib/probe/alive")?;
    bed.pod("probed", "was restarted", |pod| restarts(pod) == 1).await?;
    let events = bed.events("probed").await?;
    for text in [
        "Unhealthy Readiness probe failed",
        "Unhealthy Liveness probe failed",
        "Killing Container c failed liveness probe, will be restarted",
    ] {
        assert!(events.iter().any(|event| event.starts_with(text)), "{text} in {events:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_carry_what_they_should_and_follow_their_objects() -> Result<()> {
    if !able("volumes_carry_what_they_should_and_follow_their_objects") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    let maps: Api<ConfigMap> = Api::namespaced(bed.client.clone(), "default");
    let secrets: Api<Secret> = Api::namespaced(bed.client.clone(), "default");
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"key": "hush"}});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    let script = "cat /cm/k /shared/from-init; echo; cat /sec/key; echo; cat /down/name; echo; \
        grep -c tmpfs /proc/mounts > /mem/n && echo $K; touch /done; sleep 1000";
    bed.create(
        "vols",
        json!({"terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "shared", "emptyDir": {}}, {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {"name": "cm", "configMap": {"name": "m"}}, {"name": "sec", "secret": {"secretName": "s", "defaultMode": 256}},
                {"name": "down", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}],
            "initContainers": [{"name": "i", "image": BUSYBOX, "command": ["sh", "-c", "printf init > /shared/from-init"],
                "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}],
            "containers": [{"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script],
                "env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}],
                "volumeMounts": [{"name": "shared", "mountPath": "/shared"}, {"name": "mem", "mountPath": "/mem"},
                    {"name": "cm", "mountPath": "/cm"}, {"name": "sec", "mountPath": "/sec"}, {"name": "down", "mountPath": "/down"}]}]}),
    )
    .await?;
    // The ConfigMap is not there yet: the pod waits and says why, and goes on by itself once it is.
    bed.until("an event about the missing ConfigMap", async || {
        let events = bed.events("vols").await?;
        Ok(events
            .into_iter()
            .find(|event| event.starts_with("FailedMount") && event.ends_with("configmap \"m\" not found")))
    })
    .await?;
    let map = |value: &str| json!({"metadata": {"name": "m"}, "data": {"k": value}});
    maps.create(&PostParams::default(), &serde_json::from_value(map("one"))?).await?;
    let pod = bed.pod("vols", "is Ready", |pod| condition(pod, "Ready")).await?;
    let uid = pod.metadata.uid.clone().unwrap();
    let read_log = || bed.sh(&format!("cut -d' ' -f4- /var/log/pods/default_vols_{uid}/c/0.log"));
    let log =
        bed.until("the log", async || Ok(read_log().ok().filter(|log| log.lines().count() == 4))).await?;
    assert_eq!(log, "oneinit\nhush\nvols\none\n");
    maps.replace("m", &PostParams::default(), &serde_json::from_value(map("two"))?).await?;
    let file = format!("/var/lib/skerry/node/kubelet/pods/{uid}/volumes/kubernetes.io~configmap/cm/k");
    bed.until("the changed file", async || Ok(bed.sh(&format!("cat {file}"))?.eq("two").then_some(())))
        .await?;
    bed.pods().delete("vols", &Default::default()).await?;
    bed.gone("vols").await?;
    assert_eq!(bed.sh(&format!("grep -c {uid} /proc/mounts || true"))?.trim(), "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_limit_is_real() -> Result<()> {
    if !able("a_memory_limit_is_real") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    bed.create(
        "hog",
        json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "polinux/stress",
            "resources": {"requests": {"memory": "50Mi"}, "limits": {"memory": "100Mi"}},
            "command": ["stress"], "args": ["--vm", "1", "--vm-bytes", "250M", "--vm-hang", "1"]}]}),
    )
    .await?;
    let pod = bed.pod("hog", "Failed", |pod| phase(pod) == "Failed").await?;
    assert_eq!(pod.status.as_ref().unwrap().qos_class.as_deref(), Some("Burstable"));
    assert_eq!(state(&pod).unwrap().terminated.unwrap().reason.as_deref(), Some("OOMKilled"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_ends_within_its_grace_and_runs_its_hook_before() -> Result<()> {
    if !able("a_pod_ends_within_its_grace_and_runs_its_hook_before") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    bed.sh("mkdir -p /var/lib/hook")?;
    bed.create(
        "stubborn",
        json!({"terminationGracePeriodSeconds": 2, "volumes": [{"name": "v", "hostPath": {"path": "/var/lib/hook"}}],
            "containers": [{"name": "c", "image": BUSYBOX, "command": ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"],
                "lifecycle": {"preStop": {"exec": {"command": ["touch", "/hook/ran"]}}},
                "volumeMounts": [{"name": "v", "mountPath": "/hook"}]}]}),
    )
    .await?;
    bed.pod("stubborn", "is Ready", |pod| condition(pod, "Ready")).await?;
    let begun = std::time::Instant::now();
    bed.pods().delete("stubborn", &Default::default()).await?;
    bed.gone("stubborn").await?;
    let took = begun.elapsed().as_secs_f64();
    assert!((1.5..8.0).contains(&took), "{took} s");
    bed.sh("test -e /var/lib/hook/ran")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_nowhere_is_named() -> Result<()> {
    if !able("an_image_that_is_nowhere_is_named") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    for (name, policy) in [("never", "Never"), ("pull", "IfNotPresent")] {
        let spec = json!({"containers": [{"name": "c", "image": "registry.invalid/none:1", "imagePullPolicy": policy}]});
        bed.create(name, spec).await?;
    }
    bed.pod("never", "ErrImageNeverPull", |pod| waiting(pod) == "ErrImageNeverPull").await?;
    bed.pod("pull", "ErrImagePull", |pod| waiting(pod) == "ErrImagePull").await?;
    bed.pod("pull", "ImagePullBackOff", |pod| waiting(pod) == "ImagePullBackOff").await?;
    bed.pods().delete("pull", &Default::default()).await?;
    bed.gone("pull").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_on_the_hosts_network_has_the_nodes_address() -> Result<()> {
    if !able("a_pod_on_the_hosts_network_has_the_nodes_address") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    bed.create(
        "host",
        json!({"hostNetwork": true, "terminationGracePeriodSeconds": 1, "containers": [
            {"name": "c", "image": BUSYBOX, "command": ["sleep", "1000"],
                "readinessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 1}}]}),
    )
    .await?;
    let pod = bed.pod("host", "runs", |pod| phase(pod) == "Running").await?;
    assert_eq!(pod.status.unwrap().pod_ip, Some(bed.node.ip().to_string()));
    Ok(())
}

fn waiting(pod: &Pod) -> String {
    state(pod).and_then(|state| state.waiting?.reason).unwrap_or_default()
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.and_then(|statuses| statuses.first()).map_or(0, |status| status.restart_count)
}
