use std::{collections::HashSet, fmt::Debug};

use crate::{ObjectKey, api};

/// Somebody else who wants to know of the objects that the proxy follows anyway: what names are made of.
pub trait Names: Debug + Send + Sync {
    /// `None`: there is none any more.
    fn service(&self, key: &ObjectKey, service: Option<&api::Service>);
    /// See [`Names::service`].
    fn slice(&self, key: &ObjectKey, slice: Option<&api::EndpointSlice>);
    /// See [`Names::service`].
    fn node(&self, key: &ObjectKey, node: Option<&api::Node>);
    /// A list is complete: what is not in it is gone.
    fn listed(&self, kind: Named, names: &HashSet<ObjectKey>);
}

/// The kinds of objects that names are made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Named {
    /// `v1` Services.
    Services,
    /// `discovery.k8s.io/v1` EndpointSlices.
    Slices,
    /// `v1` Nodes.
    Nodes,
}
