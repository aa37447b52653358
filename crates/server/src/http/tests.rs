//! Tests of all URLs through the router, without a network and without agents.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use chrono::Utc;
use filepull_core::id::TransferId;
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::{LastProgress, Transfer};
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;
use fixture::{HttpFixture, client4};

mod files;
mod fixture;
mod headers;
mod scope;
mod sign_in;

#[tokio::test]
async fn a_rejected_trigger_gives_the_reason_and_the_next_step() {
    let fixture = HttpFixture::start().await;
    let check = async |url: &str, status: u16, lines: [&str; 2]| {
        let response = fixture.get(url).await;
        assert_eq!(response.body.lines().collect::<Vec<_>>(), lines, "{url}");
        assert_eq!(response.status.as_u16(), status, "{url}");
        assert_eq!(response.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!(response.header("cache-control"), "no-store");
    };
    check("/trigger", 400, ["Which client? Add ?id=…", "online now: none of 1"]).await;
    let grammar =
        "\"../etc\" is not a client id. Ids are 1-64 letters, digits, dot, dash or underscore.";
    check("/trigger?id=../etc", 400, [grammar, "list them: curl pull:80/clients"]).await;
    check("/trigger/..%2fetc", 400, [grammar, "list them: curl pull:80/clients"]).await;
    let unknown = "No client called cleint4 has ever connected. Did you mean client4?";
    check("/trigger?id=cleint4", 404, [unknown, "list them: curl pull:80/clients"]).await;
    let misspelt = "There is no parameter \"wiat\" here. Did you mean wait?";
    let known = "Parameters are: id, path, wait, queue, fresh, if-changed.";
    check("/trigger?id=client4&wiat", 400, [misspelt, known]).await;
    let offline = fixture.get("/trigger?id=client4").await;
    assert_eq!(offline.status, StatusCode::CONFLICT);
    assert!(
        offline.body.starts_with("client4 is offline. Last seen 0 s ago (reason unknown)."),
        "{}",
        offline.body
    );
    let hint = "\npull when it returns: curl \"pull:80/trigger?id=client4&queue=24h\"\n";
    assert!(offline.body.ends_with(hint), "{}", offline.body);
    let page = fixture.get("/clients/client4").await.body;
    assert!(page.contains("curl \"pull:80/trigger?id=client4&queue=24h\""), "{page}");
    assert_eq!(fixture.n_transfers().await, 0);
}

#[tokio::test]
async fn head_and_other_methods_start_nothing() {
    let fixture = HttpFixture::start().await;
    for method in [Method::HEAD, Method::PUT, Method::OPTIONS] {
        for url in ["/trigger?id=client4&queue", "/trigger/client4?queue"] {
            let response = fixture.request(method.clone(), url).await;
            assert_eq!(response.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {url}");
            assert_eq!(response.header("allow"), "GET, POST", "{method} {url}");
            let hint = if method == Method::HEAD { "" } else { "\nUse GET or POST.\n" };
            assert!(response.body.ends_with(hint), "{}", response.body);
        }
    }
    assert_eq!(fixture.n_transfers().await, 0);
}

#[tokio::test]
async fn a_queued_pull_is_created_once_and_joined_by_later_requests() {
    let fixture = HttpFixture::start().await;
    let first = fixture.request(Method::POST, "/trigger/client4?queue=2h").await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{}", first.body);
    assert!(first.body.starts_with("Queued: client4 is offline; the pull starts when it returns"));
    let url = first.header("location").to_owned();
    let form =
        Request::post("/trigger").header("content-type", "application/x-www-form-urlencoded");
    let second = fixture.send(form.body(Body::from("id=client4&queue")).unwrap()).await;
    assert!(second.body.starts_with("Already waiting: client4 is offline;"), "{}", second.body);
    assert_eq!(second.header("location"), url);
    let json = Request::post("/api/v1/transfers").header("content-type", "application/json");
    let body = Body::from(r#"{"client": "client4", "queue": "24h"}"#);
    let third = fixture.send(json.body(body).unwrap()).await;
    assert_eq!(third.status, StatusCode::OK);
    assert_eq!((&third.json()["joined"], third.header("location")), (&Value::Bool(true), &*url));
    let id = url.rsplit('/').next().unwrap();
    let client = fixture.get("/clients/client4").await.body;
    assert!(client.contains(&format!("\ncurrent  waiting  pull:80/transfers/{id}\n")), "{client}");
    let listed = fixture.get("/api/v1/transfers?state=waiting").await.json();
    assert_eq!(
        (&listed["total"], &listed["items"][0]["waiting_for"]),
        (&1.into(), &"client".into())
    );
    assert_eq!(fixture.get("/api/v1/transfers?state=running").await.json()["total"], 0);
    let file = fixture.get(&format!("{url}/file")).await;
    assert_eq!(
        (file.status, &file.json()["code"]),
        (StatusCode::CONFLICT, &"transfer-active".into())
    );
    let cancelled = fixture.request(Method::POST, &format!("{url}/cancel")).await.json();
    assert_eq!(
        (&cancelled["state"], &cancelled["error"]["code"]),
        (&"cancelled".into(), &"cancelled".into())
    );
    assert_eq!(fixture.request(Method::POST, &format!("{url}/cancel")).await.json(), cancelled);
}

#[tokio::test]
async fn a_problem_is_rendered_as_json_if_the_caller_prefers_it() {
    let fixture = HttpFixture::start().await;
    let request = Request::get("/trigger?id=client4").header("accept", "application/json");
    let response = fixture.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.header("content-type"), "application/problem+json");
    let start = "{\n  \"type\": \"/problems/client-offline\",\n  \"code\": \"client-offline\",\n  \"title\": \"The client is offline\",\n  \"status\": 409,\n";
    assert!(response.body.starts_with(start), "{}", response.body);
    assert!(response.body.ends_with("\n}\n"));
    let problem = response.json();
    assert_eq!(problem["client"], "client4");
    assert_eq!(problem["request_id"], response.header("x-request-id"));
    assert_eq!(
        fixture.get("/trigger?id=client4&format=json").await.json()["code"],
        "client-offline"
    );
    assert_eq!(fixture.get("/trigger?id=client4&format=xml").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_invalid_request_is_answered_with_its_problem_code() {
    let fixture = HttpFixture::start().await;
    let check = async |method: Method, url: &str, status: u16, code: &str| {
        let response = fixture.request(method, url).await;
        assert_eq!(response.status.as_u16(), status, "{url}: {}", response.body);
        assert_eq!(response.json()["code"], code, "{url}");
    };
    check(Method::GET, "/api/v1/client", 404, "no-such-url").await;
    check(Method::GET, "/api/v1/clients/%ff", 400, "invalid-request").await;
    check(Method::GET, "/api/v1/clients/a%00b", 400, "invalid-request").await;
    check(Method::GET, "/api/v1/clients/unknown", 404, "client-unknown").await;
    check(Method::GET, "/api/v1/clients/unknown/file", 404, "client-unknown").await;
    check(Method::GET, "/api/v1/clients/client4/file", 404, "transfer-unknown").await;
    check(Method::GET, "/api/v1/clients?q=%ff", 400, "invalid-request").await;
    check(Method::GET, "/api/v1/clients?limit=0", 400, "invalid-request").await;
    check(Method::GET, "/api/v1/clients?cursor=zzz", 400, "invalid-request").await;
    check(Method::GET, "/api/v1/transfers?state=don", 400, "invalid-request").await;
    check(Method::GET, "/api/v1/transfers?cursor=x", 400, "invalid-request").await;
    check(Method::GET, "/api/v1/transfers/latest", 400, "invalid-request").await;
    check(Method::DELETE, "/api/v1/transfers", 405, "method-not-allowed").await;
    check(Method::POST, "/api/v1/transfers", 400, "invalid-request").await;
    let id = TransferId::generate();
    check(Method::GET, &format!("/api/v1/transfers/{id}"), 404, "transfer-unknown").await;
    let response = fixture.request(Method::DELETE, "/clients").await;
    assert_eq!(response.header("allow"), "GET,HEAD");
    assert_eq!(response.body, "/clients does not take DELETE.\nUse GET or HEAD.\n");
    let response = fixture.get("/client/client4").await;
    assert!(response.body.contains("Did you mean /clients/client4?"), "{}", response.body);
}

#[tokio::test]
async fn a_bad_body_is_rejected_with_the_reason_and_an_example() {
    let fixture = HttpFixture::start().await;
    let check = async |url: &str, body: String, detail: &str, hint: &str| {
        let builder = Request::post(url).header("content-type", "application/json");
        let request = builder.header("accept", "application/json").body(Body::from(body)).unwrap();
        let response = fixture.send(request).await;
        assert_eq!(response.status, StatusCode::BAD_REQUEST, "{url}");
        let problem = response.json();
        assert!(problem["detail"].as_str().unwrap().starts_with(detail), "{}", response.body);
        assert_eq!(problem["hint"], hint, "{url}");
    };
    let broken = "The body is not a JSON object: EOF";
    for (url, example) in [
        ("/trigger", "For example: {\"id\":\"client4\"}"),
        ("/trigger/client4", "For example: {\"queue\":\"24h\"}"),
        ("/api/v1/transfers", "For example: {\"client\":\"client4\"}"),
    ] {
        check(url, "{\"id\":".to_owned(), broken, example).await;
    }
    let hint = "Send the parameters as a form or as a JSON object.";
    check("/trigger", " ".repeat(65 * 1024), "The body is larger than 64 KiB.", hint).await;
}

#[tokio::test]
async fn every_page_has_a_text_and_a_json_form() {
    let fixture = HttpFixture::start().await;
    let transfer = fixture.store_download().await;
    let one = format!("/transfers/{}", transfer.id);
    let pages = ["/", "/clients", "/clients/client4", "/transfers", &one, "/server", "/problems"];
    for page in pages {
        let text = fixture.get(page).await;
        assert_eq!(text.status, StatusCode::OK, "{page}");
        assert!(text.body.is_ascii() && text.body.ends_with('\n'), "{page}: {}", text.body);
        assert!(!text.body.contains("localhost"), "{page}: {}", text.body);
        let json = fixture.get(&format!("{page}?format=json")).await;
        assert!(json.json().is_object(), "{page}");
        println!("$ curl {page}\n{}\n{}", text.body, json.body);
    }
    let ready = fixture.get("/readyz?verbose").await;
    assert_eq!(ready.status, StatusCode::OK, "{}", ready.body);
    assert!(ready.body.ends_with("\nready\n"), "{}", ready.body);
    fixture.app.lifecycle.drain().cancel();
    assert_eq!(fixture.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(fixture.get("/livez").await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_last_line_of_a_list_counts_the_listed_transfers() {
    let fixture = HttpFixture::start().await;
    fixture.store_download().await;
    fixture.get("/trigger?id=client4&queue").await;
    let last_line = async |url| fixture.get(url).await.body.lines().last().unwrap().to_owned();
    let all = last_line("/transfers").await;
    assert_eq!(all, "2 of 2 transfers; 0 running, 1 waiting.");
    let some = last_line("/transfers?client=client4&state=done").await;
    assert_eq!(some, "1 of 1 transfers that match.");
}

#[tokio::test]
async fn a_failed_transfer_is_shown_with_its_problem() {
    let fixture = HttpFixture::start().await;
    let mut transfer = Transfer::new(client4(), None, "test".to_owned(), Utc::now());
    let problem = Problem::new(Code::FileMissing, "client4 has no file.");
    transfer.fail(problem, LastProgress::default(), Utc::now()).unwrap();
    fixture.app.records.save(&transfer).await.unwrap();
    let url = format!("/api/v1/transfers/{}", transfer.id);
    let shown = fixture.get(&url).await;
    assert_eq!(shown.status, StatusCode::OK);
    assert_eq!(shown.json()["error"]["code"], "file-missing");
    let file = fixture.get(&format!("{url}/file")).await;
    assert_eq!(
        (file.status, &file.json()["code"]),
        (StatusCode::NOT_FOUND, &"file-missing".into())
    );
    let failed =
        fixture.get("/api/v1/transfers?state=failed&error=file-missing&since=1h").await.json();
    assert_eq!(failed["total"], 1);
}

#[tokio::test]
async fn a_wait_ends_when_the_server_drains() {
    let fixture = HttpFixture::start().await;
    fixture.get("/trigger?id=client4&queue").await;
    let drain = fixture.app.lifecycle.drain().clone();
    let (response, ()) = tokio::join!(fixture.get("/trigger?id=client4&queue&wait=10m"), async {
        tokio::task::yield_now().await;
        drain.cancel();
    });
    // The response is the same whether the pull arrives before or after the drain.
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE, "{}", response.body);
    assert!(response.body.starts_with("The server is restarting; "), "{}", response.body);
    assert_eq!(response.header("retry-after"), "10");
}

#[tokio::test]
async fn a_wait_that_times_out_is_answered_with_an_error_status() {
    let fixture = HttpFixture::start().await;
    let waited = fixture.get("/trigger?id=client4&queue&wait=1s").await;
    assert_eq!(waited.status, StatusCode::GATEWAY_TIMEOUT, "{}", waited.body);
    assert!(waited.body.starts_with("Still waiting after 1 s: "), "{}", waited.body);
    let url = waited.header("location").to_owned();
    let json = fixture.get("/trigger?id=client4&queue&wait=1s&format=json").await;
    assert_eq!(json.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!((&json.json()["state"], &json.json()["joined"]), (&"waiting".into(), &true.into()));
    assert_eq!(json.header("content-type"), "application/json");
    let api =
        fixture.request(Method::POST, "/api/v1/transfers?client=client4&queue=24h&wait=1s").await;
    assert_eq!((api.status, api.header("location")), (StatusCode::ACCEPTED, &*url));
    assert_eq!(fixture.get(&format!("{url}?wait=1s")).await.status, StatusCode::OK);
    let longest = fixture.get("/trigger?id=client4&wait=24h1s").await;
    assert_eq!(longest.body, "wait is at most 24h.\nFor example: wait=50s\n");
}

#[tokio::test]
async fn every_url_rejects_an_unknown_parameter() {
    let fixture = HttpFixture::start().await;
    let transfer = fixture.store_download().await;
    for path in request::suggest::PATHS {
        let id = match *path {
            path if path.contains("problems") => "cancelled".to_owned(),
            path if path.contains("transfers") => transfer.id.to_string(),
            _ => "client4".to_owned(),
        };
        let url = format!("{}?nonsense", path.replace("{}", &id));
        let method = if path.ends_with("/cancel") { Method::POST } else { Method::GET };
        let response = fixture.request(method, &url).await;
        assert_eq!(response.status, StatusCode::BAD_REQUEST, "{url}: {}", response.body);
        assert!(response.body.contains("There is no parameter"), "{url}: {}", response.body);
    }
    assert_eq!(fixture.get("/robots.txt?nonsense").await.status, StatusCode::BAD_REQUEST);
    let misspelt = fixture.get("/readyz?verbos").await;
    assert!(misspelt.body.contains(" Did you mean verbose?\n"), "{}", misspelt.body);
    assert_eq!(fixture.get("/livez?verbose&format=text").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_transfer_is_cancelled_by_its_id_or_by_its_client() {
    let fixture = HttpFixture::start().await;
    let nothing = fixture.request(Method::POST, "/clients/client4/cancel").await;
    assert_eq!(nothing.status, StatusCode::NOT_FOUND);
    assert!(nothing.body.starts_with("client4 has no transfer to cancel.\n"), "{}", nothing.body);
    let url = fixture.get("/trigger?id=client4&queue").await.header("location").to_owned();
    let id = url.rsplit('/').next().unwrap().to_owned();
    let triggered = fixture.get("/trigger?id=client4&queue").await.body;
    let stop = format!("\n  stop   curl -X POST pull:80/transfers/{id}/cancel\n");
    assert!(triggered.contains(&stop), "{triggered}");
    let page = fixture.get("/clients/client4").await.body;
    assert!(page.contains("\n  stop   curl -X POST pull:80/clients/client4/cancel\n"), "{page}");
    let by_client = fixture.request(Method::POST, "/clients/client4/cancel").await;
    assert_eq!(by_client.status, StatusCode::OK);
    assert!(by_client.body.starts_with("Cancelled by unknown at "), "{}", by_client.body);
    let by_id = fixture.request(Method::POST, &format!("/transfers/{id}/cancel")).await;
    assert_eq!((by_id.status, by_id.body), (StatusCode::OK, by_client.body.clone()));
    let again = fixture.request(Method::POST, "/api/v1/clients/client4/cancel").await;
    assert_eq!((again.status, &again.json()["state"]), (StatusCode::OK, &"cancelled".into()));
    let done = fixture.store_download().await;
    let late = fixture.request(Method::POST, &format!("/transfers/{}/cancel", done.id)).await;
    assert!(late.body.starts_with("Nothing to cancel. Done: client4 sent "), "{}", late.body);
    let unknown = fixture.request(Method::POST, "/clients/cleint4/cancel").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert!(unknown.body.contains("Did you mean client4?"), "{}", unknown.body);
    assert_eq!(fixture.get("/clients/client4/cancel").await.header("allow"), "POST");
}

#[tokio::test]
async fn a_panic_of_a_handler_is_answered_with_a_problem() {
    let fixture = HttpFixture::start().await;
    let handler = async || -> () { panic!("a bug") };
    let broken = Routes::default().add(Method::GET, "/boom", PUBLIC, handler);
    let request = Request::get("/boom?format=json").body(Body::empty()).unwrap();
    let response = with_middleware(broken, fixture.app).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(response.headers().contains_key("x-request-id"));
    assert_eq!(response.headers()["content-type"], "application/problem+json");
}
