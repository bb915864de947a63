//! A result: one line of the table, one object of the JSON file.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::stats::{Spread, median_interval, quartiles, ratios};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Higher,
    Lower,
}

/// One case of a benchmark. Figures are medians, with the quartiles beside them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub id: String,
    pub case: String,
    pub unit: String,
    pub ours: f64,
    pub ours_quartiles: [f64; 2],
    pub peer: Option<f64>,
    pub peer_quartiles: Option<[f64; 2]>,
    pub peer_name: String,
    /// Ours over the peer's; of pairs, the median of the pairs' ratios.
    pub ratio: Option<f64>,
    /// 95% of the median ratio, where there are pairs.
    pub ratio_interval: Option<[f64; 2]>,
    pub better: Better,
    pub runs: usize,
}

impl Row {
    /// Runs in pairs, ours and the peer's in turn: the ratio is the median of the pairs' ratios.
    pub fn of_pairs(id: &str, case: &str, unit: &str, ours: &[f64], peer: &[f64], peer_name: &str) -> Row {
        let interval = median_interval(&ratios(ours, peer));
        Row {
            ratio: Some(interval.median),
            ratio_interval: Some([interval.low, interval.high]),
            ..Row::of_runs(id, case, unit, ours, peer, peer_name)
        }
    }

    /// Runs that have no partner: the ratio is that of the medians.
    pub fn of_runs(id: &str, case: &str, unit: &str, ours: &[f64], peer: &[f64], peer_name: &str) -> Row {
        let (mine, theirs) = (quartiles(ours), quartiles(peer));
        Row {
            id: id.to_owned(),
            case: case.to_owned(),
            unit: unit.to_owned(),
            ours: mine.median,
            ours_quartiles: [mine.low, mine.high],
            peer: (!peer.is_empty()).then_some(theirs.median),
            peer_quartiles: (!peer.is_empty()).then_some([theirs.low, theirs.high]),
            peer_name: peer_name.to_owned(),
            ratio: (!peer.is_empty()).then_some(mine.median / theirs.median),
            ratio_interval: None,
            better: Better::Higher,
            runs: ours.len(),
        }
    }

    /// A peer that can't run here: its recorded figure, named as such.
    pub fn against_recorded(
        id: &str,
        case: &str,
        unit: &str,
        ours: &[f64],
        peer: f64,
        peer_name: &str,
    ) -> Row {
        let peer_name = format!("{peer_name} (recorded)");
        Row { peer_quartiles: None, ..Row::of_runs(id, case, unit, ours, &[peer], &peer_name) }
    }

    pub fn lower_is_better(mut self) -> Row {
        self.better = Better::Lower;
        self
    }
}

/// The rows as a table for people.
pub fn table(rows: &[Row]) -> String {
    let mut cells = vec![["id", "case", "ours", "peer", "ratio", "better", "against"].map(str::to_owned)];
    for row in rows {
        let Row { unit, ours, ours_quartiles: [low, high], .. } = row;
        let ours = Spread { low: *low, median: *ours, high: *high };
        cells.push([
            row.id.clone(),
            row.case.clone(),
            format!("{} {unit}", figures(ours)),
            row.peer.map(number).unwrap_or_default(),
            ratio(row),
            format!("{:?}", row.better).to_lowercase(),
            row.peer_name.clone(),
        ]);
    }
    let widths: Vec<usize> =
        (0..7).map(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &cells {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn ratio(row: &Row) -> String {
    match (row.ratio, row.ratio_interval) {
        (Some(ratio), Some([low, high])) => format!("{} [{}, {}]", number(ratio), number(low), number(high)),
        (Some(ratio), None) => number(ratio),
        _ => String::new(),
    }
}

fn figures(Spread { low, median, high }: Spread) -> String {
    format!("{} ({}–{})", number(median), number(low), number(high))
}

fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small >= 0.01 || small == 0.0 => format!("{value:.3}"),
        _ => format!("{value:.6}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_of_pairs_is_the_median_of_ratios() {
        let row = Row::of_pairs("P1", "x", "1/s", &[10.0, 30.0, 20.0], &[10.0, 10.0, 10.0], "bare");
        assert_eq!((row.ratio, row.ours, row.peer, row.runs), (Some(2.0), 20.0, Some(10.0), 3));
        let json = serde_json::to_value(&row).unwrap();
        for field in ["id", "case", "unit", "ours", "peer", "peer_name", "ratio", "better", "runs"] {
            assert!(json.get(field).is_some(), "{field}");
        }
        assert_eq!(json["better"], "higher");
        assert!(table(&[row]).contains("2.000 ["));
    }
}
