//! The name that was probably meant.

/// The candidate that is fewest edits away from `name`, if it is near enough to be worth naming.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // An enormous name is no typo, and the comparison is quadratic.
    if name.len() > 64 {
        return None;
    }
    let allowed = (name.len() / 3).clamp(1, 6);
    candidates
        .into_iter()
        .map(|candidate| (edits(name, candidate), candidate))
        .filter(|(edits, _)| *edits <= allowed)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and substitutions that turn `from` into `to` (Levenshtein distance, in bytes).
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_answered_with_the_name_that_was_meant() {
        let known = ["UPSTREAM_HOST", "UPSTREAM_CLUSTER", "DURATION"];
        assert_eq!(nearest("UPSTREAM_HOSTS", known), Some("UPSTREAM_HOST"));
        assert_eq!(nearest("DURATON", known), Some("DURATION"));
        assert_eq!(nearest("NOTHING_LIKE_IT", known), None);
        assert_eq!(nearest("", known), None);
    }
}
