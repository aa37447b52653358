//! The content of an invite, as bytes. A list or a text begins with its length in one byte; numbers are
//! big-endian.

use super::{
    GroupName, Invite, InviteError, Invitee, MAX_ADDRESSES, MAX_PINS, Secret, ServerAddress,
};
use crate::digest::Digest;
use crate::fingerprint::Fingerprint;
use crate::id::ClientId;

const CLIENT: u8 = 1;
const GROUP: u8 = 2;

/// Encodes an invite: expiry, secret, invitee, pins, addresses.
pub(crate) fn encode(invite: &Invite) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(invite.expires_unix_s.to_be_bytes());
    bytes.extend(invite.secret.as_bytes());
    let (kind, name) = match &invite.invitee {
        Invitee::Client(client_id) => (CLIENT, client_id.as_str()),
        Invitee::Group(group) => (GROUP, group.as_str()),
    };
    bytes.push(kind);
    push_text(&mut bytes, name);
    push_len(&mut bytes, invite.ca_pins.len());
    for pin in &invite.ca_pins {
        bytes.extend(pin.digest().as_bytes());
    }
    push_len(&mut bytes, invite.addresses.len());
    for address in &invite.addresses {
        push_text(&mut bytes, address.host());
        bytes.extend(address.port().to_be_bytes());
    }
    bytes
}

/// Decodes an invite whose checksum is right. What does not fit comes from a newer server, or from
/// a person who computed the checksum.
pub(crate) fn decode(bytes: &[u8]) -> Result<Invite, InviteError> {
    let mut rest = Rest(bytes);
    let invite = rest.invite().ok_or(InviteError::Mistyped)?;
    if rest.0.is_empty() { Ok(invite) } else { Err(InviteError::Newer) }
}

/// The texts of an invite are bounded by their types to less than 256 bytes, the lists to 8 items.
fn push_len(bytes: &mut Vec<u8>, len: usize) {
    bytes.push(u8::try_from(len).unwrap_or(u8::MAX));
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    push_len(bytes, text.len());
    bytes.extend(text.as_bytes());
}

/// The bytes that are not decoded yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn invite(&mut self) -> Option<Invite> {
        let expires_unix_s = u64::from_be_bytes(self.array()?);
        let secret = Secret::new(self.array()?);
        let invitee = self.invitee()?;
        let ca_pins = self.list(MAX_PINS, Self::pin)?;
        let addresses = self.list(MAX_ADDRESSES, Self::address)?;
        Invite::new(addresses, invitee, ca_pins, secret, expires_unix_s)
    }

    fn invitee(&mut self) -> Option<Invitee> {
        let [kind] = self.array()?;
        let name = self.text()?;
        match kind {
            CLIENT => ClientId::parse(name).ok().map(Invitee::Client),
            GROUP => GroupName::parse(name).map(Invitee::Group),
            _ => None,
        }
    }

    fn pin(&mut self) -> Option<Fingerprint> {
        let digest: [u8; 32] = self.array()?;
        Digest::try_from(digest.as_slice()).ok().map(Fingerprint::from)
    }

    fn address(&mut self) -> Option<ServerAddress> {
        let host = self.text()?;
        let port = u16::from_be_bytes(self.array()?);
        ServerAddress::new(host, port)
    }

    fn list<T>(&mut self, max: usize, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let [len] = self.array()?;
        let len = usize::from(len);
        if max < len {
            return None;
        }
        (0..len).map(|_| item(self)).collect()
    }

    fn text(&mut self) -> Option<&'a str> {
        let [len] = self.array()?;
        let (text, rest) = self.0.split_at_checked(len.into())?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }
}
