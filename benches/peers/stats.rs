//! Medians, ratios and the order of a round.

/// The middle of the values, or the mean of the two in the middle; none of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// The median of `ours[r] / theirs[r]` over the rounds `r` in which both have a value.
///
/// Pairing within a round cancels the drift of a machine whose speed changes by the minute,
/// which a ratio of two medians would keep.
pub(crate) fn paired_ratio(ours: &[Option<f64>], theirs: &[Option<f64>]) -> Option<f64> {
    let pairs = ours.iter().zip(theirs);
    let ratios = pairs.filter_map(|(ours, theirs)| Some((*ours)? / (*theirs)?));
    median(ratios.filter(|ratio| ratio.is_finite()))
}

/// `items` from a different one on in each turn, so that none always follows the same.
pub(crate) fn rotated<T: Copy>(items: &[T], turn: usize) -> Vec<T> {
    let mut order = items.to_vec();
    if !order.is_empty() {
        order.rotate_left(turn % items.len());
    }
    order
}
