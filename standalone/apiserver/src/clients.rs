//! Who is served, and how much of the server one of them may have.
//!
//! Requests in flight, watches, joins, large bodies and connections are [`Places`]: each client has a fair
//! share, so nobody locks everybody out. Connections whose peer has not shown a certificate are
//! [`Strangers`]: a newcomer always gets in, at the cost of the oldest idle one of whoever has the most.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use crate::{error::ApiError, pki::Subject};

/// Who asks: whom its certificate names, or where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    Named(Arc<str>),
    Stranger(IpAddr),
}

impl Client {
    pub fn new(identity: Option<&Subject>, peer: IpAddr) -> Self {
        match identity {
            Some(subject) => Self::Named(subject.common_name.as_str().into()),
            None => Self::Stranger(origin(peer)),
        }
    }
}

/// The part of an address that its holder cannot choose: of IPv6 the first 64 bits (RFC 4291, 2.5.1).
pub fn origin(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & (u128::MAX << 64)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Of a number of places a client gets as many as are left to the others, and the last eighth is for those
/// who have none.
#[derive(Debug)]
pub struct Places {
    limit: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by: HashMap<Client, Share>,
}

#[derive(Debug, Default)]
struct Share {
    count: usize,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Places {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::default() })
    }

    /// # Errors
    /// 429 for a client that has its share, or where there is no place at all.
    pub fn take(self: &Arc<Self>, client: &Client) -> Result<Place, ApiError> {
        let mut taken = self.taken();
        let own = taken.by.get(client).map_or(0, |share| share.count);
        if !may_take(self.limit, taken.total, own) {
            return Err(ApiError::too_many_requests());
        }
        taken.total += 1;
        taken.by.entry(client.clone()).or_default().count += 1;
        Ok(Place { places: self.clone(), client: client.clone() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn may_take(limit: usize, taken: usize, own: usize) -> bool {
    let free = limit.saturating_sub(taken);
    if own == 0 { free > 0 } else { own < free && free > limit / 8 }
}

/// Given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    client: Client,
}

impl Place {
    /// What the client's places take one after the other.
    pub fn turn(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.places.taken().by.get(&self.client).map(|share| share.turn.clone()).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.total = taken.total.saturating_sub(1);
        let Some(share) = taken.by.get_mut(&self.client) else { return };
        share.count = share.count.saturating_sub(1);
        if share.count == 0 {
            taken.by.remove(&self.client);
        }
    }
}

/// Connections of peers that have shown no certificate (yet).
#[derive(Debug)]
pub struct Strangers {
    limit: usize,
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    next: u64,
    /// In the order in which they came.
    by_arrival: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    origin: IpAddr,
    /// Requests that are being answered.
    busy: usize,
    leave: CancellationToken,
}

impl Strangers {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, present: Mutex::default() })
    }

    /// Makes room for a newcomer. `None`: all that are there are being answered this moment.
    pub fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Stranger> {
        let (origin, mut present) = (origin(peer), self.present());
        if present.by_arrival.len() >= self.limit {
            present.let_go(Some(origin))?;
        }
        let number = present.next;
        present.next += 1;
        let leave = CancellationToken::new();
        present.by_arrival.insert(number, Connection { origin, busy: 0, leave: leave.clone() });
        Some(Stranger { strangers: self.clone(), number, leave })
    }

    /// Ends one connection, for its file descriptor.
    pub fn let_one_go(&self) {
        self.present().let_go(None);
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    fn let_go(&mut self, newcomer: Option<IpAddr>) -> Option<()> {
        let all = self.by_arrival.iter().map(|(number, one)| (*number, one.origin, one.busy == 0));
        let victim = victim(all, newcomer)?;
        self.by_arrival.remove(&victim)?.leave.cancel();
        Some(())
    }
}

/// Of the idle connections, in order of arrival, the first of the origin that has the most (the newcomer
/// counted).
fn victim(all: impl Iterator<Item = (u64, IpAddr, bool)> + Clone, newcomer: Option<IpAddr>) -> Option<u64> {
    let mut counts: HashMap<IpAddr, usize> = HashMap::new();
    for origin in all.clone().map(|(_, origin, _)| origin).chain(newcomer) {
        *counts.entry(origin).or_default() += 1;
    }
    let idle = all.filter(|(_, _, is_idle)| *is_idle);
    let first = idle.min_by_key(|(number, origin, _)| (Reverse(counts.get(origin).copied()), *number));
    first.map(|(number, ..)| number)
}

/// A stranger's connection; it is forgotten when this is dropped.
#[derive(Debug)]
pub struct Stranger {
    strangers: Arc<Strangers>,
    number: u64,
    leave: CancellationToken,
}

impl Stranger {
    /// Cancelled when the connection has to make room.
    pub fn leave(&self) -> &CancellationToken {
        &self.leave
    }

    /// While the guard lives the connection is not idle.
    pub fn answering(self: &Arc<Self>) -> Answering {
        self.add_busy(1);
        Answering(self.clone())
    }

    fn add_busy(&self, change: isize) {
        if let Some(connection) = self.strangers.present().by_arrival.get_mut(&self.number) {
            connection.busy = connection.busy.saturating_add_signed(change);
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.strangers.present().by_arrival.remove(&self.number);
    }
}

pub struct Answering(Arc<Stranger>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.add_busy(-1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(name: usize) -> Client {
        Client::Named(name.to_string().into())
    }

    fn take_all(places: &Arc<Places>, client: &Client) -> Vec<Place> {
        std::iter::from_fn(|| places.take(client).ok()).collect()
    }

    #[test]
    fn the_greediest_clients_leave_room_for_fifty_who_come_later() {
        let places = Places::new(400);
        let greedy: Vec<Vec<Place>> = (0..10).map(|name| take_all(&places, &named(name))).collect();
        assert_eq!(greedy.iter().map(Vec::len).collect::<Vec<_>>()[..4], [200, 100, 50, 1]);
        let later: Vec<_> = (100..140).map(|name| places.take(&named(name)).unwrap()).collect();
        assert_eq!(places.take(&named(0)).unwrap_err().code(), 429);
        drop((greedy, later));
        assert_eq!(places.taken().total, 0);
        assert!(places.taken().by.is_empty());
    }

    #[test]
    fn one_place_is_enough_for_one_client() {
        let places = Places::new(1);
        let place = places.take(&named(1)).unwrap();
        assert!(places.take(&named(2)).is_err());
        drop(place);
        places.take(&named(2)).unwrap();
    }

    #[test]
    fn addresses_of_one_holder_are_one_client() {
        let client = |text: &str| Client::new(None, text.parse().unwrap());
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:0:0:1"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
    }

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_oldest_idle_connection_of_whoever_has_most() {
        let strangers = Strangers::new(4);
        let other = Arc::new(strangers.enter(ip(9)).unwrap());
        let crowd: Vec<_> = (0..3).map(|_| Arc::new(strangers.enter(ip(1)).unwrap())).collect();
        let answering = crowd[0].answering();
        let newcomer = strangers.enter(ip(2)).unwrap();
        let left =
            |all: &[&Arc<Stranger>]| all.iter().map(|one| one.leave().is_cancelled()).collect::<Vec<_>>();
        assert_eq!(left(&[&other, &crowd[0], &crowd[1], &crowd[2]]), [false, false, true, false]);
        drop(answering);
        let _own = strangers.enter(ip(1)).unwrap();
        assert_eq!(left(&[&other, &crowd[0], &crowd[2]]), [false, true, false]);
        assert!(!newcomer.leave().is_cancelled());
    }

    #[test]
    fn where_all_are_being_answered_the_newcomer_waits() {
        let strangers = Strangers::new(1);
        let first = Arc::new(strangers.enter(ip(1)).unwrap());
        let answering = first.answering();
        assert!(strangers.enter(ip(2)).is_none());
        drop(answering);
        assert!(strangers.enter(ip(2)).is_some() && first.leave().is_cancelled());
        drop(first);
        assert_eq!(strangers.present().by_arrival.len(), 0);
    }

    proptest! {
        #[test]
        fn whatever_is_taken_and_given_back_a_newcomer_gets_in_while_few_are_there(
            steps in prop::collection::vec((0usize..8, any::<bool>()), 1..400), limit in 64usize..200,
        ) {
            let places = Places::new(limit);
            let mut held: Vec<Place> = Vec::new();
            for (client, takes) in steps {
                if takes {
                    held.extend(places.take(&named(client)).ok());
                } else if !held.is_empty() {
                    held.swap_remove(client % held.len());
                }
                prop_assert_eq!(places.taken().total, held.len());
                prop_assert!(places.take(&named(99)).is_ok());
            }
        }
    }
}
