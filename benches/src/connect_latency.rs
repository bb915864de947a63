//! P2: how long a connect takes through a ClusterIP, over the same path without any rules; and what a
//! connection carries once it is open, which is to be the same.

use std::time::Duration;

use anyhow::Result;

use crate::{
    Options,
    connections::{Contender, Scene},
    ends::{self, Client, Connects},
    row::Row,
};

const SERVICES: usize = 10_000;
const QUICK_SERVICES: usize = 100;
const ROUNDS: usize = 60;
const TIME: Duration = Duration::from_millis(150);
const PEER: &str = "kube-proxy's nftables rules";

/// # Errors
/// When a connection fails.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let mut scene = Scene::start()?;
    let (services, rounds) = if options.quick { (QUICK_SERVICES, 3) } else { (SERVICES, ROUNDS) };
    scene.fill(services)?;
    scene.load_nftables()?;
    let (_, last) = scene.first_and_last()?;
    let worker = scene.filled.worker()?;
    let mut contenders =
        [scene.bare(), Contender::new("ours", worker, last), Contender::new("nftables", &scene.nft, last)];
    scene.measure(&mut contenders, rounds, TIME)?;
    let [bare, ours, nft] = &contenders;
    let mut rows = Vec::new();
    for (name, figure) in [("p50", (|run| run.p50_us) as fn(&Connects) -> f64), ("p99", |run| run.p99_us)] {
        let [bare, ours, nft] = [bare, ours, nft].map(|contender| contender.figures(figure));
        let added = |of: &[f64]| of.iter().zip(&bare).map(|(of, bare)| of - bare).collect::<Vec<_>>();
        for (who, figures) in [("", &ours), (", nftables", &nft)] {
            let case = format!("{services} services, connect, {name}{who}");
            rows.push(Row::of_pairs("P2", &case, "µs", figures, &bare, "bare").lower_is_better());
        }
        let case = format!("{services} services, added to a connect, {name}");
        rows.push(Row::of_pairs("P2", &case, "µs", &added(&ours), &added(&nft), PEER).lower_is_better());
    }
    rows.extend(once_open(&scene, [bare, ours], rounds, &format!("{services} services"))?);
    Ok(rows)
}

/// What a connection does once it is there: nothing of ours is in its way any more but the uplink's programs.
fn once_open(
    scene: &Scene,
    contenders: [&Contender<'_>; 2],
    rounds: usize,
    services: &str,
) -> Result<[Row; 2]> {
    let (mut times, mut bulk) = ([vec![], vec![]], [vec![], vec![]]);
    for round in 0..rounds.div_ceil(3) {
        for step in 0..2 {
            let which = (round + step) % 2;
            let (client, dial) = (Client::Node(contenders[which].node), contenders[which].to);
            times[which].push(ends::requests(client, dial.first, scene.server(), TIME)?);
            bulk[which].push(ends::bulk(client, dial.first, scene.server(), TIME * 2)?);
        }
    }
    let row = |case: &str, unit: &str, [bare, ours]: &[Vec<f64>; 2]| {
        Row::of_pairs("P2", &format!("{services}, {case}"), unit, ours, bare, "bare")
    };
    Ok([
        row("a request and its answer on an open connection", "ns", &times).lower_is_better(),
        row("bulk, one connection", "Gbit/s", &bulk),
    ])
}
