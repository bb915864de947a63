//! When endpoints came into the maps: the last step of a pod's start, of which nothing else keeps a time.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use proxy_abi::Addr;
use proxy_state::ObjectKey;
use serde_json::{Value, json};
use skerry_vocabulary::time::micros;
use tokio::time::Instant;

/// Endpoints that are remembered, the newest of them: about 100 KB.
const KEPT: usize = 1024;

/// Which endpoints have become ready since the start of the agent, and when the maps had them. Bounded; what
/// was there at the start is not in it.
#[derive(Debug, Default)]
pub struct Programmed(Mutex<Record>);

#[derive(Debug, Default)]
struct Record {
    /// The first sync: what was ready by then is not recorded one by one.
    since: Option<Timestamp>,
    /// By Service and endpoint: when the event was here that said so. Until the next sync.
    heard: HashMap<ObjectKey, HashMap<Addr, Timestamp>>,
    /// Oldest first.
    done: VecDeque<Done>,
}

#[derive(Debug)]
struct Done {
    service: ObjectKey,
    address: Addr,
    heard: Timestamp,
    programmed: Timestamp,
}

impl Programmed {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These endpoints of a Service are ready, as an event says whose last byte was here at `at`.
    pub(crate) fn heard(&self, service: &ObjectKey, addresses: impl Iterator<Item = Addr>, at: Instant) {
        let at = Timestamp::now() - at.elapsed();
        let mut addresses = addresses.map(|address| (address, at)).peekable();
        if addresses.peek().is_some() {
            self.record().heard.entry(service.clone()).or_default().extend(addresses);
        }
    }

    /// The maps hold what was heard, as far as it is among a Service's `backends`: others have no maps of
    /// ours, did not fit, or are meant for other nodes.
    pub(crate) fn synced(&self, backends: impl Fn(&ObjectKey, &mut dyn FnMut(Addr))) {
        let programmed = Timestamp::now();
        let mut record = self.record();
        record.since.get_or_insert(programmed);
        for (service, mut waiting) in std::mem::take(&mut record.heard) {
            backends(&service, &mut |address| {
                let Some(heard) = waiting.remove(&address) else { return };
                if record.done.len() == KEPT {
                    record.done.pop_front();
                }
                record.done.push_back(Done { service: service.clone(), address, heard, programmed });
            });
        }
    }

    /// What is known of an address: when the CNI plugin, whose state lies in `cni_state_dir`, gave it to its pod,
    /// and when the maps had it, each Service once, by its newest time. Times in RFC 3339.
    pub fn told(&self, address: IpAddr, cni_state_dir: &Path) -> Value {
        let given = cni_plugin::given_at(cni_state_dir, address);
        let given = given.and_then(|at| Timestamp::try_from(at).ok()).map(micros);
        let mut told = self.json(address);
        told["given"] = given.into();
        told
    }

    fn json(&self, address: IpAddr) -> Value {
        let (record, address) = (self.record(), Addr::from(address));
        let mut services: Vec<&Done> = Vec::new();
        for done in record.done.iter().rev().filter(|done| done.address == address) {
            if services.iter().all(|known| known.service != done.service) {
                services.push(done);
            }
        }
        let told = |done: &Done| {
            json!({"service": done.service.to_string(), "heard": micros(done.heard),
                "programmed": micros(done.programmed)})
        };
        let services: Vec<Value> = services.into_iter().map(told).collect();
        json!({"since": record.since.map(micros), "services": services})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_told_once_the_maps_have_it_and_the_oldest_are_forgotten() {
        let record = Programmed::default();
        let ip = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(number));
        let (served, headless) = (ObjectKey::new("a", "served"), ObjectKey::new("a", "headless"));
        let hear = |service: &ObjectKey, number: u32| {
            record.heard(service, std::iter::once(ip(number).into()), Instant::now());
        };
        let backends = |service: &ObjectKey, each: &mut dyn FnMut(Addr)| {
            let most = if service.name() == "served" { 3 * KEPT as u32 } else { 0 };
            (0..most).chain(0..most).for_each(|number| each(ip(number).into()));
        };
        let services = |number: u32| -> Vec<String> {
            let told = record.json(ip(number));
            let services = told["services"].as_array().unwrap().iter();
            services.map(|told| told["service"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(record.json(ip(1))["since"], Value::Null);
        hear(&served, 1);
        hear(&headless, 1);
        assert!(services(1).is_empty(), "the maps don't have it yet");
        record.synced(backends);
        assert_eq!(services(1), ["a/served"]);
        hear(&served, 1);
        record.synced(backends);
        assert_eq!(services(1), ["a/served"], "once");
        assert!(record.json(ip(1))["since"].is_string());
        (2..2 + KEPT as u32).for_each(|number| hear(&served, number));
        record.synced(backends);
        assert!(services(1).is_empty());
        assert_eq!((services(2).len(), record.record().done.len()), (1, KEPT));
        assert!(record.record().heard.is_empty(), "what is not in the maps is not waited for");
    }
}
