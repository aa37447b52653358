//! The ids of clients and of transfers. Each is parsed once, where it is received.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::{Builder, Uuid};

/// Identifies a client: the id that operators type, and the folder of its downloads.
///
/// 1 to 64 letters, digits, dots, dashes or underscores. The first character is a letter or a
/// digit. The id is safe as a folder name on every file system: it has no trailing dot, is no
/// device name of Windows, and has no suffix `.tmp`, which partials have.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ClientId(Arc<str>);

/// Why a text is no client id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a client id. {rule}")]
pub struct ClientIdError {
    found: String,
    rule: &'static str,
}

impl ClientId {
    /// The maximum length of an id, in bytes.
    pub const MAX_LEN: usize = 64;

    /// Parses an id typed by a person or sent by an agent.
    ///
    /// # Errors
    /// Names the rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, ClientIdError> {
        match broken_rule(text) {
            None => Ok(Self(text.into())),
            // Sent back to the caller: bounded here, escaped by `{:?}` above.
            Some(rule) => Err(ClientIdError { found: text.chars().take(80).collect(), rule }),
        }
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the id in lowercase. Two ids with the same result would share a folder on some file
    /// systems.
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

fn broken_rule(text: &str) -> Option<&'static str> {
    const GRAMMAR: &str = "Ids are 1-64 letters, digits, dot, dash or underscore.";
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let stem = text.split('.').next().unwrap_or_default();
    if text.is_empty() || ClientId::MAX_LEN < text.len() || !text.chars().all(allowed) {
        Some(GRAMMAR)
    } else if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        Some("Ids start with a letter or a digit.")
    } else if text.ends_with('.') {
        Some("Ids do not end in a dot.")
    } else if text.to_ascii_lowercase().ends_with(".tmp") {
        Some("Ids do not end in .tmp.")
    } else if is_windows_device(stem) {
        Some("It is the name of a device on Windows.")
    } else {
        None
    }
}

fn is_windows_device(stem: &str) -> bool {
    let stem = stem.to_ascii_uppercase();
    let numbered = |prefix: &str| {
        stem.strip_prefix(prefix).is_some_and(|n| matches!(n.as_bytes(), [b'0'..=b'9']))
    };
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL") || numbered("COM") || numbered("LPT")
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ClientId {
    type Err = ClientIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Identifies a transfer: a UUIDv7 (RFC 9562), so ids sort by the time they were generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TransferId(Uuid);

/// The text is not the standard form of a UUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a transfer id. They look like 01890a5d-ac96-774b-bcce-b302099a8057.")]
pub struct TransferIdError {
    found: String,
}

impl TransferId {
    /// Generates an id that no other machine generates.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// Returns the smallest id of `time`. All ids that were generated earlier sort before it.
    pub fn first_at(time: DateTime<Utc>) -> Self {
        let millis = u64::try_from(time.timestamp_millis()).unwrap_or(0);
        Self(Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid())
    }

    /// Parses the standard form: 36 characters, with dashes.
    ///
    /// # Errors
    /// The text has another form.
    pub fn parse(text: &str) -> Result<Self, TransferIdError> {
        let standard_form = text.len() == 36;
        match Uuid::parse_str(text) {
            Ok(uuid) if standard_form => Ok(Self(uuid)),
            _ => Err(TransferIdError { found: text.chars().take(80).collect() }),
        }
    }
}

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_safe_as_a_folder_are_accepted() {
        let longest = "a".repeat(64);
        for text in ["client4", "A", "7", "store-12.lyon_2", "CONSOLE", "com10", "tmp", &longest] {
            assert_eq!(ClientId::parse(text).map(|id| id.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn ids_sort_by_the_time_they_were_generated() {
        let before = TransferId::first_at(Utc::now());
        let id = TransferId::generate();
        let after = TransferId::first_at(Utc::now() + chrono::TimeDelta::milliseconds(1));
        assert!(before <= id && id < after, "{before} {id} {after}");
        assert_eq!(TransferId::parse(&before.to_string()), Ok(before));
    }

    #[test]
    fn ids_that_could_escape_or_clash_are_rejected() {
        let too_long = "a".repeat(65);
        let invalid = [
            "",
            ".",
            "..",
            "a/b",
            "a\\b",
            "%2e%2e%2f",
            "a\0b",
            "a b",
            "é",
            "\u{202e}x",
            "-rf",
            "_x",
            ".filepull",
            "x.",
            "x.tmp",
            "x.TMP",
            "CON",
            "con.txt",
            "nul",
            "COM1",
            "lpt9.log",
            "a\r\nb",
            &too_long,
        ];
        for text in invalid {
            assert!(ClientId::parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_rejected_id_is_quoted_without_its_control_characters() {
        let error = ClientId::parse("a\u{1b}[31m\n").unwrap_err().to_string();
        assert!(error.chars().all(|c| !c.is_control()), "{error:?}");
    }

    #[test]
    fn a_transfer_id_is_parsed_from_its_text() {
        let id = TransferId::generate();
        assert_eq!(TransferId::parse(&id.to_string()), Ok(id));
        for text in ["", "latest", "01890a5dac96774bbcceb302099a8057", "../../etc/passwd"] {
            assert!(TransferId::parse(text).is_err(), "{text:?} was accepted");
        }
    }
}
