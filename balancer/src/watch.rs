//! The watches of a cluster: list and watch until the receiver is gone. While the API server is away what was received
//! stays in force.

use std::path::{Path, PathBuf};

use futures::StreamExt;
use kube::{
    Api, Client,
    api::DynamicObject,
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, GroupVersionKind},
    runtime::{WatchStreamExt, watcher},
};
use proxy_state::api;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::cluster::{Change, Kind, Object};

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("read {path}: --kubeconfig names a file that leads to an API server")]
    Kubeconfig { path: PathBuf, source: Box<kube::config::KubeconfigError> },
    #[error("find the API server from inside of a pod: no service account is there; use --kubeconfig")]
    InCluster(#[source] Box<kube::config::InClusterError>),
    #[error("make a client for the API server")]
    Client(#[source] Box<kube::Error>),
}

/// What a watch tells the balancer.
#[derive(Debug)]
pub enum Told {
    Change(Change),
    /// It was interrupted and is tried again.
    Failed,
}

/// `None`: from inside of a pod.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, WatchError> {
    let config = match kubeconfig {
        Some(path) => {
            let failed = |source| WatchError::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)?
        }
        None => kube::Config::incluster().map_err(|source| WatchError::InCluster(Box::new(source)))?,
    };
    Client::try_from(config).map_err(|source| WatchError::Client(Box::new(source)))
}

/// Follows one kind.
pub async fn follow(client: Client, kind: Kind, to: mpsc::Sender<Told>) {
    let resource = ApiResource::from_gvk(&match kind {
        Kind::Services => GroupVersionKind::gvk("", "v1", "Service"),
        Kind::Slices => GroupVersionKind::gvk("discovery.k8s.io", "v1", "EndpointSlice"),
        Kind::Nodes => GroupVersionKind::gvk("", "v1", "Node"),
    });
    let all: Api<DynamicObject> = Api::all_with(client, &resource);
    let mut events = watcher(all, watcher::Config::default()).default_backoff().boxed();
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        let told = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed.extend(read(kind, &object));
                continue;
            }
            Ok(watcher::Event::InitDone) => Told::Change(Change::Listed(kind, std::mem::take(&mut listed))),
            Ok(watcher::Event::Apply(object)) => match read(kind, &object) {
                Some(object) => Told::Change(Change::Applied(object)),
                None => continue,
            },
            Ok(watcher::Event::Delete(object)) => match read(kind, &object) {
                Some(object) => Told::Change(Change::Deleted(object)),
                None => continue,
            },
            Err(error) => {
                tracing::warn!(error = chain(&error), ?kind, "watch interrupted: what is balanced stays");
                Told::Failed
            }
        };
        if to.send(told).await.is_err() {
            return;
        }
    }
}

/// An object whose shape is not Kubernetes' is left out and named; the others are not held up.
fn read(kind: Kind, object: &DynamicObject) -> Option<Object> {
    fn typed<T: DeserializeOwned>(object: &DynamicObject) -> Result<Box<T>, serde_json::Error> {
        Ok(Box::new(serde_json::from_value(serde_json::to_value(object)?)?))
    }
    let read = match kind {
        Kind::Services => typed::<api::Service>(object).map(Object::Service),
        Kind::Slices => typed::<api::EndpointSlice>(object).map(Object::Slice),
        Kind::Nodes => typed::<api::Node>(object).map(Object::Node),
    };
    let meta = &object.metadata;
    read.inspect_err(|error| tracing::warn!(%error, ?kind, name = ?meta.name, namespace = ?meta.namespace, "object left out: not understood"))
        .ok()
}

pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
