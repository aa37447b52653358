//! Requests that say in headers what they mean.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures::future::join_all;
use serde_json::Value;

use super::fixture::{HttpFixture, TestResponse};

async fn post(bed: &HttpFixture, key: &str, body: &'static str) -> TestResponse {
    let request = Request::post("/api/v1/transfers").header("content-type", "application/json");
    let request = request.header("idempotency-key", key).body(Body::from(body)).unwrap();
    bed.send(request).await
}

const QUEUED: &str = r#"{"client": "client4", "queue": "24h", "fresh": true}"#;

#[tokio::test]
async fn a_request_that_comes_again_under_its_key_gets_the_same_transfer() {
    let bed = HttpFixture::start().await;
    let first = post(&bed, "k1", QUEUED).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.body);
    let url = first.header("location").to_owned();
    let again = post(&bed, "\"k1\"", QUEUED).await;
    assert_eq!((again.status, again.header("location")), (StatusCode::OK, &*url));
    bed.ask(axum::http::Method::POST, &format!("{url}/cancel")).await;
    let ended = post(&bed, "k1", QUEUED).await;
    assert_eq!((ended.status, ended.header("location")), (StatusCode::OK, &*url));
    assert_eq!(ended.json()["state"], "cancelled");
    let other = post(&bed, "k1", r#"{"client": "client4", "queue": "2h", "fresh": true}"#).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", other.body);
    assert_eq!(other.json()["code"], "idempotency-mismatch");
    assert_eq!(bed.n_transfers().await, 1);
    let new = post(&bed, "k2", QUEUED).await;
    assert_eq!(new.status, StatusCode::CREATED, "{}", new.body);
    assert_eq!(post(&bed, "two words", QUEUED).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_key_that_found_a_transfer_under_way_goes_on_to_lead_to_it() {
    let bed = HttpFixture::start().await;
    let url = post(&bed, "k1", QUEUED).await.header("location").to_owned();
    assert_eq!(post(&bed, "k2", QUEUED).await.header("location"), url);
    bed.ask(axum::http::Method::POST, &format!("{url}/cancel")).await;
    assert_eq!(post(&bed, "k2", QUEUED).await.header("location"), url);
    assert_eq!(bed.n_transfers().await, 1);
}

#[tokio::test]
async fn of_many_requests_with_one_key_one_is_served() {
    let bed = HttpFixture::start().await;
    let other = r#"{"client": "client4", "queue": "2h"}"#;
    let bodies = [QUEUED, other].into_iter().cycle().take(40);
    let answers = join_all(bodies.map(|body| post(&bed, "k1", body))).await;
    let count = |status: u16| answers.iter().filter(|a| a.status.as_u16() == status).count();
    assert_eq!((count(201), count(200), count(422)), (1, 19, 20));
    assert_eq!(bed.n_transfers().await, 1);
}

#[tokio::test]
async fn a_preference_is_followed_and_said() {
    let bed = HttpFixture::start().await;
    let ask = async |method: &str, url: &str, prefer: &str| {
        let request = Request::builder().method(method).uri(url).header("prefer", prefer);
        bed.send(request.body(Body::empty()).unwrap()).await
    };
    let made = ask("POST", "/trigger?id=client4&queue", "respond-async").await;
    assert_eq!((made.status.as_u16(), made.header("preference-applied")), (202, "respond-async"));
    assert!(made.body.starts_with("Queued:"), "{}", made.body);
    let url = made.header("location").to_owned();
    let waited = ask("POST", "/trigger?id=client4&queue", "wait=1").await;
    assert_eq!(waited.header("preference-applied"), "wait=1");
    assert!(waited.body.starts_with("Still waiting after "), "{}", waited.body);
    let shown = ask("GET", &url, "wait=0").await;
    assert_eq!(shown.header("preference-applied"), "wait=0");
    assert_eq!(shown.json()["state"], Value::from("waiting"));
    let post = "/api/v1/transfers?client=client4&queue=24h";
    assert_eq!(ask("POST", post, "wait=0").await.header("preference-applied"), "wait=0");
    assert_eq!(ask("GET", &url, "return=minimal").await.header("preference-applied"), "");
}
