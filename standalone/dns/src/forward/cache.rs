use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};

use crate::message::Content;

/// Seconds that an answer is kept at most, whatever it says; one that says "nothing"; and a failure (RFC 2308
/// section 7).
const MAX_TTL_S: u32 = 3600;
const MAX_NEGATIVE_TTL_S: u32 = 900;
const FAILURE_TTL_S: u32 = 5;
/// How long an answer that has run out serves where nobody can say a newer one (RFC 8767), and with what TTL.
pub(super) const STALE_FOR: Duration = Duration::from_secs(3600);
const STALE_TTL_S: u32 = 30;
/// What is asked for again is renewed when a tenth of its time is left.
const RENEW_PART: u32 = 10;

/// What an answer depends on. Names are in lower case.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    pub name: Name,
    pub kind: RecordType,
    pub dnssec_ok: bool,
    pub checking_disabled: bool,
}

impl Key {
    pub fn query(&self) -> Query {
        Query::query(self.name.clone(), self.kind)
    }
}

/// Answers of others, at most so many; the oldest makes room.
#[derive(Debug)]
pub(super) struct Cache {
    most: usize,
    entries: HashMap<Key, Entry>,
    order: VecDeque<(Key, u64)>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    /// A message without EDNS: a third of what its parts would take.
    bytes: Box<[u8]>,
    stored: Instant,
    ttl_s: u32,
    was_asked_again: bool,
    number: u64,
}

/// What is kept of a name.
#[derive(Debug)]
pub(super) enum Kept {
    Fresh {
        content: Content,
        /// It is asked for often and runs out soon.
        is_to_be_renewed: bool,
    },
    /// It has run out: better than nothing.
    Stale(Content),
    Nothing,
}

impl Cache {
    pub fn new(most: usize) -> Cache {
        Cache { most, entries: HashMap::new(), order: VecDeque::new(), next: 0 }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }

    pub fn get(&mut self, key: &Key, now: Instant) -> Kept {
        let Some(entry) = self.entries.get_mut(key) else { return Kept::Nothing };
        let age = now.saturating_duration_since(entry.stored);
        let ttl = Duration::from_secs(entry.ttl_s.into());
        if age > ttl + STALE_FOR {
            self.entries.remove(key);
            return Kept::Nothing;
        }
        let age_s = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        let is_stale = age >= ttl;
        let Some(content) = content(&entry.bytes, |ttl| match is_stale {
            true => STALE_TTL_S,
            false => ttl.min(entry.ttl_s).saturating_sub(age_s),
        }) else {
            return Kept::Nothing;
        };
        if is_stale {
            return Kept::Stale(content);
        }
        let is_soon = ttl - age < ttl / RENEW_PART;
        let is_to_be_renewed = is_soon && std::mem::replace(&mut entry.was_asked_again, true);
        entry.was_asked_again = true;
        Kept::Fresh { content, is_to_be_renewed }
    }

    /// Keeps an answer as long as it says. A failure takes no answer's place that may still serve.
    pub fn put(&mut self, key: Key, content: &Content, now: Instant) {
        let Some(ttl_s) = lasts_s(content) else { return };
        let is_failure = is_failure(content.code);
        let known = self.entries.get(&key);
        if is_failure && known.is_some_and(|entry| !is_failure_bytes(&entry.bytes)) {
            return;
        }
        let mut message = Message::response(0, OpCode::Query);
        message.metadata.response_code = content.code;
        message.answers.clone_from(&content.answers);
        message.authorities.clone_from(&content.authorities);
        message.additionals.clone_from(&content.additionals);
        let Ok(bytes) = message.to_vec() else { return };
        let (number, was_asked_again) = (self.next, known.is_some_and(|entry| entry.was_asked_again));
        self.next += 1;
        self.order.push_back((key.clone(), number));
        self.entries.insert(key, Entry { bytes: bytes.into(), stored: now, ttl_s, was_asked_again, number });
        while self.entries.len() > self.most || self.order.len() > self.most * 2 {
            let Some((oldest, number)) = self.order.pop_front() else { break };
            if self.entries.get(&oldest).is_some_and(|entry| entry.number == number) {
                self.entries.remove(&oldest);
            }
        }
    }
}

fn content(bytes: &[u8], ttl: impl Fn(u32) -> u32) -> Option<Content> {
    let message = Message::from_vec(bytes).ok()?;
    let set = |mut records: Vec<Record>| {
        records.iter_mut().for_each(|record| record.ttl = ttl(record.ttl));
        records
    };
    Some(Content {
        code: message.metadata.response_code,
        is_authoritative: false,
        answers: set(message.answers),
        authorities: set(message.authorities),
        additionals: set(message.additionals),
    })
}

pub(super) fn is_failure(code: ResponseCode) -> bool {
    !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
}

/// Of a message of ours: the low bits of its fourth byte.
fn is_failure_bytes(bytes: &[u8]) -> bool {
    bytes.get(3).is_some_and(|flags| is_failure(ResponseCode::from(0, flags & 0x0f)))
}

/// `None`: not at all.
fn lasts_s(content: &Content) -> Option<u32> {
    let lasts = if is_failure(content.code) {
        FAILURE_TTL_S
    } else if content.answers.is_empty() || content.code == ResponseCode::NXDomain {
        // Without an SOA nobody says how long "nothing" holds (RFC 2308 section 5).
        let soa = content.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        });
        let aliases = content.answers.iter().map(|record| record.ttl);
        aliases.chain([soa?]).min()?.min(MAX_NEGATIVE_TTL_S)
    } else {
        content.answers.iter().map(|record| record.ttl).min()?.min(MAX_TTL_S)
    };
    (lasts > 0).then_some(lasts)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{A, SOA};

    use super::*;

    fn key(name: &str) -> Key {
        let name = Name::from_ascii(name).unwrap();
        Key { name, kind: RecordType::A, dnssec_ok: false, checking_disabled: false }
    }

    fn found(ttl: u32) -> Content {
        let record = Record::from_rdata(Name::from_ascii("a.").unwrap(), ttl, RData::A(A::new(192, 0, 2, 1)));
        Content { answers: vec![record], ..Content::empty(ResponseCode::NoError) }
    }

    fn nothing(ttl: u32, minimum: u32) -> Content {
        let root = Name::root();
        let soa = SOA::new(root.clone(), root.clone(), 1, 1, 1, 1, minimum);
        let record = Record::from_rdata(root, ttl, RData::SOA(soa));
        Content { authorities: vec![record], ..Content::empty(ResponseCode::NXDomain) }
    }

    fn ttl(kept: Kept) -> Option<(bool, u32)> {
        match kept {
            Kept::Fresh { content, .. } => {
                Some((true, content.answers.first().map_or(0, |record| record.ttl)))
            }
            Kept::Stale(content) => Some((false, content.answers.first().map_or(0, |record| record.ttl))),
            Kept::Nothing => None,
        }
    }

    #[test]
    fn an_answer_gets_older_then_stale_then_forgotten() {
        let (mut cache, start) = (Cache::new(10), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        cache.put(key("a."), &found(60), start);
        assert_eq!(ttl(cache.get(&key("a."), at(10))), Some((true, 50)));
        assert_eq!(ttl(cache.get(&key("a."), at(60))), Some((false, 30)));
        assert_eq!(ttl(cache.get(&key("a."), at(3660))), Some((false, 30)));
        assert_eq!(ttl(cache.get(&key("a."), at(3661))), None);
        assert_eq!(cache.len(), 0);
        let other = Key { dnssec_ok: true, ..key("a.") };
        cache.put(key("a."), &found(60), start);
        assert_eq!(ttl(cache.get(&other, start)), None);
    }

    #[test]
    fn nothing_lasts_as_long_as_its_soa_says_and_no_time_at_all_without_one() {
        assert_eq!(lasts_s(&nothing(300, 60)), Some(60));
        assert_eq!(lasts_s(&nothing(30, 60)), Some(30));
        assert_eq!(lasts_s(&nothing(86_400, 86_400)), Some(MAX_NEGATIVE_TTL_S));
        assert_eq!(lasts_s(&Content::empty(ResponseCode::NXDomain)), None);
        assert_eq!(lasts_s(&Content::empty(ResponseCode::ServFail)), Some(FAILURE_TTL_S));
        assert_eq!(lasts_s(&found(86_400)), Some(MAX_TTL_S));
        assert_eq!(lasts_s(&found(0)), None);
    }

    #[test]
    fn a_failure_does_not_take_the_place_of_what_may_serve() {
        let (mut cache, start) = (Cache::new(10), Instant::now());
        cache.put(key("a."), &found(60), start);
        cache.put(key("a."), &Content::empty(ResponseCode::ServFail), start);
        assert_eq!(ttl(cache.get(&key("a."), start)), Some((true, 60)));
        cache.put(key("b."), &Content::empty(ResponseCode::ServFail), start);
        cache.put(key("b."), &found(60), start);
        assert_eq!(ttl(cache.get(&key("b."), start)), Some((true, 60)));
    }

    #[test]
    fn the_oldest_makes_room_and_what_is_asked_again_is_renewed_in_time() {
        let (mut cache, start) = (Cache::new(3), Instant::now());
        for name in ["a.", "b.", "a.", "a.", "c.", "d."] {
            cache.put(key(name), &found(100), start);
        }
        assert_eq!(cache.len(), 3);
        assert!(ttl(cache.get(&key("b."), start)).is_none() && ttl(cache.get(&key("a."), start)).is_some());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let renews = |cache: &mut Cache, name: &str, seconds: u64| {
            matches!(cache.get(&key(name), at(seconds)), Kept::Fresh { is_to_be_renewed: true, .. })
        };
        assert!(!renews(&mut cache, "a.", 50) && renews(&mut cache, "a.", 91));
        assert!(!renews(&mut cache, "d.", 91), "asked for once is not often");
        for _ in 0..100 {
            cache.put(key("e."), &found(100), start);
        }
        assert!(cache.order.len() <= 6);
    }
}
