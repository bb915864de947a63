//! P20: from a Service's change, as the agent hears of it, until its name is answered so; and the process'
//! memory.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::{
    Options,
    names::{Names, SERVICES, address},
    process::{kilobytes, pss_mb},
    row::Row,
};

const CHANGES: usize = 200;
const LIMIT: Duration = Duration::from_secs(10);
/// Of CoreDNS' scaling guide, (pods and Services) / 1000 + 54, with 10,000 of each.
const COREDNS_MB: f64 = 74.0;

/// # Errors
/// When a change is not answered.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let names = Names::start(0)?;
    names.fill()?;
    let changes = if options.quick { 10 } else { CHANGES };
    let mut took_ms = Vec::new();
    for change in 0..changes {
        let number = change * 7919 % SERVICES;
        let turn = change / SERVICES + 1;
        let began = Instant::now();
        names.say(number, turn);
        while names.ask(number)? != Some(address(number, turn)) {
            ensure!(began.elapsed() < LIMIT, "the change is not answered");
        }
        took_ms.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    let memory = pss_mb(names.pid())?;
    // The program's file is shared with the node's other processes, which is not seen here.
    let own = kilobytes(&format!("/proc/{}/smaps_rollup", names.pid()), "Pss_Anon")? / 1024.0;
    let row = Row::of_runs(
        "P20",
        "a Service's change until its name follows, 10,000 Services",
        "ms",
        &took_ms,
        &[],
        "",
    );
    Ok(vec![
        row.lower_is_better(),
        Row::of_runs("P20", "memory of its own at 10,000 Services (anonymous)", "MB", &[own], &[], "")
            .lower_is_better(),
        Row::against_recorded(
            "P20",
            "memory at 10,000 Services with the whole program (PSS)",
            "MB",
            &[memory],
            COREDNS_MB,
            "CoreDNS, by its scaling guide",
        )
        .lower_is_better(),
    ])
}
