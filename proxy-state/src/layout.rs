use std::collections::BTreeMap;

use proxy_abi::{Addr, Be16, Window, slot_flag};

use crate::{
    desired::{Backend, Scope},
    maglev,
    model::endpoint_flag,
};

/// All endpoints of a service port, each once.
pub(crate) type Endpoints = BTreeMap<(Addr, Be16), Weighed>;

/// What is known of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Weighed {
    /// Bits of [`endpoint_flag`].
    pub flags: u8,
    /// At least 1.
    pub weight: u8,
}

/// A backend and its weight.
type Share = (Backend, u32);

/// Elements that a window gets at most because its backends have different weights: beyond it shares are
/// rounded.
const MOST_REPEATED: u64 = 4_096;

/// A stretch of [`Layout::backends`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// Elements before it in the run.
    pub offset: u32,
    /// 0: nobody is served.
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
    /// One for each slot; a backend may be there several times, as its weight or a Maglev table wants it.
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
            (None, 0) => {
                let scale = Scale::of(&inside);
                Layout::whole(scale.repeat(inside))
            }
            (None, size) => Layout::whole(maglev::weighted(&inside, size)),
            (Some(outside), 0) => Layout::overlapping(inside, outside),
            (Some(outside), size) => {
                let mut both = Layout::whole(maglev::weighted(&inside, size));
                let outside = maglev::weighted(&outside, size);
                both.outside = Span { offset: both.inside.count, count: outside.len() as u32 };
                both.backends.extend(outside);
                both
            }
        }
    }

    /// The same for everybody.
    pub fn whole(backends: Vec<Backend>) -> Layout {
        let all = Span { offset: 0, count: backends.len() as u32 };
        Layout { backends, outside: all, inside: all }
    }

    /// First who only those inside get, then who both get, then who only outsiders get.
    fn overlapping(inside: Vec<Share>, outside: Vec<Share>) -> Layout {
        let (both, inside_only): (Vec<Share>, Vec<Share>) =
            inside.into_iter().partition(|share| outside.contains(share));
        let outside_only: Vec<Share> = outside.into_iter().filter(|share| !both.contains(share)).collect();
        // One scale for all of them: who both get has the same share in either window.
        let scale = Scale::of(&[&inside_only[..], &both, &outside_only].concat());
        let [inside_only, both, outside_only] =
            [inside_only, both, outside_only].map(|shares| scale.repeat(shares));
        let [a, b, c] = [inside_only.len(), both.len(), outside_only.len()].map(|count| count as u32);
        Layout {
            backends: [inside_only, both, outside_only].concat(),
            inside: Span { offset: 0, count: a + b },
            outside: Span { offset: a, count: b + c },
        }
    }

    /// What pods and nodes are served by.
    pub fn inside(&self) -> &[Backend] {
        self.backends.get(self.inside.range()).unwrap_or_default()
    }

    /// What clients outside of the cluster are served by.
    pub fn outside(&self) -> &[Backend] {
        self.backends.get(self.outside.range()).unwrap_or_default()
    }
}

/// KEP-1669: the ready ones; if there is none, those that terminate but still serve. Of the ready ones those
/// that are meant for this place, where the EndpointSlices say so of each (KEP-2433, KEP-4444).
fn cluster(endpoints: &Endpoints) -> Vec<Share> {
    let ready = || endpoints.values().filter(|endpoint| endpoint.flags & endpoint_flag::READY != 0);
    let everyone = |hinted: u8| ready().all(|endpoint| endpoint.flags & hinted != 0);
    let somebody = |matching: u8| ready().any(|endpoint| endpoint.flags & matching != 0);
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
fn local(endpoints: &Endpoints) -> Vec<Share> {
    let ready = pick(endpoints, endpoint_flag::READY | endpoint_flag::LOCAL, 0);
    match ready.is_empty() {
        true => terminating(endpoints, endpoint_flag::LOCAL),
        false => ready,
    }
}

fn terminating(endpoints: &Endpoints, besides: u8) -> Vec<Share> {
    pick(endpoints, endpoint_flag::SERVING | endpoint_flag::TERMINATING | besides, slot_flag::TERMINATING)
}

fn pick(endpoints: &Endpoints, wanted: u8, slot_flags: u16) -> Vec<Share> {
    let share =
        |addr: Addr, port: Be16, weight: u8| (Backend { addr, port, flags: slot_flags }, u32::from(weight));
    endpoints
        .iter()
        .filter(|(_, endpoint)| endpoint.flags & wanted == wanted)
        .map(|((addr, port), endpoint)| share(*addr, *port, endpoint.weight))
        .collect()
}

/// How often backends stand in a window from which each element is drawn alike.
#[derive(Clone, Copy)]
struct Scale {
    /// Of all weights.
    divisor: u32,
    /// Elements that exact shares would take.
    exact: u64,
    count: u64,
}

impl Scale {
    fn of(shares: &[Share]) -> Scale {
        let divisor = shares.iter().fold(0, |divisor, (_, weight)| common_divisor(divisor, *weight)).max(1);
        let exact = shares.iter().map(|(_, weight)| u64::from(weight / divisor)).sum();
        Scale { divisor, exact, count: shares.len() as u64 }
    }

    /// At least once.
    fn times(self, weight: u32) -> usize {
        let times = u64::from(weight / self.divisor);
        let most = MOST_REPEATED.max(self.count);
        let fitting = if self.exact > most { times * most / self.exact } else { times };
        fitting.max(1) as usize
    }

    fn repeat(self, shares: Vec<Share>) -> Vec<Backend> {
        if self.exact == self.count {
            return shares.into_iter().map(|(backend, _)| backend).collect();
        }
        shares
            .into_iter()
            .flat_map(|(backend, weight)| std::iter::repeat_n(backend, self.times(weight)))
            .collect()
    }
}

fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// Whether anybody has endpoints at all: a `Local` policy then drops where none is here.
pub(crate) fn has_any(endpoints: &Endpoints) -> bool {
    !cluster(endpoints).is_empty()
}
