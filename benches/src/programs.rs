//! P16: what each program costs: its instructions, those that the verifier walks, and the time that it takes
//! over named packets, beside the figures that were accepted last (`benches/baseline/p16.json`; `--accept`
//! writes them anew).

mod baseline;
#[expect(
    dead_code,
    unused_imports,
    reason = "the datapath's case table: states and packets are used here, verdicts in its tests"
)]
#[path = "../../proxy-datapath/tests/cases/table.rs"]
mod cases;
mod counts;
mod packets;

use anyhow::Result;

use crate::{Options, row::Row};

const PEER: &str = "accepted last";

/// # Errors
/// When the kernel refuses a program, or a named packet is not in the case table any more.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let accepted = baseline::read()?;
    let counts = counts::of_all()?;
    let times = packets::times(options)?;
    let now = baseline::Baseline {
        kernel: counts::kernel()?,
        translated: counts.iter().map(|(name, count)| (name.clone(), count.translated)).collect(),
        verified: counts.iter().map(|(name, count)| (name.clone(), count.verified)).collect(),
        ns: times.iter().map(|(name, runs)| (name.clone(), crate::stats::quartiles(runs).median)).collect(),
    };
    let mut rows = Vec::new();
    for (what, now, then) in [
        ("instructions", &now.translated, &accepted.translated),
        ("instructions walked by the verifier", &now.verified, &accepted.verified),
    ] {
        for (name, figure) in now {
            rows.push(row(&format!("{name}: {what}"), "", &[*figure], then.get(name)));
        }
    }
    for (name, runs) in &times {
        rows.push(row(name, "ns", runs, accepted.ns.get(name)));
    }
    if accepted.kernel != now.kernel {
        println!("bench: P16: the accepted figures are of Linux {}, this is {}", accepted.kernel, now.kernel);
    }
    for worse in accepted.worse(&now) {
        println!("bench: P16: WORSE: {worse}");
    }
    if options.accept {
        println!("bench: P16: accepted: {}", baseline::write(&now)?.display());
    }
    Ok(rows)
}

fn row(case: &str, unit: &str, runs: &[f64], accepted: Option<&f64>) -> Row {
    let peer: Vec<f64> = accepted.copied().into_iter().collect();
    Row::of_runs("P16", case, unit, runs, &peer, PEER).lower_is_better()
}
