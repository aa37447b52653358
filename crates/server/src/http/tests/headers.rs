//! Tests of the headers `Prefer` and `Idempotency-Key`.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures::future::join_all;
use serde_json::Value;

use super::fixture::{HttpFixture, TestResponse};

async fn post(fixture: &HttpFixture, key: &str, body: &'static str) -> TestResponse {
    let request = Request::post("/api/v1/transfers")
        .header("content-type", "application/json")
        .header("idempotency-key", key)
        .body(Body::from(body));
    fixture.send(request.unwrap()).await
}

const QUEUED: &str = r#"{"client": "client4", "queue": "24h", "fresh": true}"#;

#[tokio::test]
async fn a_repeated_request_gets_the_original_transfer() {
    let fixture = HttpFixture::start().await;
    let first = post(&fixture, "k1", QUEUED).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.body);
    let url = first.header("location").to_owned();
    let again = post(&fixture, "\"k1\"", QUEUED).await;
    assert_eq!((again.status, again.header("location")), (StatusCode::OK, &*url));
    fixture.request(axum::http::Method::POST, &format!("{url}/cancel")).await;
    let ended = post(&fixture, "k1", QUEUED).await;
    assert_eq!((ended.status, ended.header("location")), (StatusCode::OK, &*url));
    assert_eq!(ended.json()["state"], "cancelled");
    let other =
        post(&fixture, "k1", r#"{"client": "client4", "queue": "2h", "fresh": true}"#).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", other.body);
    assert_eq!(other.json()["code"], "idempotency-mismatch");
    assert_eq!(fixture.n_transfers().await, 1);
    let new = post(&fixture, "k2", QUEUED).await;
    assert_eq!(new.status, StatusCode::CREATED, "{}", new.body);
    assert_eq!(post(&fixture, "two words", QUEUED).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_key_that_joined_a_transfer_keeps_returning_it() {
    let fixture = HttpFixture::start().await;
    let url = post(&fixture, "k1", QUEUED).await.header("location").to_owned();
    assert_eq!(post(&fixture, "k2", QUEUED).await.header("location"), url);
    fixture.request(axum::http::Method::POST, &format!("{url}/cancel")).await;
    assert_eq!(post(&fixture, "k2", QUEUED).await.header("location"), url);
    assert_eq!(fixture.n_transfers().await, 1);
}

#[tokio::test]
async fn one_of_many_requests_with_the_same_key_creates_a_transfer() {
    let fixture = HttpFixture::start().await;
    let other = r#"{"client": "client4", "queue": "2h"}"#;
    let bodies = [QUEUED, other].into_iter().cycle().take(40);
    let answers = join_all(bodies.map(|body| post(&fixture, "k1", body))).await;
    let count = |status: u16| answers.iter().filter(|a| a.status.as_u16() == status).count();
    assert_eq!((count(201), count(200), count(422)), (1, 19, 20));
    assert_eq!(fixture.n_transfers().await, 1);
}

#[tokio::test]
async fn a_preference_is_applied_and_confirmed_in_the_response() {
    let fixture = HttpFixture::start().await;
    let send = async |method: &str, url: &str, prefer: &str| {
        let request = Request::builder().method(method).uri(url).header("prefer", prefer);
        fixture.send(request.body(Body::empty()).unwrap()).await
    };
    let created = send("POST", "/trigger?id=client4&queue", "respond-async").await;
    assert_eq!(
        (created.status.as_u16(), created.header("preference-applied")),
        (202, "respond-async")
    );
    assert!(created.body.starts_with("Queued:"), "{}", created.body);
    let url = created.header("location").to_owned();
    let waited = send("POST", "/trigger?id=client4&queue", "wait=1").await;
    assert_eq!(waited.header("preference-applied"), "wait=1");
    assert!(waited.body.starts_with("Still waiting after "), "{}", waited.body);
    let shown = send("GET", &url, "wait=0").await;
    assert_eq!(shown.header("preference-applied"), "wait=0");
    assert_eq!(shown.json()["state"], Value::from("waiting"));
    let post = "/api/v1/transfers?client=client4&queue=24h";
    assert_eq!(send("POST", post, "wait=0").await.header("preference-applied"), "wait=0");
    assert_eq!(send("GET", &url, "return=minimal").await.header("preference-applied"), "");
}
