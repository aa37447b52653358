//! The invite string: what an installer pastes into a new agent. It names the server, the client, the
//! authorities to trust, and a secret that the server accepts once.
//!
//! The text itself shows whether it was cut or mistyped (see `frame`), so no server is asked about a
//! damaged one. Whether an undamaged invite is still valid only the server knows.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};

use crate::digest::Digest;
use crate::fingerprint::Fingerprint;
use crate::id::ClientId;

mod address;
mod frame;
mod payload;

pub use address::{AddressError, ServerAddress};

/// Maximum number of server addresses in an invite.
pub const MAX_ADDRESSES: usize = 4;

/// Maximum number of pins in an invite, and in the list of an agent.
pub const MAX_PINS: usize = 8;

/// How long an invite is valid if its creator names no time.
pub const DEFAULT_VALIDITY: TimeDelta = TimeDelta::hours(24);

/// How long an invite may be valid.
pub const MAX_VALIDITY: TimeDelta = TimeDelta::days(30);

/// Why a text is no invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// The text does not begin like an invite.
    #[error("this is not an invite: an invite begins with fp1.")]
    NotAnInvite,
    /// The end is missing.
    #[error("the invite is truncated: its end is missing")]
    Truncated,
    /// A character is wrong or added, or the invite was damaged on its way.
    #[error("the invite is mistyped: at least one of its characters is wrong")]
    Mistyped,
    /// A newer server made it.
    #[error("the invite was made by a newer version of filepull")]
    Newer,
}

impl InviteError {
    /// Returns what the reader does next.
    pub fn next_step(self) -> &'static str {
        match self {
            Self::NotAnInvite => "copy the complete line that `filepull invite` printed",
            Self::Truncated => "copy the invite again, to its end",
            Self::Mistyped => "copy the invite again instead of typing it",
            Self::Newer => "update this agent, or make the invite with the version of the agent",
        }
    }
}

/// The secret of an invite: 32 random bytes. The server stores only [`hash`](Self::hash).
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Creates a secret from random bytes. This crate has no randomness of its own.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// Returns the secret, to send it to the server.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the SHA-256 by which the server finds the invite.
    pub fn hash(&self) -> Digest {
        Digest::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// The name of a group of clients that one invite enrols: 1 to 64 letters, digits, dots, dashes or
/// underscores, as in a client id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupName(String);

impl GroupName {
    /// Parses the name of a group; `None` if it breaks the rule.
    pub fn parse(text: &str) -> Option<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let valid = (1..=ClientId::MAX_LEN).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(allowed);
        valid.then(|| Self(text.to_owned()))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Whom an invite enrols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invitee {
    /// One client, with this id.
    Client(ClientId),
    /// Several clients, each with an id of its own.
    Group(GroupName),
}

/// A decoded invite. Equal invites have equal texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    addresses: Vec<ServerAddress>,
    invitee: Invitee,
    ca_pins: Vec<Fingerprint>,
    secret: Secret,
    expires_unix_s: u64,
}

impl Invite {
    /// Creates an invite. `None` if it has no address, or more than [`MAX_ADDRESSES`] addresses or
    /// [`MAX_PINS`] pins. Without a pin the certificate of the server must be publicly trusted.
    pub fn new(
        addresses: Vec<ServerAddress>,
        invitee: Invitee,
        ca_pins: Vec<Fingerprint>,
        secret: Secret,
        expires_unix_s: u64,
    ) -> Option<Self> {
        let fits = (1..=MAX_ADDRESSES).contains(&addresses.len()) && ca_pins.len() <= MAX_PINS;
        fits.then_some(Self { addresses, invitee, ca_pins, secret, expires_unix_s })
    }

    /// Decodes an invite. White space is ignored, because a mail program or a terminal may wrap the
    /// text.
    ///
    /// # Errors
    /// Tells a truncated invite from a mistyped one. No error quotes the text, which may hold a secret.
    pub fn parse(text: &str) -> Result<Self, InviteError> {
        payload::decode(&frame::decode(text)?)
    }

    /// Returns the invite as text: `fp1.` and base64url (RFC 4648, section 5) without padding.
    pub fn encode(&self) -> String {
        frame::encode(&payload::encode(self))
    }

    /// Returns where the server is: 1 to [`MAX_ADDRESSES`] addresses, to be tried in this order.
    pub fn addresses(&self) -> &[ServerAddress] {
        &self.addresses
    }

    /// Returns whom the invite enrols.
    pub fn invitee(&self) -> &Invitee {
        &self.invitee
    }

    /// Returns the keys of the authorities to trust. Empty: the certificate is publicly trusted.
    pub fn ca_pins(&self) -> &[Fingerprint] {
        &self.ca_pins
    }

    /// Returns the secret.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Returns until when the server accepts a new key. An agent only shows it: its own clock may be
    /// wrong.
    pub fn expires_at(&self) -> DateTime<Utc> {
        let seconds = i64::try_from(self.expires_unix_s).unwrap_or(i64::MAX);
        DateTime::from_timestamp(seconds, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

/// Shows the complete invite, with its secret.
impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.encode())
    }
}

#[cfg(test)]
mod tests;
