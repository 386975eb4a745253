//! Round numbers for axes.

/// Ticks of a linear axis from 0 to at least `most`, in steps of 1, 2 or 5 times a power of ten; four to seven of them.
pub(super) fn linear_ticks(most: f64) -> Vec<f64> {
    let rough = most / 5.0;
    let magnitude = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * magnitude).into_iter().find(|s| *s >= rough * 0.999_999);
    let step = step.unwrap_or(magnitude * 10.0);
    let mut ticks = vec![0.0];
    while ticks[ticks.len() - 1] < most * 0.999_999 {
        // A multiple and a rounding, not a sum: 0.1 + 0.2 would print all its digits.
        ticks.push((ticks.len() as f64 * step * 1e6).round() / 1e6);
    }
    ticks
}

/// Ticks of a logarithmic axis around `least..=most`, both above 0: 1, 2, 5 per decade, or the decades alone where
/// those would be many; at least two.
pub(super) fn log_ticks(least: f64, most: f64) -> Vec<f64> {
    let wide = most / least > 2_000.0;
    let steps: &[f64] = if wide { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let first = least.log10().floor();
    let candidates = (0u8..40).flat_map(|decade| {
        let magnitude = 10f64.powf(first + f64::from(decade));
        steps.iter().map(move |step| (step * magnitude * 1e6).round() / 1e6)
    });
    let mut ticks: Vec<f64> = Vec::new();
    for tick in candidates {
        // Everything up to `least` is below the axis, but for the last of them: its foot.
        if tick <= least {
            ticks.clear();
        }
        ticks.push(tick);
        if tick >= most && ticks.len() > 1 {
            break;
        }
    }
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_axis_has_round_steps_and_holds_its_data() {
        assert_eq!(linear_ticks(92_000.0), [0.0, 20_000.0, 40_000.0, 60_000.0, 80_000.0, 100_000.0]);
        assert_eq!(linear_ticks(1.0), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        assert_eq!(linear_ticks(3.0), [0.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn logarithmic_axis_encloses_its_data() {
        assert_eq!(log_ticks(37.0, 420.0), [20.0, 50.0, 100.0, 200.0, 500.0]);
        assert_eq!(log_ticks(50.0, 50.0), [50.0, 100.0]);
        assert_eq!(log_ticks(3.0, 90_000.0), [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0]);
    }
}
