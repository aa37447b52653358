//! `SHARE` as a list: splits it into entries, and rejects entries that cannot be right.

/// Maximum encoded length of all entries together. The hello carries them, and the server reads at
/// most 64 KiB of it, other fields included.
const MAX_LEN: usize = 60 * 1024;

/// Splits a list at its commas, except commas within `{a,b}` and `[,]`, which belong to the glob.
pub(crate) fn split(list: &str) -> Vec<&str> {
    let mut entries = Vec::new();
    let mut start = 0;
    let mut braces = 0_usize;
    let mut in_brackets = false;
    let mut escaped = false;
    for (at, c) in list.char_indices() {
        if std::mem::take(&mut escaped) {
            continue;
        }
        match c {
            '\\' => escaped = true,
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            '{' if !in_brackets => braces += 1,
            '}' if !in_brackets => braces = braces.saturating_sub(1),
            ',' if braces == 0 && !in_brackets => {
                entries.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    entries.push(&list[start..]);
    entries.into_iter().map(str::trim).filter(|entry| !entry.is_empty()).collect()
}

/// Rejects an entry that is certainly wrong.
///
/// # Errors
/// Names what to write instead.
pub(crate) fn check(entry: &str) -> Result<(), String> {
    filepull_process::environment::check_path(entry.as_ref())
        .map_err(|error| format!("{entry:?}: {error}"))?;
    if let Some(folder) = entry.strip_suffix('/') {
        return Err(format!(
            "{entry} is a folder, and only files are sent: write {folder}/* for its files, or \
             {folder}/** for all files beneath it"
        ));
    }
    if let Some(rest) = entry.strip_prefix("./") {
        return Err(format!("write {rest} instead of {entry}: it lies beneath FILE_PATH's folder"));
    }
    Ok(())
}

/// Rejects a list that does not fit into the hello.
///
/// # Errors
/// Names the length of the list.
pub(crate) fn check_len<'a>(entries: impl Iterator<Item = &'a str>) -> Result<(), String> {
    // The encoding adds a tag and a length to the text of each entry.
    let len: usize = entries.map(|entry| entry.len() + 4).sum();
    if len <= MAX_LEN {
        return Ok(());
    }
    Err(format!(
        "the list takes {} KiB, and at most {} KiB fit into the agent's hello: use globs",
        len.div_ceil(1024),
        MAX_LEN / 1024
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_within_a_glob_does_not_end_its_entry() {
        let check = |list: &str, entries: &[&str]| assert_eq!(split(list), entries, "{list:?}");
        check("logs/*.{log,txt}", &["logs/*.{log,txt}"]);
        check("a[,]b.csv, x/{a,{b,c}}.log ,y", &["a[,]b.csv", "x/{a,{b,c}}.log", "y"]);
        check("a,b.csv", &["a", "b.csv"]);
        check(" a , ,b,", &["a", "b"]);
        check(r"a\{,b", &[r"a\{", "b"]);
        check("[{],a", &["[{]", "a"]);
        check("", &[]);
    }

    #[test]
    fn an_entry_that_is_certainly_wrong_is_explained() {
        let check_rejected = |entry: &str, expected: &str| {
            let error = check(entry).unwrap_err();
            assert!(error.contains(expected), "{entry}: {error}");
        };
        check_rejected("logs/", "logs/* for its files");
        check_rejected("~/logs/*", "~ is not replaced here");
        check_rejected("$HOME/*", "$HOME is not replaced here");
        check_rejected("'logs/*'", "quotes");
        check_rejected("logs/*.log\nlogs/*.txt", "control character");
        check_rejected("./logs/*", "write logs/*");
        assert_eq!(check("logs/*.log"), Ok(()));
    }

    #[test]
    fn a_list_that_does_not_fit_into_the_hello_is_rejected() {
        let entries = vec!["logs/some-folder-name/12345.log"; 3000];
        let error = check_len(entries.iter().copied()).unwrap_err();
        assert!(error.starts_with("the list takes 103 KiB, and at most 60 KiB"), "{error}");
        assert_eq!(check_len(entries.iter().copied().take(1500)), Ok(()));
    }
}
