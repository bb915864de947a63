//! Side-by-side benchmarks, by the ids of `docs/budgets.md`. `cargo xtask bench` builds and runs them.
//!
//! A benchmark returns rows: our figure, the peer's, their ratio, each with its spread. It fails where an
//! answer is wrong, never because a figure is bad.

#![forbid(unsafe_code)]

mod api;
mod balancer;
mod cni_add;
mod connect_latency;
mod connections;
mod endpoint_change;
mod ends;
mod filled;
mod first_sync;
mod flannel;
mod memory;
mod names;
mod names_followed;
mod names_served;
mod node_port;
mod overlay;
mod peers;
mod plot;
mod probe;
mod process;
mod programs;
mod row;
mod standalone;
mod stats;
mod synced;

use std::{fs, process::ExitCode};

use anyhow::{Context, Result, bail};
use skerry_lab::paths;

use row::Row;

/// What a person asked for beside the ids.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keep the figures of P16 as those that later ones are compared with.
    pub accept: bool,
    /// As few runs as show that a benchmark works; its figures are worth nothing.
    pub quick: bool,
}

type Bench = fn(&Options) -> Result<Vec<Row>>;

const BENCHES: &[(&str, &str, Bench)] = &[
    ("P1", "new connections through a ClusterIP, as a share of bare", connections::run),
    ("P2", "connect latency through a ClusterIP, over bare", connect_latency::run),
    ("P3", "first sync of 10,000 services", first_sync::run),
    ("P4", "one endpoint change until traffic follows, at 10,000 services", endpoint_change::run),
    ("P5", "memory of the proxy at 10,000 services", memory::run),
    ("P6", "pod to pod over VXLAN", overlay::run),
    ("P7", "a NodePort with a remote backend: what it adds to bare forwarding", node_port::run),
    ("P8", "CNI ADD, from the start of the process to the result", cni_add::run),
    ("P12", "questions for names on one core, beside unbound", names_served::run),
    (
        "P15",
        "the balancer alone: packets beside a bare program, connections beside HAProxy and nginx",
        balancer::run,
    ),
    ("P16", "instructions of each program, walked ones, and time over an empty program", programs::run),
    ("P17", "a machine alone: start to Ready, and idle", standalone::run),
    ("P20", "a Service's change until its name follows, and memory, at 10,000 Services", names_followed::run),
];

/// The benchmark whose rows are drawn as curves.
const CURVES: &str = "P1";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // The other ends of a measurement are this very program, started in a node.
    let done = match args.split_first() {
        Some((role, rest)) if role == ends::ROLE => ends::run(rest),
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

fn run(args: &[String]) -> Result<()> {
    let (flags, ids): (Vec<&String>, Vec<&String>) = args.iter().partition(|arg| arg.starts_with("--"));
    let mut options = Options::default();
    for flag in flags {
        match flag.as_str() {
            "--accept" => options.accept = true,
            "--quick" => options.quick = true,
            other => bail!("no option {other}: there are --accept and --quick"),
        }
    }
    let known: Vec<&str> = BENCHES.iter().map(|(id, ..)| *id).collect();
    if let Some(unknown) = ids.iter().find(|id| !known.contains(&id.as_str())) {
        bail!("no benchmark {unknown}: there are {}", known.join(", "));
    }
    let wanted = |id: &str| ids.is_empty() || ids.iter().any(|wanted| *wanted == id);
    let dir = paths::target().join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let mut all = Vec::new();
    for (id, what, bench) in BENCHES.iter().filter(|(id, ..)| wanted(id)) {
        println!("bench: {id}: {what}");
        let rows = bench(&options).with_context(|| format!("measure {id}"))?;
        let path = dir.join(format!("{id}.json"));
        fs::write(&path, serde_json::to_vec_pretty(&rows)?)
            .with_context(|| format!("write {}", path.display()))?;
        println!("bench: {id}: written to {}", path.display());
        if *id == CURVES && !options.quick {
            for picture in plot::draw(&path, &paths::workspace().join("docs"))? {
                println!("bench: {id}: drawn in {}", picture.display());
            }
        }
        all.extend(rows);
    }
    print!("{}", row::table(&all));
    Ok(())
}
