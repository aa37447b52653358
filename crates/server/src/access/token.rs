//! The secret of a token: a fixed prefix, 190 random bits and a checksum.
//!
//! Secret scanners find the prefix. The checksum needs no knowledge of any token, so a mistyped
//! token can be named as such without revealing whether it was nearly right.

use std::fmt;

use filepull_core::digest::Digest;
use rustls::crypto::{GetRandomFailed, SecureRandom};

/// The start of every token.
pub(crate) const PREFIX: &str = "filepull_";

/// Number of random characters. Each has 5.95 bits.
const RANDOM_LEN: usize = 32;

/// Number of characters of the checksum: 32 bits.
const CHECKSUM_LEN: usize = 6;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The secret of a token. It is shown once, when it is created, and only its digest is stored.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

/// Why a text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// The text does not look like a token.
    #[error("it does not begin with {PREFIX}")]
    Form,
    /// A character is missing, added or changed.
    #[error("its checksum is wrong: it is mistyped or truncated")]
    Checksum,
}

impl Token {
    /// Generates a token.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn generate() -> Result<Self, GetRandomFailed> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let random = random_text(provider.secure_random)?;
        let checksum = checksum(&random);
        Ok(Self(format!("{PREFIX}{random}{checksum}")))
    }

    /// Parses a token that a caller sent. Checks only its form.
    pub(crate) fn parse(text: &str) -> Result<Self, TokenError> {
        let rest = text.strip_prefix(PREFIX).ok_or(TokenError::Form)?;
        let is_valid = rest.len() == RANDOM_LEN + CHECKSUM_LEN
            && rest.bytes().all(|byte| ALPHABET.contains(&byte))
            && checksum(&rest[..RANDOM_LEN]) == rest[RANDOM_LEN..];
        if is_valid { Ok(Self(text.to_owned())) } else { Err(TokenError::Checksum) }
    }

    /// Returns what the file of tokens holds. A digest without a salt is enough: 190 random
    /// bits cannot be tried.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }

    /// Returns the secret, to show it to the person who creates it.
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

fn random_text(random: &dyn SecureRandom) -> Result<String, GetRandomFailed> {
    /// Bytes from here on would make some characters more likely.
    const END: u8 = 62 * 4;
    let mut text = String::with_capacity(RANDOM_LEN);
    while text.len() < RANDOM_LEN {
        let mut bytes = [0; RANDOM_LEN];
        random.fill(&mut bytes)?;
        let usable = bytes.into_iter().filter(|&byte| byte < END);
        text.extend(usable.take(RANDOM_LEN - text.len()).map(|byte| letter(byte.into())));
    }
    Ok(text)
}

fn checksum(random: &str) -> String {
    let digest = Digest::of(random.as_bytes());
    let [a, b, c, d, ..] = *digest.as_bytes();
    let mut rest = u32::from_be_bytes([a, b, c, d]);
    let letters = (0..CHECKSUM_LEN).map(|_| {
        let next = letter(rest as usize % ALPHABET.len());
        rest /= 62;
        next
    });
    letters.collect()
}

fn letter(number: usize) -> char {
    char::from(ALPHABET[number % ALPHABET.len()])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_token_is_new_and_is_parsed() {
        let tokens: HashSet<String> =
            (0..100).map(|_| Token::generate().unwrap().secret().to_owned()).collect();
        assert_eq!(tokens.len(), 100);
        for token in &tokens {
            assert_eq!(token.len(), PREFIX.len() + RANDOM_LEN + CHECKSUM_LEN);
            assert_eq!(Token::parse(token).unwrap().secret(), token);
        }
    }

    #[test]
    fn a_mistyped_or_truncated_token_is_recognised() {
        let token = Token::generate().unwrap().secret().to_owned();
        for end in PREFIX.len()..token.len() {
            assert_eq!(Token::parse(&token[..end]), Err(TokenError::Checksum));
        }
        for at in PREFIX.len()..token.len() {
            let other = if token.as_bytes()[at] == b'x' { "y" } else { "x" };
            let mistyped = format!("{}{other}{}", &token[..at], &token[at + 1..]);
            assert_eq!(Token::parse(&mistyped), Err(TokenError::Checksum), "{at}");
        }
        assert_eq!(Token::parse(&format!("{token}x")), Err(TokenError::Checksum));
        assert_eq!(Token::parse(&format!("{PREFIX}é")), Err(TokenError::Checksum));
        assert_eq!(Token::parse("secret"), Err(TokenError::Form));
    }

    #[test]
    fn a_token_is_not_shown_by_debug() {
        let token = Token::generate().unwrap();
        assert_eq!(format!("{token:?}"), "Token(***)");
    }
}
