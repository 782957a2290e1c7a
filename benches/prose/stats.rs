//! Intervals, percentiles, and numbers that repeat.

/// Returns the 95 % interval of a share after Wilson: `found` of `all`.
#[expect(clippy::cast_precision_loss, reason = "counts")]
pub(crate) fn wilson(found: usize, all: usize) -> (f64, f64) {
    if all == 0 {
        return (0.0, 1.0);
    }
    let (n, z) = (all as f64, 1.959_964);
    let p = found as f64 / n;
    let middle = p + z * z / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z * z / n;
    (((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0))
}

/// Writes a share with its interval: `12 of 200 = 6.0 % (3.5 to 10.2)`.
#[expect(clippy::cast_precision_loss, reason = "counts")]
pub(crate) fn share(found: usize, all: usize) -> String {
    let (low, high) = wilson(found, all);
    let p = if all == 0 {
        0.0
    } else {
        found as f64 * 100.0 / all as f64
    };
    format!(
        "{found} of {all} = {p:.1} % ({:.1} to {:.1})",
        low * 100.0,
        high * 100.0
    )
}

/// Returns the value that nine of ten stay at or below.
pub(crate) fn p90(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() * 9).div_ceil(10).max(1) - 1;
    values.get(at).copied().unwrap_or(0.0)
}

/// Numbers that are the same in every run.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap_or(0)
    }
}
