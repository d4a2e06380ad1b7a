//! Values over time as bars of block characters: time goes to the right, where now is.

use crate::cli::top::answers::POINTS;

/// Eighths of a cell.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// More cells than points have no meaning.
pub(super) fn cells(width: usize) -> usize {
    width.min(POINTS)
}

/// The cell of a point that is so many points old.
pub(super) fn cell_of(age: usize, width: usize) -> Option<usize> {
    let point = POINTS.checked_sub(age + 1)?;
    (width > 0).then(|| point * cells(width) / POINTS)
}

/// What each cell stands for: of several points what `choose` takes. The last value is that of
/// now; cells of a time before the first are empty.
pub(super) fn resampled<T: Copy>(
    values: &[Option<T>],
    width: usize,
    choose: impl Fn(T, T) -> T,
) -> Vec<Option<T>> {
    let mut cells = vec![None; cells(width)];
    for (age, value) in values.iter().rev().enumerate() {
        let Some(cell) = cell_of(age, width) else {
            break;
        };
        cells[cell] = match (cells[cell], *value) {
            (Some(one), Some(other)) => Some(choose(one, other)),
            (one, other) => one.or(other),
        };
    }
    cells
}

/// Lines of bars, the upper ones first. The largest value fills the height but for an eighth, so
/// that what is above stays apart. Nothing is a line at the bottom; what is not known is empty.
pub(super) fn bars(values: &[Option<f64>], width: usize, height: usize) -> Vec<String> {
    let cells = resampled(values, width, f64::max);
    let top = cells
        .iter()
        .flatten()
        .fold(0.0, |top, value| f64::max(top, *value));
    // The lowest level is that of nothing.
    let levels = (8 * height).saturating_sub(3);
    let eighths = |value: f64| match value > 0.0 {
        true => 2 + ((value / top * levels as f64).round() as usize).min(levels),
        false => 1,
    };
    let line = |row: usize| {
        let below = 8 * row;
        let cell = |value: &Option<f64>| {
            let filled = value.map_or(0, eighths).saturating_sub(below).min(8);
            match filled {
                0 => ' ',
                filled => BLOCKS[filled - 1],
            }
        };
        cells.iter().map(cell).collect()
    };
    (0..height).rev().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(values: &[f64]) -> Vec<Option<f64>> {
        values.iter().copied().map(Some).collect()
    }

    #[test]
    fn the_newest_value_is_at_the_right_and_the_largest_is_the_highest() {
        let bars = bars(&some(&[0.0, 1.0, 7.0]), 180, 1);
        assert_eq!(bars.len(), 1);
        assert_eq!(bars[0].chars().count(), 180);
        assert_eq!(bars[0].trim_start(), "▁▃▇");
    }

    #[test]
    fn a_cell_of_several_points_is_the_largest_of_them() {
        let mut values = vec![0.0; 180];
        values[179] = 5.0;
        values[90] = 10.0;
        let bars = bars(&some(&values), 10, 1);
        assert_eq!(bars[0], "▁▁▁▁▁▇▁▁▁▅");
    }

    #[test]
    fn what_is_not_known_is_empty_and_never_a_zero() {
        let mut values = some(&[3.0; 180]);
        values[..90].fill(None);
        assert_eq!(bars(&values, 4, 1)[0], "  ▇▇");
        assert_eq!(bars(&[], 4, 1)[0], "    ");
        assert_eq!(bars(&some(&[0.0; 180]), 4, 1)[0], "▁▁▁▁");
    }

    #[test]
    fn higher_bars_go_over_several_lines() {
        let mut values = some(&[16.0; 180]);
        values[..60].fill(Some(7.0));
        values[..30].fill(Some(0.0));
        let bars = bars(&values, 6, 2);
        assert_eq!(bars, ["  ▇▇▇▇", "▁█████"]);
    }

    #[test]
    fn the_oldest_point_is_the_first_cell() {
        assert_eq!(cell_of(0, 45), Some(44));
        assert_eq!(cell_of(179, 45), Some(0));
        assert_eq!(cell_of(180, 45), None);
        assert_eq!(cell_of(0, 1000), Some(179));
    }
}
