//! Names from the API server: the maps hold numbers and addresses only.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, api::ListParams};
use skerry_client::{Client, ConnectError, Item, Source, connect};

/// Where `skerry up` and `skerry node` keep theirs.
const OURS: &[&str] =
    &["/var/lib/skerry/server/kubeconfig/admin.yaml", "/var/lib/skerry/node/kubeconfig.yaml"];

#[derive(Clone, Debug, Args)]
pub struct ApiOptions {
    /// $KUBECONFIG, else the one of the cluster or node that runs here
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
}

impl ApiOptions {
    /// All Services.
    ///
    /// # Errors
    /// When the API server can't be asked.
    pub fn services(&self) -> anyhow::Result<Vec<Service>> {
        self.ask(async |client| {
            let list = Api::<Item<Service>>::all(client).list(&ListParams::default()).await;
            Ok(list.context("list services")?.items.into_iter().map(Item::any).collect())
        })
    }

    /// Address of a pod, the first one.
    ///
    /// # Errors
    /// When the API server can't be asked, or the pod has none.
    pub fn pod_address(&self, namespace: &str, name: &str) -> anyhow::Result<std::net::IpAddr> {
        let address = self.pod(namespace, name)?.status.and_then(|status| status.pod_ip);
        let address = address.with_context(|| format!("pod {namespace}/{name} has no address yet"))?;
        address.parse().with_context(|| format!("the address of pod {namespace}/{name}, {address}"))
    }

    /// # Errors
    /// When the API server can't be asked, or there is no such pod.
    pub fn pod(&self, namespace: &str, name: &str) -> anyhow::Result<Pod> {
        self.ask(async |client| {
            let pod = Api::<Item<Pod>>::namespaced(client, namespace).get(name).await;
            pod.map(Item::any).with_context(|| format!("get pod {namespace}/{name}"))
        })
    }

    /// Asks in a runtime of its own.
    ///
    /// # Errors
    /// When there is no way to an API server, or the question's own.
    pub fn ask<T>(&self, question: impl AsyncFnOnce(Client) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { question(self.client().await?).await })
    }

    /// A way to the API server; no connection is made yet.
    ///
    /// # Errors
    /// When there are no credentials, or they can't be read.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let ours = || OURS.iter().map(PathBuf::from).find(|path| path.exists());
        let kubeconfig = self.kubeconfig.clone().or_else(ours);
        match connect(&Source::of(kubeconfig.as_deref())).await {
            Ok(server) => Ok(server.client),
            Err(ConnectError::InCluster(_)) => bail!("no kubeconfig: give --kubeconfig"),
            Err(error) => Err(error.into()),
        }
    }
}
