//! The watches of a cluster, until the receiver is gone. While the API server is away what was received stays
//! in force.

use proxy_state::api;
use serde::de::DeserializeOwned;
use skerry_client::{Client, Follow, News, Options, Target};
use tokio::sync::mpsc;

use crate::cluster::{Change, Kind, Object};

/// What a watch tells the balancer.
#[derive(Debug)]
pub enum Told {
    Change(Change),
    /// It was interrupted and is tried again.
    Failed,
}

fn path(kind: Kind) -> &'static str {
    match kind {
        Kind::Services => "/api/v1/services",
        Kind::Slices => "/apis/discovery.k8s.io/v1/endpointslices",
        Kind::Nodes => "/api/v1/nodes",
    }
}

/// Follows one kind.
pub async fn follow(client: Client, kind: Kind, to: mpsc::Sender<Told>) {
    let mut watch = Follow::new(client, Target::all(path(kind)), Options::default());
    // Of the list that is under way.
    let (mut listed, mut unread) = (Vec::new(), Vec::new());
    loop {
        let told = match watch.next().await {
            News::Begin => {
                (listed, unread) = (Vec::new(), Vec::new());
                continue;
            }
            News::Listed(object) => {
                match read(kind, object) {
                    Some(object) => listed.push(object),
                    None => unread.extend(object.key()),
                }
                continue;
            }
            News::Complete { .. } => {
                let (objects, kept) = (std::mem::take(&mut listed), std::mem::take(&mut unread));
                Told::Change(Change::Listed { kind, objects, kept })
            }
            News::Applied(object) => match read(kind, object) {
                Some(object) => Told::Change(Change::Applied(object)),
                None => continue,
            },
            News::Deleted(object) => match object.key() {
                Some(key) => Told::Change(Change::Deleted(kind, key)),
                None => continue,
            },
            News::Progress { .. } => continue,
            News::Interrupted(_) | News::Absent(_) => Told::Failed,
        };
        if to.send(told).await.is_err() {
            return;
        }
    }
}

/// An object whose shape is not Kubernetes' is named, and stays as it was; the others are not held up.
fn read(kind: Kind, object: skerry_client::Object<'_>) -> Option<Object> {
    fn typed<T: DeserializeOwned>(object: skerry_client::Object<'_>) -> Option<Box<T>> {
        object.read().ok()
    }
    match kind {
        Kind::Services => typed::<api::Service>(object).map(Object::Service),
        Kind::Slices => typed::<api::EndpointSlice>(object).map(Object::Slice),
        Kind::Nodes => typed::<api::Node>(object).map(Object::Node),
    }
}
