//! Random packets over random tables, against a slow model of what the documents promise.
//!
//! Every world is made of one seed: its tables, its packets, its clock. The model ([`model`]) reads the same
//! frames by its own reader ([`read`]) and keeps whole connections ([`connections`]) where the datapath keeps
//! two entries. What the datapath draws by chance (a backend, a port) is looked up in its tables and must be
//! one that the model allows.
//!
//! A failure prints its seed. `SKERRY_FUZZ_SEED=N` runs that world alone and tells each packet,
//! `SKERRY_FUZZ_SECONDS=N` runs for so long with seeds of the clock, `SKERRY_FUZZ_WORLDS=N` so many.

#[path = "../cases/table.rs"]
#[expect(dead_code, reason = "the case table's helpers; its rows run elsewhere")]
mod cases;
mod connections;
mod expect;
#[path = "../host/memory.rs"]
#[expect(dead_code, reason = "shared with the host tests, which use the rest")]
mod memory;
mod model;
mod packets;
mod random;
mod read;
mod services;
mod tables;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use proxy_abi::Reason;
use world::Tally;

/// Worlds of the run that every test run has: about 5 s.
const WORLDS: u64 = 20_000;
const FIRST_SEED: u64 = 0x5eed_2026;
/// A list of failures longer than this tells nothing new.
const SHOWN: usize = 12;
/// What no world here can end in: tables that are never full, and what only programs in front of the stack
/// can say.
const UNREACHED: [Reason; 3] = [Reason::FlowTableFull, Reason::NeighbourUnknown, Reason::UnwrappedStray];

#[test]
fn the_datapath_does_what_its_model_says() {
    let mut tally = Tally::new();
    if let Some(seed) = number("SKERRY_FUZZ_SEED") {
        if let Err(difference) = world::run(seed, true, &mut tally) {
            panic!("seed {seed}: {difference}");
        }
        return;
    }
    let limit = number("SKERRY_FUZZ_SECONDS").map(Duration::from_secs);
    let first = limit.map_or(FIRST_SEED, |_| of_the_clock());
    let start = Instant::now();
    let (mut worlds, mut failures) = (0, Vec::new());
    let most = number("SKERRY_FUZZ_WORLDS").unwrap_or(WORLDS);
    while limit.map_or(worlds < most, |limit| start.elapsed() < limit) && failures.len() < SHOWN {
        let seed = first + worlds;
        match catch_unwind(AssertUnwindSafe(|| world::run(seed, false, &mut tally))) {
            Ok(Ok(())) => {}
            Ok(Err(difference)) => failures.push(format!("seed {seed}: {difference}")),
            Err(_) => failures.push(format!("seed {seed}: panicked")),
        }
        worlds += 1;
    }
    println!("{worlds} worlds from seed {first} in {:?}, packets by their end: {tally:?}", start.elapsed());
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    let missed: Vec<&Reason> = Reason::ALL
        .iter()
        .filter(|reason| !tally.contains_key(reason) && !UNREACHED.contains(reason))
        .collect();
    assert!(missed.is_empty(), "no packet ended in {missed:?}: the worlds have become too narrow");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// Each long run has seeds of its own.
fn of_the_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(FIRST_SEED, |time| time.as_secs() << 24)
}
