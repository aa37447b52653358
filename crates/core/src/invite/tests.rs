//! Invites: round trips, damage, hostile texts.

use proptest::prelude::*;

use super::*;

/// The characters that an invite consists of.
const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn invitees() -> impl Strategy<Value = Invitee> {
    let client =
        "[a-z][a-z0-9_-]{0,63}".prop_map(|id| Invitee::Client(ClientId::parse(&id).unwrap()));
    let group =
        "[A-Z][a-z0-9_.-]{0,63}".prop_map(|g| Invitee::Group(GroupName::parse(&g).unwrap()));
    prop_oneof![client, group]
}

fn addresses() -> impl Strategy<Value = ServerAddress> {
    let hosts = prop_oneof![
        "[a-z0-9]{1,20}(\\.[a-z]{1,8}){0,3}".boxed(),
        any::<std::net::IpAddr>().prop_map(|ip| ip.to_string()).boxed(),
    ];
    (hosts, 1..=u16::MAX).prop_map(|(host, port)| ServerAddress::new(&host, port).unwrap())
}

fn invites() -> impl Strategy<Value = Invite> {
    let pins = prop::collection::vec(any::<[u8; 40]>(), 0..=MAX_PINS).prop_map(|keys| {
        keys.iter().map(|key| Fingerprint::of_public_key(key)).collect::<Vec<_>>()
    });
    let addresses = prop::collection::vec(addresses(), 1..=MAX_ADDRESSES);
    (addresses, invitees(), pins, any::<[u8; 32]>(), any::<u64>()).prop_map(
        |(addresses, invitee, pins, random, expires)| {
            Invite::new(addresses, invitee, pins, Secret::new(random), expires).unwrap()
        },
    )
}

fn invite() -> Invite {
    let addresses = vec![ServerAddress::parse("pull.example.com").unwrap()];
    let invitee = Invitee::Client(ClientId::parse("client4").unwrap());
    let pins = vec![Fingerprint::of_public_key(b"ca")];
    Invite::new(addresses, invitee, pins, Secret::new([7; 32]), 1_800_000_000).unwrap()
}

proptest! {
    #[test]
    fn an_invite_is_decoded_as_it_was_encoded(invite in invites()) {
        let text = invite.encode();
        prop_assert!(text.is_ascii() && !text.contains(char::is_whitespace));
        prop_assert_eq!(Invite::parse(&text), Ok(invite));
    }

    #[test]
    fn two_swapped_characters_are_found(invite in invites(), at in any::<prop::sample::Index>()) {
        let mut swapped = invite.encode().into_bytes();
        let at = "fp1.".len() + at.index(swapped.len() - "fp1.".len() - 1);
        prop_assume!(swapped[at] != swapped[at + 1]);
        swapped.swap(at, at + 1);
        let swapped = String::from_utf8(swapped).unwrap();
        prop_assert_eq!(Invite::parse(&swapped), Err(InviteError::Mistyped));
    }

    #[test]
    fn every_truncation_is_called_truncated(invite in invites(), at in any::<prop::sample::Index>()) {
        let text = invite.encode();
        let cut = &text[..1 + at.index(text.len() - 1)];
        prop_assert_eq!(Invite::parse(cut), Err(InviteError::Truncated));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>(), body in "[A-Za-z0-9_-]{0,400}") {
        let _ = Invite::parse(&text);
        for hostile in [format!("fp1.{body}"), format!("fp1.{text}")] {
            prop_assert!(Invite::parse(&hostile).is_err());
        }
    }

    #[test]
    fn no_payload_with_a_right_checksum_makes_the_parser_panic(
        payload in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        if let Ok(invite) = Invite::parse(&frame::encode(&payload)) {
            prop_assert_eq!(payload::encode(&invite), payload);
        }
    }

    #[test]
    fn a_cut_payload_with_a_right_checksum_is_rejected(
        invite in invites(),
        at in any::<prop::sample::Index>(),
    ) {
        let payload = payload::encode(&invite);
        let cut = &payload[..at.index(payload.len())];
        prop_assert_eq!(Invite::parse(&frame::encode(cut)), Err(InviteError::Mistyped));
    }
}

#[test]
fn every_change_of_one_character_is_found() {
    let text = invite().encode();
    for at in "fp1.".len()..text.len() {
        for replacement in ALPHABET.chars().filter(|c| !text[at..].starts_with(*c)) {
            let changed = format!("{}{replacement}{}", &text[..at], &text[at + 1..]);
            assert_eq!(Invite::parse(&changed), Err(InviteError::Mistyped), "{changed}");
        }
    }
}

#[test]
fn white_space_in_an_invite_is_ignored() {
    let text = invite().encode();
    let wrapped = format!(" {}\r\n  {}\n", &text[..70], &text[70..]);
    assert_eq!(Invite::parse(&wrapped), Ok(invite()));
}

#[test]
fn a_text_that_is_no_invite_is_told_from_a_damaged_one() {
    let check = |text: &str, error| assert_eq!(Invite::parse(text), Err(error), "{text:?}");
    check("", InviteError::NotAnInvite);
    check("client4", InviteError::NotAnInvite);
    check("fp.AAAA", InviteError::NotAnInvite);
    check("fp0.AAAA", InviteError::NotAnInvite);
    check(&"fp1.".repeat(4096), InviteError::NotAnInvite);
    check("fp", InviteError::Truncated);
    check("fp1.", InviteError::Truncated);
    check("fp2.AAAA", InviteError::Newer);
    check(&format!("{}A", invite().encode()), InviteError::Mistyped);
    check(&format!("{}é", invite().encode()), InviteError::Mistyped);
    check(&format!("{}=", invite().encode()), InviteError::Mistyped);
}

#[test]
fn an_invite_has_bounds() {
    let build = |addresses: usize, pins: usize| {
        let addresses = vec![ServerAddress::parse("a").unwrap(); addresses];
        let pins = vec![Fingerprint::of_public_key(b"ca"); pins];
        Invite::new(addresses, invite().invitee, pins, Secret::new([0; 32]), 0)
    };
    assert!(build(1, 0).is_some() && build(MAX_ADDRESSES, MAX_PINS).is_some());
    assert!(build(0, 0).is_none() && build(MAX_ADDRESSES + 1, 0).is_none());
    assert!(build(1, MAX_PINS + 1).is_none());
}

#[test]
fn the_longest_invite_is_decoded() {
    let name = "a".repeat(61);
    let host = [name.as_str(); 4].join(".");
    let addresses = vec![ServerAddress::new(&host, u16::MAX).unwrap(); MAX_ADDRESSES];
    let invitee = Invitee::Client(ClientId::parse(&"c".repeat(64)).unwrap());
    let pins = vec![Fingerprint::of_public_key(b"ca"); MAX_PINS];
    let longest = Invite::new(addresses, invitee, pins, Secret::new([255; 32]), u64::MAX).unwrap();
    assert_eq!(Invite::parse(&longest.encode()), Ok(longest));
}

#[test]
fn a_secret_never_shows_in_a_debug_text() {
    let shown = format!("{:?}", invite());
    assert!(shown.contains("Secret(***)") && !shown.contains("7, 7"), "{shown}");
}
