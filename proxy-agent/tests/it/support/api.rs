//! An API server in memory: list and watch of the kinds that the proxy follows, over plain HTTP.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use skerry_lab::Netns;

#[derive(Default)]
struct Store {
    revision: u64,
    /// (plural, "namespace/name") → object.
    objects: BTreeMap<(String, String), Value>,
    /// (revision, plural, event type, object).
    log: Vec<(u64, String, &'static str, Value)>,
    /// Plurals that the server does not know.
    unknown: Vec<String>,
    /// Watches from before this revision are answered with 410.
    compacted: u64,
}

struct Inner {
    store: Mutex<Store>,
    changed: Condvar,
    is_away: AtomicBool,
    ended: AtomicBool,
    /// Watches begun so far, and how many of these say nothing any more.
    watches: AtomicU64,
    stalled: AtomicU64,
}

/// The server; it can be had in several namespaces at once, each with a listener of its own.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

impl Api {
    pub fn new() -> Api {
        Api(Arc::new(Inner {
            store: Mutex::default(),
            changed: Condvar::new(),
            is_away: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            watches: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
        }))
    }

    /// Listens on loopback of a namespace and writes a kubeconfig that points there.
    pub fn listen_in(&self, netns: &Netns, kubeconfig: &Path) -> SocketAddr {
        let address = self.listen_at(netns, "127.0.0.1");
        Api::write_kubeconfig(kubeconfig, &address.to_string());
        address
    }

    /// Says where the server is reached.
    pub fn write_kubeconfig(kubeconfig: &Path, address: &str) {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{address}")}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "users": [{"name": "test", "user": {}}],
        });
        std::fs::write(kubeconfig, config.to_string()).unwrap();
    }

    /// Listens on an address of a namespace, on any port.
    pub fn listen_at(&self, netns: &Netns, ip: &str) -> SocketAddr {
        let listener = netns.run(|| TcpListener::bind((ip, 0)).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let api = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let api = api.clone();
                std::thread::spawn(move || api.connection(stream));
            }
        });
        address
    }

    pub fn apply(&self, plural: &str, mut object: Value) {
        let key = (plural.to_owned(), key_of(&object));
        self.change(|store| {
            store.revision += 1;
            object["metadata"]["resourceVersion"] = json!(store.revision.to_string());
            let kind = if store.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
            store.log.push((store.revision, key.0.clone(), kind, object.clone()));
            store.objects.insert(key, object);
        });
    }

    pub fn delete(&self, plural: &str, key: &str) {
        self.change(|store| {
            let Some(mut object) = store.objects.remove(&(plural.to_owned(), key.to_owned())) else { return };
            store.revision += 1;
            object["metadata"]["resourceVersion"] = json!(store.revision.to_string());
            store.log.push((store.revision, plural.to_owned(), "DELETED", object));
        });
    }

    /// Answers 404 to who asks for a kind.
    pub fn forget_kind(&self, plural: &str) {
        self.change(|store| store.unknown.push(plural.to_owned()));
    }

    /// Ends all watches; who goes on from an old revision is told 410.
    pub fn compact(&self) {
        self.change(|store| store.compacted = store.revision);
    }

    /// Connections are closed without an answer, and watches break off.
    pub fn set_away(&self, is_away: bool) {
        self.0.is_away.store(is_away, Ordering::SeqCst);
        self.change(|_| {});
    }

    /// The watches that are there stay open and say nothing any more; new ones work.
    pub fn stall(&self) {
        self.0.stalled.store(self.0.watches.load(Ordering::SeqCst), Ordering::SeqCst);
        self.change(|_| {});
    }

    fn change(&self, f: impl FnOnce(&mut Store)) {
        f(&mut self.0.store.lock().unwrap());
        self.0.changed.notify_all();
    }

    fn is_gone(&self) -> bool {
        self.0.is_away.load(Ordering::SeqCst) || self.0.ended.load(Ordering::SeqCst)
    }

    fn connection(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut writer = stream;
        loop {
            let mut request = String::new();
            if reader.read_line(&mut request).unwrap_or(0) == 0 || self.is_gone() {
                return;
            }
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).unwrap_or(0) > 2 {
                if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = text.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() {
                return;
            }
            let mut words = request.split_whitespace();
            let (method, target) =
                (words.next().unwrap_or("GET").to_owned(), words.next().unwrap_or("/").to_owned());
            if method != "GET" {
                if self.write(&mut writer, &method, &target, &body).is_err() {
                    return;
                }
                continue;
            }
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            let plural = path.rsplit('/').next().unwrap().to_owned();
            let parameter =
                |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            let answered = match parameter("watch") {
                Some(_) => {
                    self.watch(
                        &mut writer,
                        &plural,
                        parameter("resourceVersion").unwrap_or("0").parse().unwrap(),
                    );
                    return;
                }
                None => {
                    let (limit, from) = (parameter("limit"), parameter("continue"));
                    let limit = limit.map_or(usize::MAX, |limit| limit.parse().unwrap());
                    self.list(&mut writer, &plural, limit, from.map_or(0, |from| from.parse().unwrap()))
                }
            };
            if answered.is_err() {
                return;
            }
        }
    }

    /// `POST` makes an object, `PATCH` merges the fields at the top into one.
    fn write(&self, writer: &mut TcpStream, method: &str, target: &str, body: &[u8]) -> std::io::Result<()> {
        let mut sent: Value = serde_json::from_slice(body).unwrap();
        let parts: Vec<&str> = target.split('/').skip_while(|part| *part != "namespaces").collect();
        let plural = parts[2];
        let answer = match method {
            "POST" => Some(sent),
            _ => self.get(plural, &format!("{}/{}", parts[1], parts[3])).map(|mut object| {
                object.as_object_mut().unwrap().append(sent.as_object_mut().unwrap());
                object
            }),
        };
        let status = match &answer {
            Some(object) => {
                self.apply(plural, object.clone());
                "200 OK"
            }
            None => "404 Not Found",
        };
        let body = answer.unwrap_or(json!({"kind": "Status", "status": "Failure", "code": 404})).to_string();
        let length = body.len();
        write!(
            writer,
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    }

    pub fn get(&self, plural: &str, key: &str) -> Option<Value> {
        self.0.store.lock().unwrap().objects.get(&(plural.to_owned(), key.to_owned())).cloned()
    }

    pub fn all(&self, plural: &str) -> Vec<Value> {
        let store = self.0.store.lock().unwrap();
        store
            .objects
            .iter()
            .filter(|((kind, _), _)| kind == plural)
            .map(|(_, object)| object.clone())
            .collect()
    }

    fn list(&self, writer: &mut TcpStream, plural: &str, limit: usize, from: usize) -> std::io::Result<()> {
        let (status, body) = {
            let store = self.0.store.lock().unwrap();
            let all: Vec<&Value> = store
                .objects
                .iter()
                .filter(|((kind, _), _)| kind == plural)
                .map(|(_, object)| object)
                .collect();
            let page: Vec<&Value> = all.iter().skip(from).take(limit).copied().collect();
            let next = from + page.len();
            let token = if next < all.len() { next.to_string() } else { String::new() };
            let list = json!({"kind": "List", "apiVersion": "v1", "items": page,
                   "metadata": {"resourceVersion": store.revision.to_string(), "continue": token}});
            match store.unknown.iter().any(|unknown| unknown == plural) {
                true => {
                    ("404 Not Found", json!({"kind": "Status", "status": "Failure", "code": 404}).to_string())
                }
                false => ("200 OK", list.to_string()),
            }
        };
        write!(
            writer,
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn watch(&self, writer: &mut TcpStream, plural: &str, from: u64) {
        let chunk = |writer: &mut TcpStream, event: Value| {
            let line = format!("{event}\n");
            write!(writer, "{:x}\r\n{line}\r\n", line.len())
        };
        let head = write!(
            writer,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let (mut at, mut result) = (from, head);
        let number = self.0.watches.fetch_add(1, Ordering::SeqCst) + 1;
        let mut store = self.0.store.lock().unwrap();
        while result.is_ok() && !self.is_gone() {
            if number <= self.0.stalled.load(Ordering::SeqCst) {
                store = self.0.changed.wait_timeout(store, Duration::from_secs(1)).unwrap().0;
                continue;
            }
            if at < store.compacted {
                let status = json!({"kind": "Status", "code": 410, "message": "too old", "metadata": {}});
                let _ = chunk(writer, json!({"type": "ERROR", "object": status}));
                let _ = write!(writer, "0\r\n\r\n");
                return;
            }
            let known = store.log.partition_point(|(revision, ..)| *revision <= at);
            let news: Vec<_> =
                store.log[known..].iter().filter(|(_, kind, ..)| kind == plural).cloned().collect();
            at = store.log.last().map_or(at, |(revision, ..)| at.max(*revision));
            if news.is_empty() {
                store = self.0.changed.wait_timeout(store, Duration::from_secs(1)).unwrap().0;
                continue;
            }
            drop(store);
            for (_, _, event, object) in news {
                if result.is_ok() {
                    result = chunk(writer, json!({"type": event, "object": object}));
                }
            }
            store = self.0.store.lock().unwrap();
        }
    }
}

fn key_of(object: &Value) -> String {
    let meta = &object["metadata"];
    match meta["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{}", meta["name"].as_str().unwrap()),
        None => meta["name"].as_str().unwrap().to_owned(),
    }
}

/// What a test writes most often.
impl Api {
    pub fn node(&self, name: &str, ip: &str, pod_cidr: &str) {
        self.apply(
            "nodes",
            json!({"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
                   "spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]},
                   "status": {"addresses": [{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": name}]}}),
        );
    }

    /// One port, TCP or UDP, with a NodePort.
    pub fn service(&self, name: &str, cluster_ip: &str, protocol: &str, port: u16, node_port: u16) {
        self.apply(
            "services",
            json!({"metadata": {"name": name, "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"},
                   "spec": {"type": "NodePort", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip],
                            "ports": [{"port": port, "protocol": protocol, "nodePort": node_port}]}}),
        );
    }

    pub fn annotate(&self, plural: &str, key: &str, name: &str, value: &str) {
        let mut object = self.get(plural, key).unwrap();
        object["metadata"]["annotations"][name] = json!(value);
        self.apply(plural, object);
    }

    /// Ready endpoints as (address, node).
    pub fn endpoints(&self, service: &str, protocol: &str, port: u16, endpoints: &[(&str, &str)]) {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(ip, node)| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true}}))
            .collect();
        self.apply(
            "endpointslices",
            json!({"metadata": {"name": format!("{service}-1"), "namespace": "default",
                                "labels": {"kubernetes.io/service-name": service}},
                   "addressType": "IPv4", "ports": [{"name": "", "port": port, "protocol": protocol}],
                   "endpoints": endpoints}),
        );
    }
}
