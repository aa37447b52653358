//! The outer form of an invite: `fp1.`, and base64url of a header, a payload and a checksum.
//!
//! The header is 6 bytes, thus exactly 8 characters: the version, a zero byte, the length of the payload
//! in two bytes, and 16 bits of its own checksum. So a text that is too short is told from a wrong
//! character, wherever it is. CRC-32 finds every change of up to 32 neighbouring bits, thus of every
//! single character.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{InviteError, MAX_ADDRESSES, MAX_PINS, ServerAddress};

/// Begins the text. The digit is the version, for people.
const PREFIX: &str = "fp1.";

/// The version of the payload, as in the header.
const VERSION: u8 = 1;

/// In bytes, and in characters.
const HEADER_LEN: usize = 6;
const HEADER_CHARS: usize = 8;

/// Follows the payload: CRC-32 of header and payload.
const CHECKSUM_LEN: usize = 4;

/// Longest payload, in bytes: more than the largest invite has.
const MAX_PAYLOAD_LEN: usize =
    MAX_ADDRESSES * (ServerAddress::MAX_HOST_LEN + 3) + MAX_PINS * 32 + 32 + 128;

/// Longest text that is looked at, in bytes, white space included.
const MAX_TEXT_LEN: usize = 8 * 1024;

/// Returns the payload of an invite.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, InviteError> {
    if MAX_TEXT_LEN < text.len() {
        return Err(InviteError::NotAnInvite);
    }
    let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let body = body_of(&compact)?;
    if !body.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Err(InviteError::Mistyped);
    }
    let header_text = body.get(..HEADER_CHARS).ok_or(InviteError::Truncated)?;
    let payload_len = payload_len(&base64(header_text)?)?;
    let framed_len = HEADER_LEN + payload_len + CHECKSUM_LEN;
    let expected_chars = (framed_len * 4).div_ceil(3);
    if body.len() < expected_chars {
        return Err(InviteError::Truncated);
    }
    let framed = base64(body)?;
    let (checked, checksum) = framed.split_at(framed.len() - CHECKSUM_LEN);
    if framed.len() != framed_len || checksum != crc32(checked).to_be_bytes() {
        return Err(InviteError::Mistyped);
    }
    Ok(checked[HEADER_LEN..].to_vec())
}

/// Returns the text of an invite. The payload is at most [`MAX_PAYLOAD_LEN`] long.
pub(crate) fn encode(payload: &[u8]) -> String {
    debug_assert!(payload.len() <= MAX_PAYLOAD_LEN);
    let len = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut framed = vec![VERSION, 0];
    framed.extend(len.to_be_bytes());
    framed.extend(header_checksum(&framed));
    framed.extend(payload);
    framed.extend(crc32(&framed).to_be_bytes());
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(framed))
}

/// Removes the prefix.
fn body_of(text: &str) -> Result<&str, InviteError> {
    if let Some(body) = text.strip_prefix(PREFIX) {
        return Ok(body);
    }
    let cut_in_prefix = !text.is_empty() && PREFIX.starts_with(text);
    let version = text.strip_prefix("fp").and_then(|rest| rest.split_once('.')).map(|(v, _)| v);
    let newer = version.is_some_and(|v| v.parse::<u16>().is_ok_and(|v| u16::from(VERSION) < v));
    Err(match () {
        () if cut_in_prefix => InviteError::Truncated,
        () if newer => InviteError::Newer,
        () => InviteError::NotAnInvite,
    })
}

/// Checks the header, and returns the length of the payload.
fn payload_len(header: &[u8]) -> Result<usize, InviteError> {
    let (fields, checksum) = header.split_at(HEADER_LEN - 2);
    if checksum != header_checksum(fields) {
        return Err(InviteError::Mistyped);
    }
    if fields[0] != VERSION || fields[1] != 0 {
        return Err(InviteError::Newer);
    }
    let len = usize::from(u16::from_be_bytes([fields[2], fields[3]]));
    if len <= MAX_PAYLOAD_LEN { Ok(len) } else { Err(InviteError::Mistyped) }
}

fn base64(text: &str) -> Result<Vec<u8>, InviteError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| InviteError::Mistyped)
}

fn header_checksum(fields: &[u8]) -> [u8; 2] {
    let [first, second, ..] = crc32(fields).to_be_bytes();
    [first, second]
}

/// CRC-32 (ISO 3309), bit by bit: an invite is short, and is read once.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let carry = crc & 1 == 1;
            crc = (crc >> 1) ^ if carry { 0xEDB8_8320 } else { 0 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_standard_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }
}
