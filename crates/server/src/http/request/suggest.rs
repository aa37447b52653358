//! "Did you mean …?": the known word, or URL, that is most like what was typed.

/// Below this likeness (1 is equal) a suggestion would be a guess.
const LIKE_ENOUGH: f64 = 0.6;

/// The URLs that people type. A part in braces stands for whatever is there.
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
    "/api/v1/clients",
    "/api/v1/clients/{}",
    "/api/v1/clients/{}/file",
    "/api/v1/clients/{}/cancel",
    "/api/v1/transfers",
    "/api/v1/transfers/{}",
    "/api/v1/transfers/{}/cancel",
    "/api/v1/transfers/{}/file",
    "/api/v1/server",
];

/// The known word most like `found`, if one is like it at all.
pub(crate) fn nearest<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|word| (likeness(found, word), word));
    let best = scored.filter(|(score, _)| LIKE_ENOUGH < *score).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, word)| word)
}

/// The URL most like `found`, with the ids that `found` has.
pub(crate) fn nearest_path(found: &str) -> Option<String> {
    // Longer ones are not typing errors, and the comparison is quadratic.
    let plain = found.len() <= 200 && found.bytes().all(|b| b.is_ascii_graphic());
    let found = found.trim_end_matches('/');
    let candidates: Vec<String> = PATHS
        .iter()
        .filter(|_| plain)
        .filter_map(|path| fill(path, found))
        .filter(|path| is_like_part_by_part(found, path))
        .collect();
    nearest(found, candidates.iter().map(String::as_str)).map(str::to_owned)
}

/// The path with its braces replaced by the parts of `found`, if there are as many.
fn fill(path: &str, found: &str) -> Option<String> {
    let same_len = path.split('/').count() == found.split('/').count();
    let parts = path.split('/').zip(found.split('/'));
    let filled = parts.map(|(part, found)| if part == "{}" { found } else { part });
    same_len.then(|| filled.collect::<Vec<_>>().join("/"))
}

/// Long parts that are equal must not outweigh one that is another word.
fn is_like_part_by_part(found: &str, path: &str) -> bool {
    let mut parts = found.split('/').zip(path.split('/'));
    parts.all(|(found, part)| found == part || LIKE_ENOUGH < likeness(found, part))
}

fn likeness(a: &str, b: &str) -> f64 {
    strsim::normalized_damerau_levenshtein(&a.to_ascii_lowercase(), b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_an_unrelated_word_is_not() {
        let known = ["id", "path", "wait", "queue", "fresh"];
        let check = |found, meant| assert_eq!(nearest(found, known.into_iter()), meant, "{found}");
        check("wiat", Some("wait"));
        check("qeue", Some("queue"));
        check("Path", Some("path"));
        check("colour", None);
    }

    #[test]
    fn a_url_is_suggested_with_the_id_that_was_typed() {
        let check = |found, meant: Option<&str>| {
            assert_eq!(nearest_path(found).as_deref(), meant, "{found}");
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
