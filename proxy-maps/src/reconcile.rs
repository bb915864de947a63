use std::collections::BTreeSet;

use proxy_state::{Actual, Dump, Limits, ObjectKey, Refusal, Wants, plan};
use skerry_kernel::Error;

use crate::tables::Tables;

/// Holds what is wanted and what is there, and brings the second to the first. Synchronous; time is an
/// argument.
pub struct Reconciler<W, T> {
    pub wants: W,
    pub actual: Actual,
    tables: T,
    limits: Limits,
    /// An operation failed: our picture of the maps is worth nothing until they are read again.
    is_blind: bool,
}

/// What a sync did.
#[derive(Debug, Default)]
pub struct Synced {
    pub operations: usize,
    pub refused: Vec<Refusal>,
    pub udp_changed: bool,
    /// Whose tables were looked at.
    pub owners: BTreeSet<ObjectKey>,
    /// When to sync again although nothing happens.
    pub due_ms: Option<u64>,
}

impl<W: Wants, T: Tables> Reconciler<W, T> {
    /// Takes up what the maps hold, `dump`. Nothing is written before [`Reconciler::sync`].
    pub fn new(wants: W, limits: Limits, tables: T, dump: Dump, now_ms: u64) -> Reconciler<W, T> {
        let actual = Actual::restore(limits, dump, now_ms);
        Reconciler { wants, actual, tables, limits, is_blind: false }
    }

    /// What is not wanted is removed from the maps, once [`Wants::is_complete`]. `now_ms` is any monotonic
    /// clock.
    ///
    /// # Errors
    /// The maps could not be read or written. The next call begins by reading them again.
    pub fn sync(&mut self, now_ms: u64) -> Result<Synced, Error> {
        if self.is_blind {
            let dump = self.tables.dump()?;
            self.restore(dump, now_ms);
            self.is_blind = false;
        }
        let plan = plan(&mut self.wants, &mut self.actual, now_ms);
        let executed = self.tables.execute(&plan.ops);
        self.is_blind = executed.is_err();
        executed?;
        Ok(Synced {
            operations: plan.ops.len(),
            refused: plan.refused,
            udp_changed: plan.udp_changed,
            owners: plan.owners,
            due_ms: plan.due_ms,
        })
    }

    /// Compares the maps with our picture of them. Returns how many entries differed; then the next sync
    /// repairs them.
    ///
    /// # Errors
    /// The maps could not be read.
    pub fn compare(&mut self, now_ms: u64) -> Result<usize, Error> {
        let dump = self.tables.dump()?;
        let divergence = self.actual.divergence(&dump);
        if divergence > 0 {
            self.restore(dump, now_ms);
        }
        Ok(divergence)
    }

    fn restore(&mut self, dump: Dump, now_ms: u64) {
        self.limits.ids_until = self.actual.last_service_id();
        self.actual = Actual::restore(self.limits, dump, now_ms);
    }

    /// Sizes of the maps, as they were given.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proxy_abi::{Be16, FrontendKey, frontend_kind, proto};
    use proxy_state::{Dump, ObjectKey, Op, State, api};
    use serde_json::json;

    use super::*;

    const LIMITS: Limits = Limits {
        frontends: 64,
        slots: 64,
        members: 64,
        source_ranges: 8,
        pod_cidrs: 8,
        tunnel_peers: 8,
        grace_ms: 100,
        ids_until: 0,
    };

    /// Maps in memory that fail at the operation with this number, once.
    #[derive(Default)]
    struct Faulty {
        maps: Dump,
        fail_at: Option<usize>,
    }

    impl Tables for Faulty {
        fn execute(&mut self, ops: &[Op]) -> Result<(), Error> {
            for op in ops {
                match self.fail_at {
                    Some(0) => {
                        self.fail_at = None;
                        let source = std::io::Error::other("made to fail");
                        return Err(Error::System {
                            operation: "update map",
                            object: "FAULTY".into(),
                            source,
                        });
                    }
                    Some(left) => self.fail_at = Some(left - 1),
                    None => {}
                }
                self.maps.execute(op);
            }
            Ok(())
        }

        fn dump(&mut self) -> Result<Dump, Error> {
            Ok(self.maps.clone())
        }
    }

    fn service(n: u8) -> api::Service {
        serde_json::from_value(json!({
            "metadata": {"name": format!("s{n}"), "namespace": "ns"},
            "spec": {"clusterIP": format!("10.96.0.{n}"), "ports": [{"port": 80, "protocol": "TCP"}]},
        }))
        .unwrap()
    }

    fn slice(n: u8, backends: &[&str]) -> api::EndpointSlice {
        let endpoints: Vec<_> = backends.iter().map(|ip| json!({"addresses": [ip]})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": format!("e{n}"), "namespace": "ns",
                         "labels": {"kubernetes.io/service-name": format!("s{n}")}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
        }))
        .unwrap()
    }

    fn backends(maps: &Dump, n: u8) -> Option<Vec<String>> {
        let addr = Ipv4Addr::new(10, 96, 0, n).into();
        let key = FrontendKey { addr, port: Be16::new(80), proto: proto::TCP, kind: frontend_kind::ADDRESS };
        let frontend = maps.frontends.get(&key)?;
        let run = &maps.slots[frontend.inside.first as usize..frontend.inside.end() as usize];
        assert!(
            run.iter().all(|s| (s.service_id, s.generation) == (frontend.service_id, frontend.generation))
        );
        Some(run.iter().map(|slot| slot.addr.to_string()).collect())
    }

    /// Three services, of which one moves, one goes and one comes.
    fn changed(fail_at: Option<usize>) -> (Reconciler<State, Faulty>, Result<Synced, Error>) {
        let mut reconciler =
            Reconciler::new(State::new("here"), LIMITS, Faulty::default(), Dump::default(), 0);
        for n in [1, 2] {
            reconciler.wants.apply_service(ObjectKey::new("ns", &format!("s{}", n)), &service(n));
            reconciler
                .wants
                .apply_slice(ObjectKey::new("ns", &format!("e{}", n)), &slice(n, &["10.0.0.1", "10.0.0.2"]));
        }
        reconciler.sync(0).unwrap();
        reconciler.wants.apply_slice(ObjectKey::new("ns", &format!("e{}", 1)), &slice(1, &["10.0.0.3"]));
        reconciler.wants.delete_service(&ObjectKey::new("ns", "s2"));
        reconciler.wants.apply_service(ObjectKey::new("ns", &format!("s{}", 3)), &service(3));
        reconciler.wants.apply_slice(ObjectKey::new("ns", &format!("e{}", 3)), &slice(3, &["10.0.0.4"]));
        reconciler.tables.fail_at = fail_at;
        let synced = reconciler.sync(1);
        (reconciler, synced)
    }

    #[test]
    fn a_failure_at_any_operation_is_made_good_by_the_next_sync() {
        let operations = changed(None).1.unwrap().operations;
        assert!(operations > 5);
        for fail_at in 0..operations {
            let (mut reconciler, failed) = changed(Some(fail_at));
            assert!(failed.is_err());
            // Meanwhile every frontend that is there points to a whole run.
            let half = [1, 2, 3].map(|n| backends(&reconciler.tables.maps, n));
            assert!(half[0].as_ref().is_some_and(|b| !b.is_empty()), "{half:?}");
            reconciler.sync(2).unwrap();
            let maps = &reconciler.tables.maps;
            assert_eq!(backends(maps, 1).unwrap(), ["10.0.0.3"], "failed at {fail_at}");
            assert_eq!((backends(maps, 2), backends(maps, 3).unwrap()), (None, vec!["10.0.0.4".to_owned()]));
            reconciler.sync(1000).unwrap();
            assert_eq!(
                (reconciler.sync(1000).unwrap().operations, reconciler.compare(1000).unwrap()),
                (0, 0)
            );
            assert_eq!(reconciler.tables.maps.slots.iter().filter(|slot| slot.service_id != 0).count(), 2);
        }
    }

    #[test]
    fn what_somebody_else_changed_is_counted_and_repaired() {
        let (mut reconciler, _) = changed(None);
        let maps = &mut reconciler.tables.maps;
        maps.frontends.retain(|key, _| key.addr != Ipv4Addr::new(10, 96, 0, 1).into());
        maps.slots[0].service_id ^= 77;
        assert_eq!(reconciler.compare(2).unwrap(), 3, "frontend, mark and slot");
        reconciler.sync(2).unwrap();
        assert_eq!(backends(&reconciler.tables.maps, 1).unwrap(), ["10.0.0.3"]);
        assert_eq!(reconciler.compare(3).unwrap(), 0);
    }
}
