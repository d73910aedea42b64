//! What a misspelt word may have meant.

/// Longer words are not compared: the comparison takes time and memory in proportion to the length.
const LONGEST: usize = 64;

/// The candidate nearest to `word`, if one is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST {
        return None;
    }
    let word = normal(word);
    let near_enough = 1.max(word.chars().count() / 3);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &normal(candidate)), candidate))
        .filter(|(distance, _)| *distance <= near_enough)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean connect?`, or the list of what is accepted.
pub(crate) fn offer<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(word, candidates.clone()) {
        Some(candidate) => format!("did you mean {candidate}?"),
        None => format!("accepted: {}", candidates.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

/// `-`, `_` and case are what people mix up.
fn normal(word: &str) -> String {
    word.to_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let words = ["connect", "request", "idle", "round_robin"];
        assert_eq!(nearest("conect", words), Some("connect"));
        assert_eq!(nearest("conncet", words), Some("connect"));
        assert_eq!(nearest("Round-Robin", words), Some("round_robin"));
        assert_eq!(nearest("retries", words), None);
        assert_eq!(nearest("", words), None);
        assert_eq!(nearest(&"connect".repeat(100), words), None);
    }

    #[test]
    fn without_a_near_word_all_are_listed() {
        assert_eq!(offer("tcp", ["auto", "http1"]), "accepted: auto, http1");
        assert_eq!(offer("htp1", ["auto", "http1"]), "did you mean http1?");
    }
}
