//! The path of a file on a client, as an operator requests it.

use std::fmt;

use serde::Serialize;

/// A path that an operator requests from a client, such as `logs/pos.log`.
///
/// No part of it is `..`, `.` or empty, and it has no control character.
///
/// It guarantees nothing about the disk. The agent decides whether it shares the path, and checks
/// links when it opens the file beneath its own root.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SharedPath(String);

/// Why a text is no valid path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a valid path: {rule}.")]
pub struct SharedPathError {
    found: String,
    rule: &'static str,
}

impl SharedPath {
    /// The maximum length of a path, in bytes.
    pub const MAX_LEN: usize = 1024;

    /// Parses a path typed by a person or sent by a server.
    ///
    /// # Errors
    /// Names the rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, SharedPathError> {
        match broken_rule(text) {
            None => Ok(Self(text.to_owned())),
            Some(rule) => Err(SharedPathError { found: text.chars().take(80).collect(), rule }),
        }
    }

    /// Returns the path as text. Its separator is `/`, or `\` if the client runs Windows.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn broken_rule(text: &str) -> Option<&'static str> {
    // A leading separator is allowed: only the agent knows whether it shares an absolute path.
    let parts = text.strip_prefix(['/', '\\']).unwrap_or(text);
    if text.is_empty() || SharedPath::MAX_LEN < text.len() {
        Some("a path has 1 to 1024 bytes")
    } else if text.chars().any(char::is_control) {
        Some("a path has no control characters")
    } else if parts.split(['/', '\\']).any(|part| matches!(part, "" | "." | "..")) {
        Some("no part of a path is empty, `.` or `..`")
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
    fn paths_that_leave_their_folder_are_rejected() {
        for text in ["", "..", "../x", "a/../b", "a/..", "./a", "a//b", "a/", "a\\..\\b", "a\nb"] {
            assert!(SharedPath::parse(text).is_err(), "{text:?} was accepted");
        }
        for text in ["data.txt", "logs/pos.log", "C:\\Windows\\win.ini", "/var/log/x", "..x/y.."] {
            assert!(SharedPath::parse(text).is_ok(), "{text:?} was rejected");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_path_never_leaves_its_folder(text in "[a-z./\\\\]{0,24}") {
            if let Ok(path) = SharedPath::parse(&text) {
                let leaves = Path::new(path.as_str()).components().any(|c| c == Component::ParentDir);
                prop_assert!(!leaves);
            }
        }
    }
}
