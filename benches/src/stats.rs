//! Medians, and how far they can be trusted.

/// The middle of some values, with the quartiles beside it. All NaN without values.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

/// The median and the quartiles.
pub fn quartiles(values: &[f64]) -> Spread {
    let sorted = sorted(values);
    Spread { low: at(&sorted, 0.25), median: at(&sorted, 0.5), high: at(&sorted, 0.75) }
}

/// The value that this share of all (0 to 1) does not exceed.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    at(&sorted(values), share)
}

/// The median and its 95% interval from order statistics, whatever the distribution (sign test).
pub fn median_interval(values: &[f64]) -> Spread {
    let sorted = sorted(values);
    let rank = interval_rank(sorted.len());
    let value = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    Spread { low: value(rank), median: at(&sorted, 0.5), high: value(sorted.len().wrapping_sub(rank + 1)) }
}

/// Value by value, `a / b`.
pub fn ratios(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a / b).collect()
}

/// The largest rank (from 0) below which fewer than 2.5% of fair coins' heads fall.
fn interval_rank(count: usize) -> usize {
    let mut probability = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut sum = 0.0;
    for rank in 0..count / 2 {
        sum += probability;
        if sum > 0.025 {
            return rank.saturating_sub(1);
        }
        probability *= (count - rank) as f64 / (rank + 1) as f64;
    }
    (count / 2).saturating_sub(1)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

fn at(sorted: &[f64], share: f64) -> f64 {
    let position = share * sorted.len().saturating_sub(1) as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    match (sorted.get(below), sorted.get(above)) {
        (Some(low), Some(high)) => low + (high - low) * position.fract(),
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_pairs_have_the_interval_of_the_textbook() {
        // Ranks 6 and 15, counted from 1: 95.9%.
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        let spread = median_interval(&values);
        assert_eq!((spread.low, spread.median, spread.high), (6.0, 10.5, 15.0));
    }

    #[test]
    fn quartiles_lie_between_values() {
        let spread = quartiles(&[4.0, 1.0, 2.0, 3.0, 5.0]);
        assert_eq!((spread.low, spread.median, spread.high), (2.0, 3.0, 4.0));
        assert!(quartiles(&[]).median.is_nan());
    }
}
