//! Side-by-side benchmarks, by the ids of the design's budgets. `cargo xtask bench` builds and runs them.
//!
//! A benchmark returns rows: our figure, the peer's, their ratio, each with its spread. It fails where an answer is
//! wrong, never because a figure is bad.

#![forbid(unsafe_code)]

mod filled;
mod p1;
mod p4;
mod p8;
mod peers;
mod probe;
mod row;
mod stats;

use std::{fs, process::ExitCode};

use anyhow::{Context, Result, bail};
use skerry_lab::paths;

use row::Row;

type Bench = fn() -> Result<Vec<Row>>;

const BENCHES: &[(&str, &str, Bench)] = &[
    ("P1", "new connections through a ClusterIP, as a share of bare", p1::run),
    ("P4", "one endpoint change until traffic follows, at 10,000 services", p4::run),
    ("P8", "CNI ADD, from the start of the process to the result", p8::run),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // The other ends of a measurement are this very program, started in a node.
    let done = match args.split_first() {
        Some((role, rest)) if probe::is_role(role) => probe::run(role, rest),
        _ => run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(ids: &[String]) -> Result<()> {
    let known: Vec<&str> = BENCHES.iter().map(|(id, ..)| *id).collect();
    if let Some(unknown) = ids.iter().find(|id| !known.contains(&id.as_str())) {
        bail!("no benchmark {unknown}: there are {}", known.join(", "));
    }
    let wanted = |id: &str| ids.is_empty() || ids.iter().any(|wanted| wanted == id);
    let dir = paths::target().join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let mut all = Vec::new();
    for (id, what, bench) in BENCHES.iter().filter(|(id, ..)| wanted(id)) {
        println!("bench: {id}: {what}");
        let rows = bench().with_context(|| format!("measure {id}"))?;
        let path = dir.join(format!("{id}.json"));
        fs::write(&path, serde_json::to_vec_pretty(&rows)?)
            .with_context(|| format!("write {}", path.display()))?;
        println!("bench: {id}: written to {}", path.display());
        all.extend(rows);
    }
    print!("{}", row::table(&all));
    Ok(())
}
