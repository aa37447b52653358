//! How much of a file a transfer sends. Its pull decides, and the transfer keeps it.

/// What a transfer sends of a file whose last good download the server has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullMode {
    /// The bytes that the last good download does not have. Makes a file also without a change.
    #[default]
    Changes,
    /// As [`Changes`](Self::Changes), but makes no file if the file equals the last good download.
    IfChanged,
    /// The complete file, which the client opens after the pull.
    All,
}

impl PullMode {
    const ALL: [Self; 3] = [Self::Changes, Self::IfChanged, Self::All];

    /// Returns the mode as text: `changes`, `if-changed` or `all`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Changes => "changes",
            Self::IfChanged => "if-changed",
            Self::All => "all",
        }
    }

    /// Parses the text of a mode.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == text)
    }

    /// Returns whether the server offers its last good download as the base of the upload.
    pub fn uses_base(self) -> bool {
        match self {
            Self::Changes | Self::IfChanged => true,
            Self::All => false,
        }
    }

    /// Returns whether a pull of this mode may join an unfinished transfer of mode `other` for the
    /// same file. `is_ordered`: the client may have opened the file already.
    pub fn may_join(self, other: Self, is_ordered: bool) -> bool {
        match self {
            // A pull that wants a file never joins a transfer that may make none.
            Self::Changes => other != Self::IfChanged,
            Self::IfChanged => true,
            Self::All => other == Self::All && !is_ordered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_parsed_from_its_text() {
        for mode in PullMode::ALL {
            assert_eq!(PullMode::parse(mode.as_str()), Some(mode));
        }
        assert_eq!(PullMode::parse("ALL"), None);
    }

    #[test]
    fn a_pull_joins_only_a_transfer_that_keeps_its_promise() {
        use PullMode::{All, Changes, IfChanged};
        let check = |mode: PullMode, other, is_ordered, expected| {
            assert_eq!(mode.may_join(other, is_ordered), expected, "{mode:?} {other:?}");
        };
        for is_ordered in [false, true] {
            check(Changes, Changes, is_ordered, true);
            check(Changes, All, is_ordered, true);
            check(Changes, IfChanged, is_ordered, false);
            check(IfChanged, Changes, is_ordered, true);
            check(IfChanged, IfChanged, is_ordered, true);
            check(IfChanged, All, is_ordered, true);
            check(All, Changes, is_ordered, false);
            check(All, IfChanged, is_ordered, false);
            check(All, All, is_ordered, !is_ordered);
        }
    }
}
