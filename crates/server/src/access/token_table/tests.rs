use super::*;

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

#[test]
fn every_field_of_a_line_is_read() {
    let digest = digest("a");
    let text = format!(
        "# tokens\r\n\n  token ci operator clients=region=south clients=kind=till \
         expires=2027-01-31T00:00:00Z created=2026-01-31T00:00:00Z sha256={digest}\r\n\
         user alice@example.com admin\n"
    );
    let found = lines(&text).unwrap();
    let labels = BTreeMap::from(
        [("kind", "till"), ("region", "south")]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    let expected = Grant {
        name: "ci".into(),
        role: Role::Operator,
        scope: Scope::of(labels),
        expires_at: Some("2027-01-31T00:00:00Z".parse().unwrap()),
    };
    assert_eq!(found[0].grant, expected);
    assert_eq!(found[1].holder, GrantHolder::User);
    let table = TokenTable::parse(&text).unwrap();
    assert_eq!(table.token(&digest), Some(&expected));
    let alice = table.user("alice@example.com").unwrap();
    assert_eq!((alice.role, &alice.scope), (Role::Admin, &Scope::Everything));
    assert_eq!((table.user("ci"), table.user("alice")), (None, None));
}

#[test]
fn a_new_line_is_read_as_it_was_written() {
    let scope = Scope::of(BTreeMap::from([("region".to_owned(), "a = 5 % ü".to_owned())]));
    let expires_at = Some("2027-01-31T00:00:00Z".parse().unwrap());
    let grant = Grant { name: "ci".into(), role: Role::Viewer, scope, expires_at };
    let line = token_line(&grant, digest("a"), "2026-01-31T00:00:00Z".parse().unwrap());
    assert_eq!(lines(&line).unwrap()[0].grant, grant);
    assert_eq!(name_on(&line).as_deref(), Some("ci"));
}

#[test]
fn a_wrong_line_is_named_with_the_reason() {
    let valid = format!("token a viewer sha256={}", digest("a"));
    let check = |line: &str, reason: &str| {
        let error = lines(&format!("{valid}\n{line}\n")).unwrap_err();
        assert_eq!((error.number, &*error.reason), (2, reason), "{line}");
    };
    let sha256 = format!("sha256={}", digest("b"));
    check("tokn b viewer", "it must begin with token, user or #");
    check("token b", "the role is missing");
    check("token b boss", "the role must be viewer, operator or admin");
    check("token b viewer", "the field sha256 is missing");
    check("token b viewer sha256=12", "sha256 must be 64 hexadecimal digits");
    check(&format!("token a viewer {sha256}"), "the name a is used twice");
    check("user a viewer", "the name a is used twice");
    check(&valid.replace(" a ", " b "), "another line has the same token");
    check(&format!("token 10.0.0.1 viewer {sha256}"), "the name 10.0.0.1 is reserved");
    check(&format!("user b viewer {sha256}"), "a user has no sha256");
    check(
        &format!("token b viewer {sha256} expires=soon"),
        "expires must be a time such as 2027-01-31T00:00:00Z",
    );
    check(&format!("token b viewer {sha256} scope=x"), "there is no field \"scope\"");
    check(
        &format!("token b viewer {sha256} clients=south"),
        "\"south\" is not a label: write NAME=VALUE, such as region=south",
    );
    check(&format!("token b viewer {sha256} {sha256}"), "the field sha256 is repeated");
}

#[test]
fn a_token_in_the_file_is_not_repeated_in_the_message() {
    let secret = super::super::token::Token::generate().unwrap().secret().to_owned();
    for line in [
        format!("token a viewer {secret}"),
        format!("token a viewer sha256={secret}"),
        format!("token {secret} viewer"),
        secret.clone(),
        format!("user {secret} viewer"),
        format!("token a {secret}"),
    ] {
        let error = lines(&line).unwrap_err().to_string();
        assert!(!error.contains(&secret), "{error}");
    }
}
