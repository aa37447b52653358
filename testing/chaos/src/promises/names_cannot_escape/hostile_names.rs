//! Ids that try to leave the folder, break a line, or look like another id.

use fastrand::Rng;

const FIXED: [&str; 32] = [
    "../x",
    "..",
    ".",
    "",
    "%2e%2e%2f",
    "%00",
    "\0",
    "a/b",
    "a\\b",
    "/etc/passwd",
    "a\r\nX-Evil: 1",
    "a\n",
    "\u{1b}[31m",
    "\u{202e}4tneilc",
    "caf\u{e9}",
    "cafe\u{301}",
    "Client4",
    "CLIENT4",
    "-rf",
    "x.tmp",
    ".filepull",
    "lost+found",
    "client4 ",
    "client4.",
    "con",
    "nul.txt",
    "a:b",
    "a*",
    "$(id)",
    "`id`",
    "\u{ff0e}\u{ff0e}\u{ff0f}x",
    "\u{feff}client4",
];
/// Parts that a generated name combines.
const PARTS: [&str; 16] = [
    "..", "/", "\\", ".", "%2e", "%2f", "\0", "\n", "\r", "\u{1b}", "a", "client4", "\u{202e}",
    "\u{e9}", "-", "~",
];
const MAX_PARTS: usize = 12;
/// As long as an encoded name in a URL can be: three times this, 60 KB. Longer than a message may be.
const LONG: usize = 20_000;
/// One name in this many is very long.
const LONG_EVERY: u32 = 500;

/// Returns a fixed name first, then generated ones.
pub(super) fn hostile_name(rng: &mut Rng, n: u32) -> String {
    if let Some(fixed) = FIXED.get(n as usize) {
        return (*fixed).to_owned();
    }
    if n.is_multiple_of(LONG_EVERY) {
        return "a".repeat(LONG);
    }
    let parts = (0..rng.usize(1..=MAX_PARTS)).map(|_| PARTS[rng.usize(0..PARTS.len())]);
    parts.collect()
}
