//! The kinds of extents that two ends may use beside plain data. Each is a capability in their
//! greetings.

use super::Content;

/// The kinds of extents that a machine supports, beside plain data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtentKinds {
    /// Compressed data.
    pub zstd: bool,
    /// Holes.
    pub hole: bool,
    /// Copies from the base.
    pub copy: bool,
}

impl ExtentKinds {
    /// All kinds of this build.
    pub const ALL: Self = Self { zstd: true, hole: true, copy: true };

    /// Returns the kinds that a list of capabilities names. Other capabilities are ignored.
    pub fn from_capabilities(capabilities: &[String]) -> Self {
        let has = |name| capabilities.iter().any(|capability| capability == name);
        Self { zstd: has("zstd"), hole: has("hole"), copy: has("copy") }
    }

    /// Returns whether an upload between two such ends may have this content.
    pub fn permit(self, content: &Content<'_>) -> bool {
        match content {
            Content::Data(_) => true,
            Content::Zstd { .. } => self.zstd,
            Content::Hole { .. } => self.hole,
            Content::Copy { .. } => self.copy,
        }
    }

    /// Returns the capability of each kind.
    pub fn capabilities(self) -> impl Iterator<Item = &'static str> {
        let Self { zstd, hole, copy } = self;
        let names = [(zstd, "zstd"), (hole, "hole"), (copy, "copy")];
        names.into_iter().filter_map(|(is_supported, name)| is_supported.then_some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_names_each_kind() {
        for bits in 0..8 {
            let kinds =
                ExtentKinds { zstd: bits & 1 != 0, hole: bits & 2 != 0, copy: bits & 4 != 0 };
            let names: Vec<String> =
                kinds.capabilities().chain(["drain"]).map(str::to_owned).collect();
            assert_eq!(ExtentKinds::from_capabilities(&names), kinds);
        }
    }
}
