//! What somebody who misspelt a name may have meant.

/// The candidate with the fewest edits from `text`, if it is near enough to be meant.
pub(crate) fn of<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(text, candidate), candidate))
        .min()
        .filter(|(edits, candidate)| *edits <= candidate.len().div_ceil(2).min(4))
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements that lead from one text to the other (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().take(100).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_finds_the_name_that_was_meant() {
        let names = ["inject", "upstreams", "redirect", "balance"];
        assert_eq!(of("upstream", names), Some("upstreams"));
        assert_eq!(of("injection", names), Some("inject"));
        assert_eq!(of("re-direct", names), Some("redirect"));
        assert_eq!(of("something-else", names), None);
        assert_eq!(of("", names), None);
    }
}
