//! Tests of sign-in, of the rules for browsers, and of what a caller is told.

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request, StatusCode};
use std::net::SocketAddr;

use super::fixture::{HttpFixture, TestResponse, config};
use super::*;
use crate::config::{AccessConfig, TriggerGet};
use crate::http::request::limits::TriggerLimits;

async fn tokens() -> HttpFixture {
    HttpFixture::with_tokens(&[
        ("look", "viewer", ""),
        ("pull", "operator", ""),
        ("old", "admin", "expires=2020-01-01T00:00:00Z"),
    ])
    .await
}

async fn with_headers(
    fixture: &HttpFixture,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
) -> TestResponse {
    let mut builder = Request::builder().method(method.parse::<Method>().unwrap()).uri(url);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    fixture.send(builder.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_caller_who_is_not_signed_in_is_told_why_and_what_to_do() {
    let fixture = tokens().await;
    let check = async |authorization: &str, first: &str, second: &str| {
        let headers = [("authorization", authorization)];
        let sent = if authorization.is_empty() { &[] } else { headers.as_slice() };
        let response = with_headers(&fixture, "GET", "/clients", sent).await;
        assert_eq!(response.status, StatusCode::UNAUTHORIZED, "{authorization}");
        assert_eq!(response.header("www-authenticate"), "Bearer realm=\"filepull\"");
        assert_eq!(response.body, format!("{first}\n{second}\n"), "{authorization}");
    };
    let new = "An administrator makes a new one: filepull token create NAME --role operator";
    let copy = "Copy the whole token again: it begins with filepull_.";
    check(
        "",
        "Sign in: add -H \"Authorization: Bearer TOKEN\".",
        "An administrator makes a token: filepull token create NAME --role operator",
    )
    .await;
    check(
        "Basic YTpi",
        "The header Authorization is not \"Bearer TOKEN\".",
        "Sign in: add -H \"Authorization: Bearer TOKEN\".",
    )
    .await;
    let form = "This is not a token of filepull: it does not begin with filepull_.";
    check("Bearer secret", form, copy).await;
    let checksum =
        "This is not a token of filepull: its checksum is wrong: it is mistyped or truncated.";
    let token = fixture.token("look");
    check(&format!("Bearer {}", &token[..token.len() - 1]), checksum, copy).await;
    let other = crate::access::Token::generate().unwrap();
    let unknown = "This token is not valid: it was revoked, or another server issued it.";
    check(&format!("Bearer {}", other.secret()), unknown, new).await;
    let expired = "The token old expired at 2020-01-01 00:00 UTC.";
    check(&format!("Bearer {}", fixture.token("old")), expired, new).await;
}

#[tokio::test]
async fn a_role_that_is_too_low_is_named_with_the_one_that_is_needed() {
    let fixture = tokens().await;
    let look = format!("bearer {}", fixture.token("look"));
    let headers = [("authorization", look.as_str())];
    let refused = with_headers(&fixture, "POST", "/trigger/client4?queue", &headers).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let expected = "Your token may look but not pull: its role is viewer.\n\
                    Use a token with the role operator: filepull token create NAME --role operator\n";
    assert_eq!(refused.body, expected);
    assert_eq!(fixture.n_transfers().await, 0);
    let who = with_headers(&fixture, "GET", "/api/v1/whoami", &headers).await.json();
    assert_eq!((&who["name"], &who["role"]), (&"look".into(), &"viewer".into()));
    assert_eq!((&who["sign_in"], &who["clients"]), (&"token".into(), &Value::Null));
    let pull = format!("Bearer {}", fixture.token("pull"));
    let headers = [("authorization", pull.as_str())];
    let pulled =
        with_headers(&fixture, "POST", "/trigger/client4?queue&format=json", &headers).await;
    assert_eq!(pulled.json()["requested_by"], "pull", "{}", pulled.body);
}

#[tokio::test]
async fn failed_sign_ins_are_limited_and_valid_tokens_are_not() {
    let fixture = tokens().await;
    let router = router(fixture.app.clone());
    let send = async |token: &str| {
        let request = Request::get("/clients").header("authorization", format!("Bearer {token}"));
        router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    };
    let mut limited = None;
    for _ in 0..400 {
        let response = send("guess").await;
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            limited = Some(response);
            break;
        }
    }
    let limited = limited.unwrap();
    assert_eq!(limited.headers()["retry-after"], "1");
    assert_eq!(send(&fixture.token("look")).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_user_is_believed_only_from_a_trusted_proxy() {
    let mut fixture = tokens().await;
    let access = AccessConfig {
        auth_header: Some("x-forwarded-user".parse().unwrap()),
        trusted_proxies: "10.0.0.5".parse().unwrap(),
        ..config().access
    };
    let gate = Gate::new(&access, fixture.tokens());
    fixture.parts().gate = gate;
    let send = async |peer: &str, users: &[&str]| {
        let mut builder = Request::get("/api/v1/whoami");
        for user in users {
            builder = builder.header("x-forwarded-user", *user);
        }
        let mut request = builder.body(Body::empty()).unwrap();
        let addr: SocketAddr = format!("{peer}:1").parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(addr));
        fixture.send(request).await
    };
    let alice = send("10.0.0.5", &["alice@example.com"]).await;
    assert_eq!(alice.status, StatusCode::OK, "{}", alice.body);
    assert_eq!(
        (&alice.json()["name"], &alice.json()["sign_in"]),
        (&"alice@example.com".into(), &"proxy".into())
    );
    for (peer, users, reason) in [
        ("10.0.0.6", &["alice@example.com"][..], "Sign in: "),
        ("10.0.0.5", &["mallory"], "The user \"mallory\" may not use this server."),
        (
            "10.0.0.5",
            &["alice@example.com", "root"],
            "The header x-forwarded-user does not name one user.",
        ),
        ("10.0.0.5", &[""], "Sign in: "),
    ] {
        let refused = send(peer, users).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{peer} {users:?}");
        assert!(refused.json()["detail"].as_str().unwrap().starts_with(reason), "{}", refused.body);
    }
}

#[tokio::test]
async fn a_browser_gets_a_page_with_one_button_and_nothing_is_started() {
    let fixture = HttpFixture::start().await;
    let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";
    for sign in [
        ("sec-fetch-site", "none"),
        ("sec-fetch-site", "cross-site"),
        ("sec-purpose", "prefetch"),
        ("purpose", "prefetch"),
        ("user-agent", firefox),
    ] {
        for url in
            ["/trigger?id=client4&queue=2h&path=a%3Cb", "/trigger/client4?queue=2h&path=a%3Cb"]
        {
            let page = with_headers(&fixture, "GET", url, &[sign]).await;
            assert_eq!(page.status, StatusCode::OK, "{sign:?}");
            assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
            assert_eq!(page.header("cache-control"), "no-store");
            assert_eq!(page.header("x-content-type-options"), "nosniff");
            assert!(page.header("content-security-policy").contains("default-src 'none'"));
            assert!(page.body.contains("<h1>Pull a&lt;b from client4?</h1>"), "{}", page.body);
            for field in ["name=\"id\" value=\"client4\"", "name=\"queue\" value=\"2h\""] {
                assert!(page.body.contains(field), "{}", page.body);
            }
        }
    }
    let unknown =
        with_headers(&fixture, "GET", "/trigger?id=unknown", &[("sec-fetch-site", "none")]);
    assert_eq!(unknown.await.status, StatusCode::NOT_FOUND);
    assert_eq!(fixture.n_transfers().await, 0);
    let powershell = "Mozilla/5.0 (Windows NT; Windows NT 10.0; de-DE) WindowsPowerShell/5.1.19041";
    let agent = [("user-agent", powershell)];
    let started = with_headers(&fixture, "GET", "/trigger?id=client4&queue", &agent).await;
    assert_eq!(started.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn another_web_site_can_change_nothing() {
    let fixture = HttpFixture::start().await;
    let posts = ["/trigger?id=client4&queue", "/api/v1/transfers?client=client4&queue=1h"];
    let host = ("host", "localhost:8080");
    for url in posts {
        for sign in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "https://evil.example"),
            ("origin", "null"),
        ] {
            let refused = with_headers(&fixture, "POST", url, &[host, sign]).await;
            assert_eq!(refused.status, StatusCode::FORBIDDEN, "{url} {sign:?}");
            assert!(
                refused.body.contains("This request came from another web site."),
                "{}",
                refused.body
            );
        }
    }
    assert_eq!(fixture.n_transfers().await, 0);
    let own = [host, ("sec-fetch-site", "same-origin"), ("origin", "http://localhost:8080")];
    let started = with_headers(&fixture, "POST", posts[0], &own).await;
    assert_eq!(started.status, StatusCode::ACCEPTED, "{}", started.body);
}

#[tokio::test]
async fn without_a_sign_in_the_host_must_be_one_of_this_server() {
    let mut fixture = HttpFixture::start().await;
    let get = async |fixture: &HttpFixture, host: &str| {
        with_headers(fixture, "GET", "/clients", &[("host", host)]).await
    };
    let refused = get(&fixture, "pull.example.com:8080").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let expected = "This server does not answer to \"pull.example.com:8080\".\n\
                    Add it: ALLOWED_HOSTS=pull.example.com\n";
    assert_eq!(refused.body, expected);
    for host in ["localhost:8080", "127.0.0.1", "[::1]:80", "server:8080"] {
        assert_eq!(get(&fixture, host).await.status, StatusCode::OK, "{host}");
    }
    let allowed_hosts = "pull.example.com".parse().unwrap();
    fixture.parts().gate = Gate::new(&AccessConfig { allowed_hosts, ..config().access }, None);
    assert_eq!(get(&fixture, "pull.example.com:8080").await.status, StatusCode::OK);
    // With tokens a rebound page has nothing to send.
    let tokens = tokens().await;
    assert_eq!(get(&tokens, "evil.example").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn trigger_get_can_be_switched_off() {
    let mut fixture = HttpFixture::start().await;
    fixture.parts().trigger_get = TriggerGet::Off;
    for headers in [&[][..], &[("sec-fetch-site", "none")]] {
        for url in ["/trigger?id=client4&queue", "/trigger/client4?queue"] {
            let refused = with_headers(&fixture, "GET", url, headers).await;
            assert_eq!(refused.status, StatusCode::METHOD_NOT_ALLOWED, "{url}");
            assert_eq!(refused.header("allow"), "POST");
        }
    }
    assert_eq!(fixture.n_transfers().await, 0);
    let posted = with_headers(&fixture, "POST", "/trigger/client4?queue", &[]).await;
    assert_eq!(posted.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn every_url_that_pulls_counts_against_the_limits_of_caller_and_client() {
    let posts = [
        "/trigger?id=client4&queue",
        "/trigger/client4?queue",
        "/api/v1/transfers?client=client4&queue=1h",
    ];
    for url in posts {
        let mut fixture = tokens().await;
        fixture.know_client("client5").await;
        let gate = fixture.app.gate.clone().with_limits(TriggerLimits::few());
        fixture.parts().gate = gate;
        let token = format!("Bearer {}", fixture.token("pull"));
        let headers = [("authorization", token.as_str())];
        let send = async |url: &str| with_headers(&fixture, "POST", url, &headers).await;
        for _ in 0..2 {
            let pulled = send(url).await;
            assert!(pulled.status.is_success(), "{url}: {}", pulled.body);
        }
        let limited = send(url).await;
        assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS, "{url}: {}", limited.body);
        assert!(limited.body.contains("client4 is triggered too often."), "{}", limited.body);
        assert!(limited.header("retry-after").parse::<u32>().unwrap() <= 3600);
        let limited = send(&url.replace("client4", "client5")).await;
        assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS, "{url}: {}", limited.body);
        assert!(limited.body.contains("pull triggers too often."), "{}", limited.body);
    }
}

#[tokio::test]
async fn a_server_that_does_not_ask_who_calls_has_no_limit() {
    let fixture = HttpFixture::start().await;
    assert!(fixture.app.gate.trigger_limits().is_none());
}
