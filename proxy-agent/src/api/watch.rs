use std::{collections::HashSet, sync::Arc, time::Duration};

use proxy_state::{ObjectKey, api};
use serde::de::DeserializeOwned;
use skerry_client::{Client, Follow, News, Options, Target};
use tokio::{sync::mpsc, time::Instant};

use crate::tell::metrics::Metrics;

/// The kinds that we follow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Kind {
    Services,
    Slices,
    Nodes,
    ServiceCidrs,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Services, Kind::Slices, Kind::Nodes, Kind::ServiceCidrs];

    fn path(self) -> &'static str {
        match self {
            Kind::Services => "/api/v1/services",
            Kind::Slices => "/apis/discovery.k8s.io/v1/endpointslices",
            Kind::Nodes => "/api/v1/nodes",
            Kind::ServiceCidrs => "/apis/networking.k8s.io/v1/servicecidrs",
        }
    }

    /// Whether there may be no such objects to see: API servers before 1.33 don't have ServiceCIDRs, and a
    /// role written for an older agent doesn't allow them.
    fn may_be_absent(self) -> bool {
        self == Kind::ServiceCidrs
    }
}

/// What a watch tells the agent.
#[derive(Debug)]
pub(crate) enum Update {
    Applied(ObjectKey, Object),
    Deleted(Kind, ObjectKey),
    /// A list is complete: what is not in it is gone.
    Listed(Kind, HashSet<ObjectKey>),
}

#[derive(Debug)]
pub(crate) enum Object {
    Service(Box<api::Service>),
    Slice(Box<api::EndpointSlice>),
    Node(Box<api::Node>),
    ServiceCidr(Box<api::ServiceCidr>),
}

/// An update and when its bytes were here.
#[derive(Debug)]
pub(crate) struct Received {
    pub update: Update,
    pub at: Instant,
}

/// Follows one kind until the receiver is gone. While the server is away what was received stays in force.
pub(crate) async fn follow(
    client: Client,
    kind: Kind,
    lasts: Duration,
    to: mpsc::Sender<Received>,
    metrics: Arc<Metrics>,
) {
    let options = Options { lasts, may_be_absent: kind.may_be_absent(), ..Options::default() };
    let mut watch = Follow::new(client, Target::all(kind.path()), options);
    // Of the list that is under way.
    let mut names = HashSet::new();
    while !to.is_closed() {
        let (update, at) = match watch.next().await {
            News::Begin => {
                names.clear();
                continue;
            }
            News::Listed(object) => match parse(kind, object) {
                Some((key, parsed)) => {
                    names.insert(key.clone());
                    (Update::Applied(key, parsed), object.received)
                }
                None => {
                    // It is there: what was known of it stays.
                    names.extend(object.key());
                    continue;
                }
            },
            News::Complete { .. } => (Update::Listed(kind, std::mem::take(&mut names)), Instant::now()),
            News::Absent(_) => (Update::Listed(kind, HashSet::new()), Instant::now()),
            News::Applied(object) => match parse(kind, object) {
                Some((key, parsed)) => (Update::Applied(key, parsed), object.received),
                None => continue,
            },
            News::Deleted(object) => match object.key() {
                Some(key) => (Update::Deleted(kind, key), object.received),
                None => continue,
            },
            News::Progress { .. } => continue,
            News::Interrupted(_) => {
                metrics.watch_failures.inc();
                continue;
            }
        };
        // A closed receiver ends the loop.
        to.send(Received { update, at }).await.ok();
    }
}

/// An object that we can't read (its shape is not Kubernetes') is left out and named; the others are not held
/// up.
fn parse(kind: Kind, object: skerry_client::Object<'_>) -> Option<(ObjectKey, Object)> {
    fn read<T: DeserializeOwned>(
        object: skerry_client::Object<'_>,
        wrap: impl Fn(Box<T>) -> Object,
        meta: impl Fn(&T) -> &api::Meta,
    ) -> Option<(ObjectKey, Object)> {
        let read: Box<T> = object.read().ok()?;
        Some((meta(&read).key(), wrap(read)))
    }
    match kind {
        Kind::Services => read(object, Object::Service, |service: &api::Service| &service.metadata),
        Kind::Slices => read(object, Object::Slice, |slice: &api::EndpointSlice| &slice.metadata),
        Kind::Nodes => read(object, Object::Node, |node: &api::Node| &node.metadata),
        Kind::ServiceCidrs => read(object, Object::ServiceCidr, |cidr: &api::ServiceCidr| &cidr.metadata),
    }
}
