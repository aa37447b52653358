//! The path of a file on a client, as an operator asks for it.

use std::fmt;

use serde::Serialize;

/// A path that an operator asks a client for, such as `logs/pos.log`.
///
/// It never climbs: no part of it is `..`, `.` or empty, and it holds no control character.
///
/// It promises nothing about the disk. Whether the client shares the path is the agent's decision,
/// and where links lead is judged by the agent when it opens the file beneath its own root.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SharedPath(String);

/// Why a text is not a path that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a path to ask for: {rule}.")]
pub struct SharedPathError {
    found: String,
    rule: &'static str,
}

impl SharedPath {
    /// The longest path, in bytes.
    pub const MAX_LEN: usize = 1024;

    /// Parses a path typed by a person or sent by a server.
    ///
    /// # Errors
    /// Says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, SharedPathError> {
        match broken_rule(text) {
            None => Ok(Self(text.to_owned())),
            Some(rule) => Err(SharedPathError { found: text.chars().take(80).collect(), rule }),
        }
    }

    /// The path as text, parts divided by `/` (or `\` where the client runs Windows).
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn broken_rule(text: &str) -> Option<&'static str> {
    // A leading separator stays: only the agent can say that it does not share an absolute path.
    let parts = text.strip_prefix(['/', '\\']).unwrap_or(text);
    if text.is_empty() || SharedPath::MAX_LEN < text.len() {
        Some("it has 1 to 1024 bytes")
    } else if text.chars().any(char::is_control) {
        Some("it holds no control characters")
    } else if parts.split(['/', '\\']).any(|part| matches!(part, "" | "." | "..")) {
        Some("no part of it is empty, `.` or `..`")
    } else {
        None
    }
}

impl fmt::Display for SharedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_that_climb_are_refused() {
        for text in ["", "..", "../x", "a/../b", "a/..", "./a", "a//b", "a/", "a\\..\\b", "a\nb"] {
            assert!(SharedPath::parse(text).is_err(), "{text:?} was accepted");
        }
        for text in ["data.txt", "logs/pos.log", "C:\\Windows\\win.ini", "/var/log/x", "..x/y.."] {
            assert!(SharedPath::parse(text).is_ok(), "{text:?} was refused");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_never_climbs(text in "[a-z./\\\\]{0,24}") {
            if let Ok(path) = SharedPath::parse(&text) {
                let climbs = Path::new(path.as_str()).components().any(|c| c == Component::ParentDir);
                prop_assert!(!climbs);
            }
        }
    }
}
