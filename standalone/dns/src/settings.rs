//! What the process is told to do beside answering for the cluster.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use hickory_proto::rr::Name;

/// Seconds that an answer of [`Settings::hosts`] may be kept.
pub const HOSTS_TTL_S: u32 = 60;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Settings {
    /// Whom to ask for everything; empty: the node's own resolvers.
    pub forward: Vec<SocketAddr>,
    /// Whom to ask for names below these.
    pub stubs: Vec<(Name, Vec<SocketAddr>)>,
    /// Names with addresses of their own, in lower case.
    pub hosts: HashMap<Name, Vec<IpAddr>>,
    /// In their order; the first that fits counts.
    pub rewrites: Vec<Rewrite>,
    pub log: Log,
}

/// A name that another one is looked up for. The client hears of the one that it asked for only.
#[derive(Clone, PartialEq, Debug)]
pub enum Rewrite {
    /// This name.
    Name(Name, Name),
    /// Names below the first: the rest stays (`rewrite name suffix`).
    Suffix(Name, Name),
}

/// Which questions are logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Log {
    #[default]
    None,
    /// Those that could not be answered.
    Failures,
    All,
}

impl Settings {
    /// The name to look up instead.
    pub fn rewritten(&self, name: &Name) -> Option<Name> {
        self.rewrites.iter().find_map(|rewrite| match rewrite {
            Rewrite::Name(from, to) => (from == name).then(|| to.clone()),
            Rewrite::Suffix(from, to) => {
                if !from.zone_of(name) || from == name {
                    return None;
                }
                let rest = usize::from(name.num_labels() - from.num_labels());
                Name::from_labels(name.iter().take(rest)).ok()?.append_domain(to).ok()
            }
        })
    }
}
