//! A cluster whose API server holds many services, and the nodes beside it that have other proxies or none.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{core::v1::Service as ApiService, discovery::v1::EndpointSlice};
use kube::{Api, api::PostParams};
use skerry_client::{Client, Source, connect};
use skerry_lab::{Cluster, Lab, Node, cluster};

use crate::peers::{Service, idle_endpoints};

/// As many requests are under way at once.
const AT_ONCE: usize = 64;
const NAMESPACE: &str = "default";
pub const PORT: u16 = 80;
/// Between two tries of what gives no event to this process.
const LOOK: Duration = Duration::from_millis(20);

/// One server, one worker whose proxy is measured.
pub struct Filled {
    pub cluster: Cluster,
    pub services: Vec<Service>,
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Filled {
    /// # Errors
    /// When the cluster does not start.
    pub fn start() -> Result<Filled> {
        let options = cluster::Options { workers: 1, ..cluster::Options::default() };
        let cluster = Cluster::start(Lab::for_test()?, &options)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let source = Source::Kubeconfig(cluster.kubectl().kubeconfig().to_owned());
        let client = runtime.block_on(connect(&source))?.client;
        Ok(Filled { cluster, services: Vec::new(), runtime, client })
    }

    /// The node whose connections our proxy balances.
    ///
    /// # Errors
    /// When the cluster has no worker.
    pub fn worker(&self) -> Result<&Node> {
        self.cluster.workers().first().context("the cluster has a worker")
    }

    /// Where a backend outside of the cluster listens: in the lab's client namespace.
    pub fn backend_address(&self) -> Ipv4Addr {
        self.cluster.lab().subnet().host(2)
    }

    /// Adds services until there are `count`; the first and the last lead to `backend`, the rest nowhere.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub fn fill(&mut self, count: usize, backend: SocketAddrV4) -> Result<()> {
        let first = self.services.len();
        let last = count.saturating_sub(1);
        let endpoints = |number: usize| match number {
            0 => vec![backend],
            number if number == last => vec![backend],
            number => idle_endpoints(number),
        };
        let client = &self.client;
        let made = stream::iter(first..count).map(|number| make(client, number, endpoints(number)));
        let mut made: Vec<Service> = self.runtime.block_on(made.buffered(AT_ONCE).try_collect())?;
        self.services.append(&mut made);
        Ok(())
    }

    /// Adds a service that every node serves at `node_port`, TCP and UDP, with one backend.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn expose(&self, name: &str, node_port: u16, backend: SocketAddrV4) -> Result<()> {
        let ports = [("tcp", "TCP"), ("udp", "UDP")];
        let service = serde_json::json!({
            "metadata": {"name": name},
            "spec": {"type": "NodePort", "ports": ports.map(|(name, protocol)| serde_json::json!({
                "name": name, "port": PORT, "targetPort": backend.port(), "protocol": protocol, "nodePort": node_port,
            }))},
        });
        let slice = serde_json::json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": ports.map(|(name, protocol)| serde_json::json!({
                "name": name, "port": backend.port(), "protocol": protocol,
            })),
            "endpoints": [{"addresses": [backend.ip().to_string()], "conditions": {"ready": true}}],
        });
        let services: Api<ApiService> = Api::namespaced(self.client.clone(), NAMESPACE);
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), NAMESPACE);
        let (service, slice) = (serde_json::from_value(service)?, serde_json::from_value(slice)?);
        let params = PostParams::default();
        self.runtime.block_on(async {
            services.create(&params, &service).await.with_context(|| format!("create service {name}"))?;
            slices.create(&params, &slice).await.with_context(|| format!("create slice {name}"))
        })?;
        Ok(())
    }

    /// Replaces the endpoints of a service; returns when the API server has it.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn set_endpoints(&self, name: &str, endpoints: &[SocketAddrV4]) -> Result<()> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), NAMESPACE);
        let patch = kube::api::Patch::Merge(slice_json(name, endpoints)?);
        let params = kube::api::PatchParams::default();
        self.runtime
            .block_on(slices.patch(name, &params, &patch))
            .with_context(|| format!("patch slice {name}"))?;
        Ok(())
    }

    /// A node of the lab that is none of the cluster's.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn bystander(&self, name: &str) -> Result<Node> {
        self.cluster.lab().node(name)
    }
}

/// How long the proxy may take until a new service works.
pub const SYNC: Duration = Duration::from_secs(30);

/// Tries until it works, within `limit`.
///
/// # Errors
/// The last try's.
pub fn until_works<T>(limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(LOOK),
            done => return done,
        }
    }
}

async fn make(client: &Client, number: usize, endpoints: Vec<SocketAddrV4>) -> Result<Service> {
    let name = format!("s{number:05}");
    let services: Api<ApiService> = Api::namespaced(client.clone(), NAMESPACE);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let service = serde_json::from_value(serde_json::json!({
        "metadata": {"name": name},
        "spec": {"ports": [{"name": "http", "port": PORT, "targetPort": 8080, "protocol": "TCP"}]},
    }))?;
    let params = PostParams::default();
    let made = services.create(&params, &service).await.with_context(|| format!("create service {name}"))?;
    let ip = made.spec.and_then(|spec| spec.cluster_ip).context("a service without a ClusterIP")?;
    let slice = serde_json::from_value(slice_json(&name, &endpoints)?)?;
    slices.create(&params, &slice).await.with_context(|| format!("create slice {name}"))?;
    let address = SocketAddrV4::new(ip.parse().with_context(|| format!("the ClusterIP {ip}"))?, PORT);
    Ok(Service { name, address, endpoints })
}

fn slice_json(name: &str, endpoints: &[SocketAddrV4]) -> Result<serde_json::Value> {
    let port = endpoints.first().context("an endpoint")?.port();
    let list: Vec<_> = endpoints
        .iter()
        .map(|endpoint| serde_json::json!({"addresses": [endpoint.ip().to_string()], "conditions": {"ready": true}}))
        .collect();
    Ok(serde_json::json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": list,
    }))
}
