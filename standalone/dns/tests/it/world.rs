//! A DNS process in this one, fed by an agent of the test's own.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, Query},
    rr::{Name, RecordType},
};
use serde_json::{Value, json};
use skerry_dns::{
    Config,
    feed::{Listeners, Source},
    metrics::Metrics,
    model::{Document, Service, Slice},
    zone::{Change, KINDS},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixListener},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub struct World {
    pub dir: tempfile::TempDir,
    pub source: Arc<Source>,
    pub address: SocketAddr,
    pub metrics: Arc<Metrics>,
    listeners: Arc<Listeners>,
    running: Option<JoinHandle<()>>,
    feed: Option<CancellationToken>,
}

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);

impl World {
    /// A process that knows nothing yet, with these resolvers.
    pub async fn new(resolvers: &[SocketAddr]) -> World {
        let dir = tempfile::tempdir().unwrap();
        let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = datagrams.local_addr().unwrap();
        let streams = TcpListener::bind(address).unwrap();
        let listeners = Arc::new(Listeners { datagrams: vec![datagrams], streams });
        // No resolver of the machine's own is asked.
        std::fs::write(dir.path().join("resolv.conf"), "").unwrap();
        let mut world = World {
            dir,
            source: Arc::default(),
            address,
            metrics: Arc::new(Metrics::new("cluster.local.")),
            listeners,
            running: None,
            feed: None,
        };
        world.start_agent();
        world.start().await;
        if !resolvers.is_empty() {
            let list: Vec<String> = resolvers.iter().map(SocketAddr::to_string).collect();
            world.set(&format!(
                "forward: [{}]\n",
                list.iter().map(|it| format!("'{it}'")).collect::<Vec<_>>().join(",")
            ));
        }
        world
    }

    pub fn start_agent(&mut self) {
        let path = self.path("feed.sock");
        drop(std::fs::remove_file(&path));
        let socket = UnixListener::bind(path).unwrap();
        let shutdown = CancellationToken::new();
        let uid = nix::unistd::Uid::effective().as_raw();
        tokio::spawn(self.source.clone().serve(socket, self.listeners.clone(), uid, shutdown.clone()));
        self.feed = Some(shutdown);
    }

    pub fn stop_agent(&mut self) {
        self.feed.take().unwrap().cancel();
        std::fs::remove_file(self.path("feed.sock")).unwrap();
    }

    pub async fn start(&mut self) {
        let config = Config {
            domain: Name::from_ascii("cluster.local.").unwrap(),
            ranges: vec!["10.96.0.0/12".parse().unwrap()],
            servers: vec!["10.96.0.10".parse().unwrap()],
            feed: self.path("feed.sock"),
            state: self.path("state"),
            admin: self.path("admin.sock"),
            resolv_conf: self.path("resolv.conf"),
        };
        let (told, ready) = tokio::sync::oneshot::channel();
        let metrics = self.metrics.clone();
        self.running = Some(tokio::spawn(async move {
            skerry_dns::run(config, metrics, move || told.send(()).unwrap()).await.unwrap();
        }));
        tokio::time::timeout(PATIENCE, ready).await.unwrap().unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn service(&self, name: &str, spec: Value) {
        let object = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec});
        let service = Service::from_api(&serde_json::from_value(object).unwrap());
        self.source.apply(Change::Service(format!("ns/{name}").into(), Some(service)));
    }

    pub fn slice(&self, name: &str, service: &str, endpoints: Value) {
        let object = json!({"metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "endpoints": endpoints});
        let slice = Slice::from_api(&serde_json::from_value(object).unwrap());
        self.source.apply(Change::Slice(format!("ns/{name}").into(), slice));
    }

    /// Our own ConfigMap.
    pub fn set(&self, text: &str) {
        let document = Document([("config.yaml".into(), text.into())].into());
        self.source.apply(Change::Document("skerry-dns".into(), Some(document)));
    }

    /// Everything has been said.
    pub fn complete(&self) {
        (0..KINDS).for_each(|kind| self.source.listed(u8::try_from(kind).unwrap(), |_| true));
    }

    pub fn question(name: &str, kind: RecordType, edns: Option<u16>) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.metadata.recursion_desired = true;
        if let Some(payload) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        message
    }

    /// `None`: nobody answers.
    pub async fn ask_with(&self, message: &Message) -> Option<Message> {
        let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket.send(&message.to_vec().unwrap()).await.unwrap();
        let mut buffer = [0; 4096];
        let length =
            tokio::time::timeout(Duration::from_secs(6), socket.recv(&mut buffer)).await.ok()?.unwrap();
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(answer.metadata.id, message.metadata.id);
        assert_eq!(
            answer.queries[0].name().to_ascii(),
            message.queries[0].name().to_ascii(),
            "capitals and all"
        );
        Some(answer)
    }

    pub async fn ask_by_tcp(&self, message: &Message) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let bytes = message.to_vec().unwrap();
        stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        Message::from_vec(&answer).unwrap()
    }

    /// `CODE` or the records' contents.
    pub async fn ask(&self, name: &str, kind: RecordType) -> String {
        let Some(answer) = self.ask_with(&Self::question(name, kind, Some(1232))).await else {
            return "SILENCE".to_owned();
        };
        text(&answer)
    }

    /// Asks until it is so.
    pub async fn eventually(&self, name: &str, kind: RecordType, expected: &str) {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(name, kind).await;
            if answer == expected {
                return;
            }
            assert!(tokio::time::Instant::now() < until, "{name} {kind}: {answer}, not {expected}");
            tokio::task::yield_now().await;
        }
    }
}

pub fn text(answer: &Message) -> String {
    if answer.answers.is_empty() {
        return match answer.metadata.response_code {
            hickory_proto::op::ResponseCode::NoError => "NODATA".to_owned(),
            code => skerry_dns::metrics::code_label(code).to_owned(),
        };
    }
    answer.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>().join(", ")
}
