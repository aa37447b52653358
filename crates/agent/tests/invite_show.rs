//! `filepull-agent invite show`, and the settings of an invite: the program itself.

#![allow(clippy::unwrap_used, reason = "the functions of a test fail it")]

use std::process::{Command, Output};

use filepull_core::fingerprint::Fingerprint;
use filepull_core::id::ClientId;
use filepull_core::invite::{GroupName, Invite, Invitee, Secret, ServerAddress};

fn run(args: &[&str], invite: Option<&str>) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_filepull-agent"));
    program.args(args).env_clear();
    if let Some(invite) = invite {
        program.env("INVITE", invite);
    }
    program.output().unwrap()
}

fn invite(invitee: Invitee) -> Invite {
    let texts = ["pull.example.com", "192.0.2.1:7"];
    let addresses = texts.map(|text| ServerAddress::parse(text).unwrap()).to_vec();
    let pins = vec![Fingerprint::of_public_key(b"key")];
    Invite::new(addresses, invitee, pins, Secret::new(*b"SECRET-0123456789-SECRET-6789012"), 0)
        .unwrap()
}

#[test]
fn an_invite_is_shown_without_its_secret() {
    let client = invite(Invitee::Client(ClientId::parse("client4").unwrap()));
    let text = client.encode();
    // As an argument, or as the setting that is in the agent's environment anyway.
    for shown in [run(&["invite", "show", &text], None), run(&["invite", "show"], Some(&text))] {
        assert!(shown.status.success(), "{shown:?}");
        let shown = String::from_utf8(shown.stdout).unwrap();
        for part in ["client4", "pull.example.com:50051, 192.0.2.1:7", "1970-01-01T00:00:00Z"] {
            assert!(shown.contains(part), "{part} is not in {shown}");
        }
        assert!(shown.contains(&client.ca_pins()[0].to_string()), "{shown}");
        assert!(!shown.contains("SECRET-0123") && !shown.contains(&text[4..30]), "{shown}");
    }
    let group = invite(Invitee::Group(GroupName::parse("tills").unwrap())).encode();
    let shown = run(&["invite", "show", &group], None);
    assert!(String::from_utf8(shown.stdout).unwrap().contains("group    tills"));
}

#[test]
fn a_damaged_invite_is_explained_and_not_repeated() {
    let text = invite(Invitee::Client(ClientId::parse("client4").unwrap())).encode();
    let truncated = &text[..text.len() - 9];
    let wrong = if text.as_bytes()[20] == b'A' { "B" } else { "A" };
    let mistyped = format!("{}{wrong}{}", &text[..20], &text[21..]);
    for (damaged, part) in [
        (truncated, "its end is missing; copy the invite again, to its end"),
        (mistyped.as_str(), "one of its characters is wrong; copy the invite again"),
        ("hello", "an invite begins with fp1."),
    ] {
        let shown = run(&["invite", "show", damaged], None);
        assert_eq!(shown.status.code(), Some(2), "{shown:?}");
        let text = String::from_utf8(shown.stderr).unwrap();
        assert!(text.contains(part) && !text.contains(damaged), "{text}");
        // The agent itself says the same, and names the setting.
        let started = run(&["run"], Some(damaged));
        assert_eq!(started.status.code(), Some(2), "{started:?}");
        let log = String::from_utf8([started.stdout, started.stderr].concat()).unwrap();
        assert!(log.contains("INVITE: ") && log.contains(part), "{log}");
    }
}

#[test]
fn an_id_that_is_not_the_one_of_the_invite_is_rejected() {
    let text = invite(Invitee::Client(ClientId::parse("client4").unwrap())).encode();
    let started = run(&["run", "--client-id=client5"], Some(&text));
    assert_eq!(started.status.code(), Some(2), "{started:?}");
    let log = String::from_utf8([started.stdout, started.stderr].concat()).unwrap();
    assert!(log.contains("CLIENT_ID is client5, but INVITE is for client4"), "{log}");
}
