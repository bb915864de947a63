//! The clients that people and our own processes use: kubectl, and kube's reflector.

use std::{collections::BTreeMap, process::Stdio};

use crate::support::{CONFIG_MAPS, PATIENCE, TestServer, config_map, until};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{WatchStreamExt, reflector, watcher},
};
use serde_json::json;
use skerry_lab::{Kubectl, skipped};

async fn kube_client(server: &TestServer) -> Client {
    let file = Kubeconfig::read_from(&server.paths.admin_kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

#[tokio::test]
async fn a_kube_reflector_follows_by_list_and_by_streaming_list() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(CONFIG_MAPS, &config_map("before")).await.ok();
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let maps: Api<ConfigMap> = Api::default_namespaced(kube_client(&server).await);
        let (reader, writer) = reflector::store();
        let stream = watcher(maps, config).default_backoff().reflect(writer).applied_objects();
        let follower = tokio::spawn(stream.for_each(|_| std::future::ready(())));
        tokio::time::timeout(PATIENCE, reader.wait_until_ready()).await.unwrap().unwrap();
        let names = || reader.state().iter().filter_map(|map| map.metadata.name.clone()).collect::<Vec<_>>();
        assert!(names().contains(&"before".to_owned()));
        admin.post(CONFIG_MAPS, &config_map("after")).await.ok();
        until("the new one is seen", || async { names().contains(&"after".to_owned()) }).await;
        admin.delete(&format!("{CONFIG_MAPS}/after")).await.ok();
        until("its end is seen", || async { !names().contains(&"after".to_owned()) }).await;
        follower.abort();
    }
}

#[tokio::test]
async fn a_kube_client_creates_patches_and_watches() {
    let server = TestServer::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(kube_client(&server).await);
    let object: ConfigMap = serde_json::from_value(config_map("a")).unwrap();
    let made = maps.create(&PostParams::default(), &object).await.unwrap();
    let patch = Patch::Merge(json!({"data": {"x": "y"}}));
    let patched = maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(patched.data, Some(BTreeMap::from([("a".into(), "b".into()), ("x".into(), "y".into())])));
    let version = made.metadata.resource_version.unwrap();
    let mut events = maps.watch(&Default::default(), &version).await.unwrap().boxed();
    let event = tokio::time::timeout(PATIENCE, events.try_next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(event, kube::api::WatchEvent::Modified(map) if map.data == patched.data));
    let error = maps.get("none").await.unwrap_err();
    assert!(matches!(error, kube::Error::Api(status) if status.code == 404 && status.reason == "NotFound"));
}

const MANIFEST: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: nginx
        ports: [{containerPort: 80}]
---
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 8080, targetPort: 80}]
";

/// Types what a person types, in order; each must print the text beside it.
fn type_it(kubectl: &Kubectl) {
    let said = |args: &str| kubectl.run(args).unwrap_or_else(|error| panic!("{error:#}"));
    let expect = |args: &str, text: &str| {
        let out = said(args);
        assert!(out.contains(text), "kubectl {args} printed:\n{out}\nwithout {text:?}");
    };
    assert!(kubectl.feed("apply -f -", MANIFEST).unwrap().contains("deployment.apps/web created"));
    assert!(kubectl.feed("apply -f -", MANIFEST).unwrap().contains("service/web unchanged"));
    let changed = MANIFEST.replace("replicas: 2", "replicas: 3");
    assert!(kubectl.feed("apply -f -", &changed).unwrap().contains("deployment.apps/web configured"));
    expect("get deployment web", "0/3");
    expect("get service -o wide", "8080:3");
    expect("get service", "443/TCP");
    expect("scale deployment web --replicas 5", "scaled");
    expect("get deployment web -o jsonpath={.spec.replicas}", "5");
    expect("create deployment k8s-nginx --image=nginx -r 3", "created");
    expect("expose deployment web --name two --port 80", "exposed");
    expect("label deployment web tier=front", "labeled");
    expect("describe service two", "Selector:");
    expect("describe deployment web", "Replicas:");
    expect("explain deployment.spec.replicas", "integer");
    expect("api-resources", "deployments");
    expect("auth can-i delete pods", "yes");
    expect("get --raw /metrics", "apiserver_request_total");
    let error = format!("{:#}", kubectl.run("get secrets -A --as=bob").unwrap_err());
    assert!(error.contains("does not support impersonation"), "{error}");
    expect("create namespace mem", "created");
    expect("run one --image=nginx -n mem", "created");
    expect("get pods -A -o wide", "NOMINATED NODE");
    expect("delete pod one -n mem", "deleted");
    expect("delete service two", "deleted");
    expect("delete deployment web", "deleted");
    let strict = MANIFEST.replace("replicas: 2", "replicaz: 2");
    let error = format!("{:#}", kubectl.feed("apply -f -", &strict).unwrap_err());
    assert!(error.contains("unknown field \"spec.replicaz\""), "{error}");
    let wrong = MANIFEST.replace("replicas: 2", "replicas: two");
    let error = format!("{:#}", kubectl.feed("apply -f -", &wrong).unwrap_err());
    assert!(error.contains("replicas"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_works_as_typed() {
    let server = TestServer::start().await;
    let kubectl = match Kubectl::new(server.paths.admin_kubeconfig.clone()) {
        Ok(kubectl) => kubectl,
        Err(error) => return skipped("kubectl_works_as_typed", &format!("{error:#}")),
    };
    tokio::task::spawn_blocking(move || type_it(&kubectl)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_get_watches() {
    let server = TestServer::start().await;
    let kubectl = match Kubectl::new(server.paths.admin_kubeconfig.clone()) {
        Ok(kubectl) => kubectl,
        Err(error) => return skipped("kubectl_get_watches", &format!("{error:#}")),
    };
    let mut watching =
        kubectl.command("get configmaps -w --no-headers").stdout(Stdio::piped()).spawn().unwrap();
    let stdout = watching.stdout.take().unwrap();
    let admin = server.admin();
    admin.post(CONFIG_MAPS, &config_map("first")).await.ok();
    let (lines, mut seen) = tokio::sync::mpsc::channel(16);
    std::thread::spawn(move || {
        use std::io::BufRead as _;
        for line in std::io::BufReader::new(stdout).lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let mut next = async || tokio::time::timeout(PATIENCE, seen.recv()).await.expect("a line").unwrap();
    assert!(next().await.starts_with("first"));
    admin.post(CONFIG_MAPS, &config_map("second")).await.ok();
    assert!(next().await.starts_with("second"));
    watching.kill().unwrap();
    watching.wait().unwrap();
}
