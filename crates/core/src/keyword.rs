//! A keyword that this version does not know: a newer version may have added it.

use std::fmt;

/// A short keyword of lowercase letters, digits and dashes. It is stored inline, so that an enum
/// with a keyword is still `Copy`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Keyword {
    len: u8,
    bytes: [u8; Self::MAX_LEN],
}

impl Keyword {
    /// The maximum length, in bytes.
    pub const MAX_LEN: usize = 40;

    /// Parses a keyword: 1 to [`MAX_LEN`](Self::MAX_LEN) lowercase letters, digits and dashes.
    pub fn parse(text: &str) -> Option<Self> {
        let is_allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let mut bytes = [0; Self::MAX_LEN];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        let len = u8::try_from(text.len()).ok()?;
        (0 < len && text.bytes().all(is_allowed)).then_some(Self { len, bytes })
    }

    /// Returns the keyword as text.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.len.into()).unwrap_or_default();
        str::from_utf8(bytes).unwrap_or_default() // `parse` accepts only ASCII
    }
}

impl fmt::Debug for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyword_is_unchanged_or_rejected() {
        for text in ["a", "from-the-future", "x2", &"a".repeat(Keyword::MAX_LEN)] {
            assert_eq!(Keyword::parse(text).unwrap().as_str(), text);
        }
        for text in ["", "A", "a b", "ä", "a\n", &"a".repeat(Keyword::MAX_LEN + 1)] {
            assert_eq!(Keyword::parse(text), None, "{text:?}");
        }
    }
}
