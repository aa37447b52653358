//! Invite strings, as a person pastes them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use filepull_core::invite::Invite;

/// Parses the input as an invite, and as the payload of one: no fuzzer finds a checksum.
pub fn invite(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        parse(text);
    }
    parse(&framed(data));
}

/// An invite that is valid has one text only.
fn parse(text: &str) {
    match Invite::parse(text) {
        Ok(invite) => {
            let again = Invite::parse(&invite.encode());
            assert_eq!(again.as_ref().map(Invite::encode), Ok(invite.encode()));
        }
        Err(error) => assert!(!error.to_string().is_empty() && !error.next_step().is_empty()),
    }
}

/// Returns the text of an invite with this payload.
fn framed(payload: &[u8]) -> String {
    let len = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut framed = vec![1, 0];
    framed.extend(len.to_be_bytes());
    let checksum = crc32(&framed);
    framed.extend(&checksum.to_be_bytes()[..2]);
    framed.extend(payload);
    framed.extend(crc32(&framed).to_be_bytes());
    format!("fp1.{}", URL_SAFE_NO_PAD.encode(framed))
}

/// The CRC-32 of IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

#[cfg(test)]
mod tests {
    use filepull_core::invite::{Invitee, Secret, ServerAddress};

    use super::*;

    #[test]
    fn a_framed_payload_passes_the_checksum() {
        let address = ServerAddress::parse("pull.example.com").unwrap();
        let invitee = Invitee::Client(filepull_core::id::ClientId::parse("client4").unwrap());
        let invite = Invite::new(vec![address], invitee, Vec::new(), Secret::new([7; 32]), 99);
        let text = invite.unwrap().encode();
        let bytes = URL_SAFE_NO_PAD.decode(&text[4..]).unwrap();
        assert_eq!(framed(&bytes[6..bytes.len() - 4]), text);
    }
}
