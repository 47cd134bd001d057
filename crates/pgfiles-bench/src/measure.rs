//! Times and what becomes of them.

use serde::Serialize;

/// A result: of single operations p50 and p99 in seconds, of a whole the seconds (or the MiB/s) as `p50`.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Measure {
    pub p50: f64,
    pub p99: Option<f64>,
    /// Seconds of each on average: what a whole of them adds up to.
    pub mean: Option<f64>,
    /// Per operation, of pgfiles.
    pub round_trips: Option<f64>,
    /// Per operation: rows that are left in the table, and the bytes in them.
    pub rows: Option<f64>,
    pub bytes: Option<f64>,
}

impl Measure {
    pub fn one(value: f64) -> Self {
        Self { p50: value, ..Self::default() }
    }
}

/// Of many operations.
pub fn each(mut taken: Vec<f64>) -> Measure {
    taken.sort_by(f64::total_cmp);
    let at = |share: f64| taken.get(((taken.len() as f64 * share) as usize).min(taken.len().saturating_sub(1))).copied();
    let mean = (!taken.is_empty()).then(|| taken.iter().sum::<f64>() / taken.len() as f64);
    Measure { p50: at(0.5).unwrap_or(f64::NAN), p99: at(0.99), mean, ..Measure::default() }
}

/// The one in the middle by its p50.
pub fn median(mut all: Vec<Measure>) -> Option<Measure> {
    all.sort_by(|a, b| a.p50.total_cmp(&b.p50));
    all.get(all.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let found = each((1..=100).rev().map(f64::from).collect());
        assert_eq!((found.p50, found.p99, found.mean), (51.0, Some(100.0), Some(50.5)));
        let all = [3.0, 1.0, 2.0].map(Measure::one).to_vec();
        assert_eq!(median(all).map(|measure| measure.p50), Some(2.0));
    }
}
