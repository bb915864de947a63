use std::{
    collections::{HashMap, HashSet},
    net::{TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use proxy_state::{Named, Names, ObjectKey, api};
use skerry_vocabulary::chain;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{Notify, watch},
};
use tokio_util::sync::CancellationToken;

use super::frame::{FrameError, Hello, Message, VERSION, encode};
use crate::{
    model::{Service, Slice},
    zone::{Change, KINDS},
};

/// Objects that are written together.
const BATCH: usize = 256;

/// The sockets on which names are asked for. Several datagram sockets at one port share what comes: one a
/// thread.
#[derive(Debug)]
pub struct Listeners {
    pub datagrams: Vec<UdpSocket>,
    pub streams: TcpListener,
}

impl Listeners {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        // The last one is the listener.
        self.datagrams.iter().map(AsFd::as_fd).chain([self.streams.as_fd()]).collect()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("hand the sockets to the DNS process")]
    Pass(#[from] skerry_kernel::Error),
    #[error("speak to the DNS process")]
    Write(#[from] std::io::Error),
    #[error("an object can't be said to the DNS process")]
    Frame(#[from] FrameError),
}

type Key = (u8, Arc<str>);

/// The agent's end: everything that there is, and what the DNS process has not been told yet.
#[derive(Debug, Default)]
pub struct Source {
    table: Mutex<Table>,
    changed: Notify,
    /// Whether somebody listens, and so names are answered.
    is_heard: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Table {
    /// What each object is, as the frame that says it.
    frames: HashMap<Key, Box<[u8]>>,
    /// Not told yet; kept only while somebody listens.
    dirty: HashSet<Key>,
    /// Kinds whose objects are all here.
    listed: [bool; KINDS],
    /// Who listens: a newer one takes an older one's place.
    listener: u64,
    has_listener: bool,
    is_complete_told: bool,
}

impl Source {
    /// Takes an object as it is now. What cannot be said is left out and named.
    pub fn apply(&self, change: Change) {
        let (kind, name) = change.key();
        let key: Key = (kind, name.into());
        let is_gone = change.is_gone();
        let mut frame = Vec::new();
        if let Err(error) = encode(&Message::Change(change), &mut frame) {
            tracing::warn!(%error, object = %key.1, "a name is left out");
            return;
        }
        let mut table = self.table();
        let is_new = match is_gone {
            true => table.frames.remove(&key).is_some(),
            false => {
                let frame = frame.into_boxed_slice();
                table.frames.get(&key) != Some(&frame) && {
                    table.frames.insert(key.clone(), frame);
                    true
                }
            }
        };
        if is_new && table.has_listener {
            table.dirty.insert(key);
            drop(table);
            self.changed.notify_one();
        }
    }

    /// Whether a DNS process listens.
    pub fn is_heard(&self) -> watch::Receiver<bool> {
        self.is_heard.subscribe()
    }

    /// A list of a kind is whole: what `is_there` does not know is gone.
    pub fn listed(&self, kind: u8, is_there: impl Fn(&str) -> bool) {
        let gone: Vec<Key> = {
            let mut table = self.table();
            if let Some(listed) = table.listed.get_mut(usize::from(kind)) {
                *listed = true;
            }
            let of_kind = table.frames.keys().filter(|key| key.0 == kind && !is_there(&key.1));
            of_kind.cloned().collect()
        };
        for (_, name) in gone {
            self.apply(Change::absent(kind, &name));
        }
        self.changed.notify_one();
    }

    /// Tells whoever connects as user `uid`, or as root, the newest of them, until `shutdown`.
    pub async fn serve(
        self: Arc<Source>,
        socket: UnixListener,
        listeners: Arc<Listeners>,
        uid: u32,
        shutdown: CancellationToken,
    ) {
        loop {
            let stream = tokio::select! {
                accepted = socket.accept() => accepted,
                () = shutdown.cancelled() => return,
            };
            let stream = match stream {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::error!(%error, "accept the DNS process");
                    return;
                }
            };
            let who = stream.peer_cred().map(|who| who.uid());
            if !who.as_ref().is_ok_and(|who| *who == uid || *who == 0) {
                tracing::warn!(?who, "not the DNS process: sent away");
                continue;
            }
            let (source, listeners, shutdown) = (self.clone(), listeners.clone(), shutdown.clone());
            tokio::spawn(async move {
                let number = source.begin();
                let told = tokio::select! {
                    told = source.tell(stream, number, &listeners) => told,
                    () = shutdown.cancelled() => Ok(()),
                };
                source.end(number);
                if let Err(error) = told {
                    tracing::info!(error = chain(&error), "the DNS process hung up");
                }
            });
        }
    }

    /// Everything is to be told to a new listener.
    fn begin(&self) -> u64 {
        let mut table = self.table();
        table.listener += 1;
        (table.has_listener, table.is_complete_told) = (true, false);
        table.dirty = table.frames.keys().cloned().collect();
        let number = table.listener;
        drop(table);
        // An older listener looks whether it is still the one.
        self.changed.notify_waiters();
        number
    }

    /// Nothing is kept for somebody who is gone.
    fn end(&self, number: u64) {
        let mut table = self.table();
        if table.listener == number {
            table.has_listener = false;
            table.dirty = HashSet::new();
            self.is_heard.send_replace(false);
        }
    }

    async fn tell(
        &self,
        mut stream: UnixStream,
        number: u64,
        listeners: &Listeners,
    ) -> Result<(), SourceError> {
        let mut hello = Vec::new();
        encode(&Message::Hello(Hello { version: VERSION }), &mut hello)?;
        let std = stream.into_std()?;
        // The first bytes of a new connection have room.
        let sent = skerry_kernel::pass_descriptors(&std, &hello, &listeners.descriptors())?;
        stream = UnixStream::from_std(std)?;
        stream.write_all(&hello[sent..]).await?;
        self.is_heard.send_replace(true);
        let mut said = [0; 1];
        loop {
            let changed = self.changed.notified();
            match self.next(number) {
                Next::Bytes(bytes) => stream.write_all(&bytes).await?,
                Next::Replaced => {
                    // What woke us was meant for the one that took our place.
                    self.changed.notify_one();
                    return Ok(());
                }
                Next::Nothing => tokio::select! {
                    () = changed => {}
                    // It has nothing to say: this is its end.
                    _ = stream.read(&mut said) => return Ok(()),
                },
            }
        }
    }

    fn next(&self, number: u64) -> Next {
        let mut table = self.table();
        if table.listener != number {
            return Next::Replaced;
        }
        let keys: Vec<Key> = table.dirty.iter().take(BATCH).cloned().collect();
        let mut bytes = Vec::new();
        for key in &keys {
            table.dirty.remove(key);
            match table.frames.get(key) {
                Some(frame) => bytes.extend(frame),
                // A name alone always fits.
                None => drop(encode(&Message::Change(Change::absent(key.0, &key.1)), &mut bytes)),
            }
        }
        if table.dirty.is_empty() && !table.is_complete_told && table.listed.iter().all(|listed| *listed) {
            table.is_complete_told = encode(&Message::Complete, &mut bytes).is_ok();
        }
        if table.dirty.is_empty() {
            table.dirty.shrink_to(BATCH);
        }
        if bytes.is_empty() { Next::Nothing } else { Next::Bytes(bytes) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names for Source {
    fn service(&self, key: &ObjectKey, service: Option<&api::Service>) {
        self.apply(Change::Service(key.to_string().into(), service.map(Service::from_api)));
    }

    fn slice(&self, key: &ObjectKey, slice: Option<&api::EndpointSlice>) {
        self.apply(Change::Slice(key.to_string().into(), slice.and_then(Slice::from_api)));
    }

    fn node(&self, key: &ObjectKey, node: Option<&api::Node>) {
        let addresses = node.map(|node| {
            let texts = node.status.addresses.iter().map(|address| &address.address);
            texts.filter_map(|text| text.parse().ok()).collect()
        });
        self.apply(Change::Node(key.to_string().into(), addresses));
    }

    fn listed(&self, kind: Named, names: &HashSet<ObjectKey>) {
        let names: HashSet<String> = names.iter().map(ToString::to_string).collect();
        let kind = match kind {
            Named::Services => 0,
            Named::Slices => 1,
            Named::Nodes => 2,
        };
        Source::listed(self, kind, |name| names.contains(name));
    }
}

enum Next {
    Bytes(Vec<u8>),
    Nothing,
    Replaced,
}
