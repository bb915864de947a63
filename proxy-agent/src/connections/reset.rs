//! Ends TCP connections to endpoints that are gone, of Services that ask for it. Compares levels, not edges:
//! what an earlier agent has left is found as well.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use proxy_abi::{Peer, Tuple, map};
use proxy_state::{Resets, Standing};
use skerry_kernel::{Error, Map, in_netns};
use tokio::{sync::watch as channel, time::Instant};

use crate::{
    agent::at,
    connections::{
        flows::Flows,
        pod_namespaces,
        sockets::{self, Connected, Protocol, SocketsError},
    },
    programs::pins::Pins,
    tell::metrics::Metrics,
};
use skerry_vocabulary::chain;

/// So long an endpoint must be gone from all slices: one that moves from one slice to another is in neither
/// for a moment.
const GONE_FOR: Duration = Duration::from_secs(1);
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ResetError {
    #[error("look through the connections")]
    Tables(#[from] Error),
    #[error(transparent)]
    Notes(#[from] cni_plugin::StateError),
    #[error(transparent)]
    Sockets(#[from] SocketsError),
    #[error("connections in network namespace {path}", path = path.display())]
    Namespace { path: PathBuf, source: Box<ResetError> },
    #[error("the pod's network namespace can't be entered")]
    Enter(#[source] Error),
    #[error("open network namespace {path}", path = path.display())]
    Open { path: PathBuf, source: io::Error },
}

impl ResetError {
    /// Trying again brings nothing: the kernel or this process cannot do it.
    fn is_for_good(&self) -> bool {
        match self {
            ResetError::Sockets(SocketsError::NoDestroy) => true,
            ResetError::Enter(Error::System { source, .. }) | ResetError::Open { source, .. } => {
                matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound)
            }
            ResetError::Namespace { source, .. } => source.is_for_good(),
            _ => false,
        }
    }
}

/// A connection, by what names it for as long as it lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Connection {
    /// Its socket was given the backend at connect.
    Socket(Connected),
    /// Its packets are translated on a device. By the forward entry.
    Flow(Tuple),
}

/// Looks and ends. What is done is remembered only as long as the tables still name it.
pub(crate) struct Resetter {
    peers: Map<u32, Peer>,
    flows: Flows,
    cni_state_dir: PathBuf,
    standing: Standing<Connection>,
    /// Sockets that were looked for everywhere: their entries in `PEERS` stay until another socket takes the
    /// place.
    done: HashSet<Connected>,
    is_warned: bool,
}

/// One look.
#[derive(Debug)]
struct Look {
    ended: usize,
    /// When the next one finds something due.
    next_ms: Option<u64>,
    errors: Vec<ResetError>,
}

impl Resetter {
    pub fn open(pins: &Pins, cni_state_dir: &Path) -> Result<Resetter, Error> {
        Ok(Resetter {
            peers: Map::open(&pins.map(map::PEERS))?,
            flows: Flows::open(pins)?,
            cni_state_dir: cni_state_dir.to_owned(),
            standing: Standing::new(GONE_FOR.as_millis() as u64),
            done: HashSet::new(),
            is_warned: false,
        })
    }

    /// # Errors
    /// The tables could not be read. What could not be ended is in the [`Look`].
    fn look(&mut self, resets: &Resets, now_ms: u64) -> Result<Look, ResetError> {
        let mut sockets = HashSet::new();
        self.peers.for_each(|_, peer| {
            let backend = (peer.backend, peer.backend_port);
            if peer.cookie != 0 && resets.is_gone(peer.service_id, backend) {
                sockets.insert((peer.cookie, peer.backend, peer.backend_port));
            }
        })?;
        self.done.retain(|known| sockets.contains(known));
        let flows = self.flows.tcp_by_backend(|service_id, backend| resets.is_gone(service_id, backend))?;
        let sockets = sockets.difference(&self.done).copied().map(Connection::Socket);
        let stale: Vec<Connection> = sockets.chain(flows.into_iter().map(Connection::Flow)).collect();
        let found = self.standing.look(&stale, now_ms);
        let (mut sockets, mut flows) = (HashSet::new(), Vec::new());
        for connection in found.due {
            match connection {
                Connection::Socket(connected) => drop(sockets.insert(connected)),
                Connection::Flow(tuple) => flows.push(tuple),
            }
        }
        let mut ended = self.flows.forget(&flows)?;
        let errors = match sockets.is_empty() {
            true => Vec::new(),
            false => self.end_sockets(sockets, &mut ended)?,
        };
        Ok(Look { ended, next_ms: found.next_ms, errors })
    }

    /// In the node's own namespace and in every pod's.
    fn end_sockets(
        &mut self,
        sockets: HashSet<Connected>,
        ended: &mut usize,
    ) -> Result<Vec<ResetError>, ResetError> {
        let mut errors = Vec::new();
        match sockets::end(Protocol::Tcp, &sockets) {
            Ok(here) => *ended += here,
            Err(error) => errors.push(error.into()),
        }
        for path in pod_namespaces::paths(&self.cni_state_dir)? {
            match end_in(&path, &sockets) {
                Ok(there) => *ended += there,
                Err(source) => errors.push(ResetError::Namespace { path, source: Box::new(source) }),
            }
        }
        if errors.iter().all(ResetError::is_for_good) {
            self.done.extend(sockets);
        }
        Ok(errors)
    }
}

fn end_in(path: &Path, sockets: &HashSet<Connected>) -> Result<usize, ResetError> {
    let netns = match File::open(path) {
        Ok(netns) => netns,
        // The pod is gone, unless nothing of where namespaces are named can be seen from here.
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir) => {
            return Ok(0);
        }
        Err(source) => return Err(ResetError::Open { path: path.to_owned(), source }),
    };
    let name = path.display().to_string();
    let ended = in_netns(netns.as_fd(), &name, || sockets::end(Protocol::Tcp, sockets));
    Ok(ended.map_err(ResetError::Enter)??)
}

/// Looks whenever `resets` has changed, and as long as something is about to be due; off the loop that events
/// wait for.
pub(crate) async fn reset_forever(
    resetter: Resetter,
    mut resets: channel::Receiver<Resets>,
    metrics: Arc<Metrics>,
) {
    let started = Instant::now();
    let mut resetter = Some(resetter);
    let mut look_at = None;
    loop {
        tokio::select! {
            changed = resets.changed() => {
                if changed.is_err() {
                    return;
                }
                // Once more afterwards: a program that read a frontend just before may make a connection
                // after this look.
                look_at = Some(Instant::now() + GONE_FOR);
            }
            () = at(look_at) => look_at = None,
        }
        let now = resets.borrow_and_update().clone();
        let Some(mut mine) = resetter.take() else { return };
        if now.is_empty() {
            (look_at, resetter) = (None, Some(mine));
            continue;
        }
        let now_ms = started.elapsed().as_millis() as u64;
        let looked = tokio::task::spawn_blocking(move || {
            let look = mine.look(&now, now_ms);
            (mine, look)
        });
        let Ok((mut mine, look)) = looked.await else {
            tracing::error!(
                "connections to endpoints that are gone are not ended any more: the look broke off"
            );
            return;
        };
        let due = match look {
            Ok(look) => {
                metrics.connections_reset.inc_by(look.ended as u64);
                if look.ended > 0 {
                    tracing::info!(connections = look.ended, "ended: their endpoints are gone");
                }
                let is_hopeful = !look.errors.iter().all(ResetError::is_for_good);
                report(&look.errors, &mut mine.is_warned);
                let next = look.next_ms.map(|ms| started + Duration::from_millis(ms));
                next.into_iter().chain(is_hopeful.then(|| Instant::now() + RETRY)).min()
            }
            Err(error) => {
                tracing::error!(error = chain(&error), retry_in = ?RETRY, "connections not looked through");
                Some(Instant::now() + RETRY)
            }
        };
        look_at = look_at.into_iter().chain(due).min();
        resetter = Some(mine);
    }
}

/// What cannot be done at all is said once, everything else each time; of many namespaces the first stands
/// for all.
fn report(errors: &[ResetError], is_warned: &mut bool) {
    let (for_good, others): (Vec<_>, Vec<_>) = errors.iter().partition(|error| error.is_for_good());
    if let Some(first) = for_good.first()
        && !std::mem::replace(is_warned, true)
    {
        tracing::warn!(
            error = chain(*first),
            places = for_good.len(),
            "annotation service.skerry.io/reset-on-endpoint-removal: connections there stay; ending them needs \
             CONFIG_INET_DIAG_DESTROY, and CAP_SYS_ADMIN and sight of the pods' network namespaces (run `skerry proxy` on \
             the node itself)"
        );
    }
    if let Some(first) = others.first() {
        tracing::error!(error = chain(*first), places = others.len(), retry_in = ?RETRY, "connections not ended");
    }
}
