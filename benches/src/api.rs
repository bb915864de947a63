//! An API server at its edge: lists made beforehand, watches that stay silent, and the moment at which the
//! last byte of the last list left. Over plain HTTP, so that what is measured is the client.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use skerry_lab::{Netns, Node};

use crate::{peers::Service, probe};

/// The objects of each kind, by the last part of its path.
pub struct Lists(Vec<(&'static str, Vec<String>)>);

impl Lists {
    /// As a cluster has them that has run for a while: with the fields that nobody here reads.
    pub fn of(services: &[Service], node: &Node) -> Lists {
        let named = |name: &str, version: usize| {
            json!({
                "name": name, "namespace": "default", "uid": format!("7f0a3c1e-0000-4000-8000-{version:012}"),
                "resourceVersion": version.to_string(), "creationTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [{
                    "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
                    "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:spec": {"f:ports": {}, "f:selector": {}, "f:type": {}}},
                }],
            })
        };
        let service = |(number, service): (usize, &Service)| {
            let (name, ip) = (&service.name, service.address.ip().to_string());
            json!({
                "metadata": named(name, number),
                "spec": {
                    "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
                    "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
                    "selector": {"app": name},
                    "ports": [{"name": "http", "port": service.address.port(), "targetPort": 8080, "protocol": "TCP"}],
                },
                "status": {"loadBalancer": {}},
            })
        };
        let slice = |(number, service): (usize, &Service)| {
            let mut metadata = named(&format!("{}-x7k2p", service.name), number);
            metadata["labels"] = json!({"kubernetes.io/service-name": service.name, "app": service.name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"});
            let endpoint = |endpoint: &std::net::SocketAddrV4| {
                json!({
                    "addresses": [endpoint.ip().to_string()], "nodeName": "elsewhere",
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                    "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("{}-{}", service.name, endpoint.ip()),
                        "uid": format!("7f0a3c1e-0000-4000-9000-{number:012}")},
                })
            };
            json!({
                "metadata": metadata, "addressType": "IPv4",
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
                "endpoints": service.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
            })
        };
        let own = json!({
            "metadata": {"name": node.name(), "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"podCIDR": "10.244.9.0/24", "podCIDRs": ["10.244.9.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": node.ip().to_string()}]},
        });
        let text =
            |objects: &mut dyn Iterator<Item = Value>| objects.map(|object| object.to_string()).collect();
        Lists(vec![
            ("services", text(&mut services.iter().enumerate().map(service))),
            ("endpointslices", text(&mut services.iter().enumerate().map(slice))),
            ("nodes", vec![own.to_string()]),
        ])
    }
}

struct Inner {
    lists: Lists,
    /// Kinds whose list is not out yet.
    missing: Mutex<Vec<&'static str>>,
    complete: mpsc::Sender<u64>,
}

/// It ends with the program.
#[derive(Clone)]
pub struct FakeApi(Arc<Inner>);

impl FakeApi {
    /// Listens on the loopback of a namespace and writes a kubeconfig that leads there. The receiver is told
    /// once, when (by [`probe::now_ns`]) every kind has been listed to its end.
    ///
    /// # Errors
    /// When it can't listen there, or the file can't be written.
    pub fn serve(lists: Lists, netns: &Netns, kubeconfig: &Path) -> Result<mpsc::Receiver<u64>> {
        let listener = netns.run(|| TcpListener::bind("127.0.0.1:0"))?.context("listen as an API server")?;
        let address = listener.local_addr()?;
        write_kubeconfig(kubeconfig, address)?;
        let (complete, told) = mpsc::channel();
        let missing = Mutex::new(lists.0.iter().map(|(kind, _)| *kind).collect());
        let api = FakeApi(Arc::new(Inner { lists, missing, complete }));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let api = api.clone();
                // A client that is gone is no failure.
                std::thread::spawn(move || api.connection(&stream).ok());
            }
        });
        Ok(told)
    }

    fn connection(&self, mut stream: &TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Some(target) = request(&mut reader)? {
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            let parameter =
                |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            if parameter("watch").is_some() {
                let head =
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
                stream.write_all(head.as_bytes())?;
                // Until the client goes.
                let _ = std::io::copy(&mut reader, &mut std::io::sink());
                return Ok(());
            }
            let kind = path.rsplit('/').next().unwrap_or_default();
            let from = parameter("continue").and_then(|from| from.parse().ok()).unwrap_or(0);
            let limit = parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
            self.list(stream, kind, from, limit)?;
        }
        Ok(())
    }

    fn list(&self, mut stream: &TcpStream, kind: &str, from: usize, limit: usize) -> Result<()> {
        let found = self.0.lists.0.iter().find(|(known, _)| *known == kind);
        let all = found.map(|(_, items)| items.as_slice()).unwrap_or_default();
        let end = from.saturating_add(limit).min(all.len());
        let items = all.get(from..end).unwrap_or_default().join(",");
        let next = if end < all.len() { end.to_string() } else { String::new() };
        let body = format!(
            "{{\"kind\":\"List\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"100000\",\"continue\":\"{next}\"}},\
             \"items\":[{items}]}}"
        );
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        if next.is_empty() {
            let mut missing = self.0.missing.lock().unwrap_or_else(PoisonError::into_inner);
            let before = missing.len();
            missing.retain(|known| *known != kind);
            if before > 0 && missing.is_empty() {
                // Nobody listens any more: then nobody wants to know.
                let _ = self.0.complete.send(probe::now_ns()?);
            }
        }
        Ok(())
    }
}

/// The target of the next request; its body is read and forgotten. None at the end of the connection.
fn request(reader: &mut BufReader<TcpStream>) -> Result<Option<String>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().context("read content-length")?;
        }
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    Ok(Some(first.split_whitespace().nth(1).unwrap_or("/").to_owned()))
}

fn write_kubeconfig(path: &Path, address: SocketAddr) -> Result<()> {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {"server": format!("http://{address}")}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "users": [{"name": "bench", "user": {}}],
    });
    std::fs::write(path, config.to_string()).with_context(|| format!("write {}", path.display()))
}
