//! P2: how long a connect takes through a ClusterIP, over the same path without any rules.

use std::time::Duration;

use anyhow::Result;

use crate::{
    Options,
    ends::Connects,
    p1::{Contender, Scene},
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
        let case = format!("{services} services, connect, {name}");
        rows.push(Row::of_pairs("P2", &case, "µs", &ours, &bare, "bare").lower_is_better());
        rows.push(
            Row::of_pairs("P2", &case, "µs", &nft, &bare, &format!("bare; not ours but {PEER}"))
                .lower_is_better(),
        );
        let case = format!("{services} services, added to a connect, {name}");
        rows.push(Row::of_pairs("P2", &case, "µs", &added(&ours), &added(&nft), PEER).lower_is_better());
    }
    Ok(rows)
}
