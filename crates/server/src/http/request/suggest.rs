//! "Did you mean …?": finds the known word or URL that is most similar to a mistyped one.

/// Minimum similarity of a suggestion; 1 means equal.
const MIN_SIMILARITY: f64 = 0.6;

/// The URLs that people type. `{}` matches any part.
pub(crate) const PATHS: &[&str] = &[
    "/",
    "/trigger",
    "/trigger/{}",
    "/clients",
    "/clients/{}",
    "/clients/{}/file",
    "/clients/{}/cancel",
    "/transfers",
    "/transfers/{}",
    "/transfers/{}/file",
    "/transfers/{}/cancel",
    "/server",
    "/problems",
    "/problems/{}",
    "/livez",
    "/readyz",
    "/healthz",
    "/audit",
    "/api/v1/audit",
    "/api/v1/clients",
    "/api/v1/clients/{}",
    "/api/v1/clients/{}/file",
    "/api/v1/clients/{}/cancel",
    "/api/v1/transfers",
    "/api/v1/transfers/{}",
    "/api/v1/transfers/{}/cancel",
    "/api/v1/transfers/{}/file",
    "/api/v1/transfers/{}/receipt",
    "/api/v1/server",
    "/api/v1/whoami",
];

/// Returns ` Did you mean wait?` for a mistyped `wait`, or an empty text.
pub(crate) fn did_you_mean<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> String {
    suggest(typed, known).map(|meant| format!(" Did you mean {meant}?")).unwrap_or_default()
}

/// Returns the known word that is most similar to `found`, if one is similar enough.
fn suggest<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|word| (similarity(found, word), word));
    let best =
        scored.filter(|(score, _)| MIN_SIMILARITY < *score).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, word)| word)
}

/// Returns the URL that is most similar to `found`, with the ids of `found`.
pub(crate) fn suggest_path(found: &str) -> Option<String> {
    // A longer URL is not a typing error, and the comparison is quadratic.
    let is_short_ascii = found.len() <= 200 && found.bytes().all(|b| b.is_ascii_graphic());
    let found = found.trim_end_matches('/');
    let candidates: Vec<String> = PATHS
        .iter()
        .filter(|_| is_short_ascii)
        .filter_map(|path| fill(path, found))
        .filter(|path| is_similar_in_each_part(found, path))
        .collect();
    suggest(found, candidates.iter().map(String::as_str)).map(str::to_owned)
}

/// Returns the path with each `{}` replaced by the part of `found`, if both have as many parts.
fn fill(path: &str, found: &str) -> Option<String> {
    let same_len = path.split('/').count() == found.split('/').count();
    let parts = path.split('/').zip(found.split('/'));
    let filled = parts.map(|(part, found)| if part == "{}" { found } else { part });
    same_len.then(|| filled.collect::<Vec<_>>().join("/"))
}

/// Compares each part. Otherwise long equal parts could outweigh a part that is another word.
fn is_similar_in_each_part(found: &str, path: &str) -> bool {
    let mut parts = found.split('/').zip(path.split('/'));
    parts.all(|(found, part)| found == part || MIN_SIMILARITY < similarity(found, part))
}

fn similarity(a: &str, b: &str) -> f64 {
    strsim::normalized_damerau_levenshtein(&a.to_ascii_lowercase(), b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_word_is_recognised_and_an_unrelated_word_is_not() {
        let known = ["id", "path", "wait", "queue", "fresh"];
        let check = |found, meant| assert_eq!(suggest(found, known.into_iter()), meant, "{found}");
        check("wiat", Some("wait"));
        check("qeue", Some("queue"));
        check("Path", Some("path"));
        check("colour", None);
    }

    #[test]
    fn a_url_is_suggested_with_the_id_that_was_typed() {
        let check = |found, meant: Option<&str>| {
            assert_eq!(suggest_path(found).as_deref(), meant, "{found}");
        };
        check("/client", Some("/clients"));
        check("/clients/", Some("/clients"));
        check("/client/client4", Some("/clients/client4"));
        check("/triger/client4", Some("/trigger/client4"));
        check("/api/v1/transfer", Some("/api/v1/transfers"));
        check("/api/v1/nope", None);
        check("/api/v1/sever", Some("/api/v1/server"));
        check("/favicon.ico", None);
        check("/wp-admin/setup.php", None);
        check("/clients/../../etc/passwd", None);
    }
}
