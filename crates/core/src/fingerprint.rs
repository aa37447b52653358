//! The fingerprint of a public key: the identity of a client, and the pin of a certificate authority.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::digest::Digest;

/// SHA-256 of a public key, as the DER of its SubjectPublicKeyInfo (RFC 5280). Shown as `SHA256:` and 64
/// hexadecimal digits, as `openssl pkey -pubin -outform DER | sha256sum` prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(Digest);

/// Precedes the digits.
const PREFIX: &str = "SHA256:";

impl Fingerprint {
    /// Returns the fingerprint of a SubjectPublicKeyInfo in DER.
    pub fn of_public_key(spki_der: &[u8]) -> Self {
        Self(Digest::of(spki_der))
    }

    /// Parses 64 hexadecimal digits, with or without `SHA256:`.
    pub fn parse(text: &str) -> Option<Self> {
        Digest::parse(text.strip_prefix(PREFIX).unwrap_or(text)).map(Self)
    }

    /// Returns the digest.
    pub fn digest(&self) -> Digest {
        self.0
    }
}

impl From<Digest> for Fingerprint {
    fn from(digest: Digest) -> Self {
        Self(digest)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| de::Error::custom("a fingerprint has 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_parsed_as_it_is_shown() {
        let fingerprint = Fingerprint::of_public_key(b"abc");
        let shown = fingerprint.to_string();
        assert!(shown.starts_with("SHA256:ba7816bf"), "{shown}");
        assert_eq!(Fingerprint::parse(&shown), Some(fingerprint));
        assert_eq!(Fingerprint::parse(&shown["SHA256:".len()..]), Some(fingerprint));
        assert_eq!(Fingerprint::parse("SHA256:12"), None);
    }
}
