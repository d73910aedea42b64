//! What somebody who misspelt a name may have meant.

/// Longer words are not compared: the comparison takes time and memory in proportion to the length.
const LONGEST: usize = 64;

/// The candidate with the fewest edits from `text`, if it is near enough to be meant.
pub(crate) fn of<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let comparable = candidates.into_iter().filter(|_| text.len() <= LONGEST);
    comparable
        .map(|candidate| (strsim::levenshtein(text, candidate), candidate))
        .min()
        .filter(|(edits, candidate)| *edits <= candidate.len().div_ceil(2).min(4))
        .map(|(_, candidate)| candidate)
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
