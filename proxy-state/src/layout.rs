use std::collections::BTreeMap;

use proxy_abi::{Addr, Be16, Window, slot_flag};

use crate::{
    desired::{Backend, Scope},
    maglev,
    model::endpoint_flag,
};

/// All endpoints of a service port, each once, with the bits of [`endpoint_flag`].
pub(crate) type Endpoints = BTreeMap<(Addr, Be16), u8>;

/// A stretch of [`Layout::backends`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    pub offset: u32,
    pub count: u32,
}

impl Span {
    /// Where it lies once the run begins at `first`.
    pub fn at(self, first: u32) -> Window {
        match self.count {
            0 => Window::default(),
            count => Window { first: first + self.offset, count },
        }
    }

    fn range(self) -> std::ops::Range<usize> {
        self.offset as usize..(self.offset + self.count) as usize
    }
}

/// What stands in a run, and which parts of it are for whom. The parts cover the run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    pub backends: Vec<Backend>,
    /// For clients outside of the cluster.
    pub outside: Span,
    /// For pods and nodes.
    pub inside: Span,
}

impl Layout {
    /// `table`: elements of each window's Maglev table; 0: one element a backend.
    pub(crate) fn new(endpoints: &Endpoints, scope: Scope, table: u32) -> Layout {
        let (inside, outside) = match scope {
            Scope::Cluster => (cluster(endpoints), None),
            Scope::Node => (local(endpoints), None),
            Scope::External => (cluster(endpoints), Some(local(endpoints))),
        };
        match (outside, table) {
            (None, 0) => Layout::one(inside),
            (None, size) => Layout::one(maglev::table(&inside, size)),
            (Some(outside), 0) => Layout::overlapping(inside, outside),
            (Some(outside), size) => {
                let mut both = Layout::one(maglev::table(&inside, size));
                let outside = maglev::table(&outside, size);
                both.outside = Span { offset: both.inside.count, count: outside.len() as u32 };
                both.backends.extend(outside);
                both
            }
        }
    }

    fn one(backends: Vec<Backend>) -> Layout {
        let all = Span { offset: 0, count: backends.len() as u32 };
        Layout { backends, outside: all, inside: all }
    }

    /// First who only those inside get, then who both get, then who only outsiders get.
    fn overlapping(inside: Vec<Backend>, outside: Vec<Backend>) -> Layout {
        let (both, inside_only): (Vec<Backend>, Vec<Backend>) =
            inside.into_iter().partition(|backend| outside.contains(backend));
        let outside_only = outside.into_iter().filter(|backend| !both.contains(backend)).collect::<Vec<_>>();
        let [a, b, c] = [inside_only.len(), both.len(), outside_only.len()].map(|count| count as u32);
        Layout {
            backends: [inside_only, both, outside_only].concat(),
            inside: Span { offset: 0, count: a + b },
            outside: Span { offset: a, count: b + c },
        }
    }

    pub fn inside(&self) -> &[Backend] {
        self.backends.get(self.inside.range()).unwrap_or_default()
    }

    pub fn outside(&self) -> &[Backend] {
        self.backends.get(self.outside.range()).unwrap_or_default()
    }
}

/// KEP-1669: the ready ones; if there is none, those that terminate but still serve. Of the ready ones those that are meant
/// for this place, where the EndpointSlices say so of each (KEP-2433, KEP-4444).
fn cluster(endpoints: &Endpoints) -> Vec<Backend> {
    let ready = || endpoints.values().filter(|flags| **flags & endpoint_flag::READY != 0);
    let everyone = |hinted: u8| ready().all(|flags| flags & hinted != 0);
    let somebody = |matching: u8| ready().any(|flags| flags & matching != 0);
    let place = [
        (endpoint_flag::NODE_HINTED, endpoint_flag::NODE_MATCHES),
        (endpoint_flag::ZONE_HINTED, endpoint_flag::ZONE_MATCHES),
    ]
    .into_iter()
    .find(|(hinted, matching)| everyone(*hinted) && somebody(*matching))
    .map_or(0, |(_, matching)| matching);
    let ready = pick(endpoints, endpoint_flag::READY | place, 0);
    match ready.is_empty() {
        true => terminating(endpoints, 0),
        false => ready,
    }
}

/// As [`cluster`], judged by this node's endpoints alone.
fn local(endpoints: &Endpoints) -> Vec<Backend> {
    let ready = pick(endpoints, endpoint_flag::READY | endpoint_flag::LOCAL, 0);
    match ready.is_empty() {
        true => terminating(endpoints, endpoint_flag::LOCAL),
        false => ready,
    }
}

fn terminating(endpoints: &Endpoints, besides: u8) -> Vec<Backend> {
    pick(endpoints, endpoint_flag::SERVING | endpoint_flag::TERMINATING | besides, slot_flag::TERMINATING)
}

fn pick(endpoints: &Endpoints, wanted: u8, slot_flags: u16) -> Vec<Backend> {
    endpoints
        .iter()
        .filter(|(_, flags)| **flags & wanted == wanted)
        .map(|((addr, port), _)| Backend { addr: *addr, port: *port, flags: slot_flags })
        .collect()
}

/// Whether anybody has endpoints at all: a `Local` policy then drops where none is here.
pub(crate) fn has_any(endpoints: &Endpoints) -> bool {
    !cluster(endpoints).is_empty()
}
