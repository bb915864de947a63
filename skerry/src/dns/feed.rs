use std::{
    io::ErrorKind,
    net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};
use skerry_client::connect;
use skerry_dns::{
    config::{COREDNS, NAMESPACE, OWN},
    feed::{Listeners, Source},
    model::Document,
    zone::Change,
};
use skerry_informer::{Narrow, Readers, Store, reflect};
use tokio::{net::UnixListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{DnsOptions, ServeArgs};
use crate::{
    args::{ClusterArgs, FolderArgs},
    families,
    notify::Ear,
    paths::{Paths, make_dir},
    supervise::keep_running,
};

/// Threads that answer: more do not help a node that has other work.
const MAX_THREADS: usize = 4;
/// Annotation of our Node: names are answered here.
const PORT: &str = "dns.skerry.io/port";
/// A process that is away for longer has its clients go to other nodes.
const AWAY: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_secs(1);
/// Number of the kind of [`Change::Document`].
const DOCUMENTS: u8 = 3;

/// What the agent tells names to.
#[derive(Clone)]
pub struct Feed {
    pub source: Arc<Source>,
}

/// Opens the sockets and starts the DNS process, which answers from its last state until it hears more.
pub fn start(
    options: &DnsOptions,
    folders: &FolderArgs,
    cluster: &ClusterArgs,
    shutdown: CancellationToken,
) -> anyhow::Result<Feed> {
    let paths = Paths(folders);
    make_dir(&paths.dns_data(), 0o700)?;
    make_dir(&paths.dns_run(), 0o700)?;
    let listeners = Arc::new(listen(options.dns_port)?);
    let socket = feed_socket(&paths.dns_feed())?;
    let ids = (Some(options.dns_uid), Some(options.dns_uid));
    for path in [paths.dns_run(), paths.dns_feed()] {
        std::os::unix::fs::chown(&path, ids.0, ids.1)
            .with_context(|| format!("hand {} to the DNS process", path.display()))?;
    }
    let source: Arc<Source> = Arc::default();
    tokio::spawn(source.clone().serve(socket, listeners, options.dns_uid, shutdown.clone()));
    let program = std::env::current_exe().context("find our own file")?;
    let ear = Ear::open(&paths.notify("dns"))?;
    let told = ServeArgs { folders: folders.clone(), cluster: cluster.clone(), dns: options.clone() };
    let args = crate::document::Document::from(told).hand_over(&folders.run_dir)?;
    tokio::spawn(keep_running("dns", program, args, ear, shutdown));
    Ok(Feed { source })
}

/// For root and the process; one that was left is replaced.
fn feed_socket(path: &Path) -> anyhow::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listen at {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("protect {}", path.display()))?;
    Ok(listener)
}

/// The sockets on which names are asked for. They outlive the process that answers.
fn listen(port: u16) -> anyhow::Result<Listeners> {
    let address = families::listen_address(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    let hint = || format!("listen for questions about names on port {port}: give --dns-port a free port");
    let streams = TcpListener::bind(address).with_context(hint)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let datagrams: Result<Vec<UdpSocket>, _> = (0..threads).map(|_| datagrams(address)).collect();
    Ok(Listeners { datagrams: datagrams.with_context(hint)?, streams })
}

/// One of several sockets at one port, among which the kernel spreads what comes.
fn datagrams(address: SocketAddr) -> nix::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket::socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    socket::setsockopt(&socket, sockopt::ReusePort, &true)?;
    // A burst, or what comes while the process is started again, waits here.
    socket::setsockopt(&socket, sockopt::RcvBuf, &(1 << 20))?;
    socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(address))?;
    Ok(socket.into())
}

impl Feed {
    /// Tells the process what the ConfigMaps say, and the cluster that names are answered here.
    pub async fn follow(self, kubeconfig: PathBuf, node: String, port: u16, shutdown: CancellationToken) {
        let server = skerry_client::Source::Kubeconfig(kubeconfig);
        let client = loop {
            match connect(&server).await {
                Ok(connection) => break connection.client,
                Err(error) => {
                    tracing::warn!(%error, "read the settings of names: trying again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        let heard = self.source.is_heard();
        tokio::spawn(announce(Api::all(client.clone()), node, port, heard, shutdown.clone()));
        let stores = [OWN, COREDNS].map(|name| {
            let store: Arc<Store<ConfigMap>> = Store::new(|_| Vec::new(), |_| {});
            let source = self.source.clone();
            store.on_change(move |change| {
                let document = change.known().map(|map| document(map));
                source.apply(Change::Document(name.into(), document));
            });
            let narrow = Narrow { fields: Some(format!("metadata.name={name}")), ..Narrow::default() };
            let api = Api::namespaced(client.clone(), NAMESPACE);
            tokio::spawn(reflect(api, store.clone(), narrow, Readers::default(), shutdown.clone()));
            (name, store)
        });
        for (_, store) in &stores {
            store.synced().await;
        }
        self.source
            .listed(DOCUMENTS, |key| stores.iter().any(|(name, store)| *name == key && !store.is_empty()));
    }
}

fn document(map: &ConfigMap) -> Document {
    let texts = map.data.iter().flatten();
    Document(texts.map(|(key, text)| (key.as_str().into(), text.as_str().into())).collect())
}

/// Says by an annotation of our Node whether names are answered here, as long as that is so.
async fn announce(
    nodes: Api<Node>,
    name: String,
    port: u16,
    mut heard: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    loop {
        let is_heard = *heard.borrow_and_update();
        // A restart is over before anybody else could be asked.
        let was_away = async {
            if !is_heard {
                tokio::time::sleep(AWAY).await;
            }
        };
        tokio::select! {
            () = was_away => {}
            changed = heard.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = shutdown.cancelled() => return,
        }
        let value = is_heard.then(|| port.to_string());
        let patch = Patch::Merge(serde_json::json!({"metadata": {"annotations": {PORT: value}}}));
        let told = nodes.patch_metadata(&name, &PatchParams::default(), &patch).await;
        let again = async {
            match &told {
                Ok(_) => std::future::pending().await,
                // The node agent makes the Node in this moment.
                Err(error) => {
                    tracing::debug!(%error, "say that names are answered here: trying again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        tokio::select! {
            () = again => {}
            changed = heard.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
    }
}
