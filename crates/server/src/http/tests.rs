//! The whole of `http` without a network and without agents.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use axum::routing::get;
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

#[tokio::test]
async fn every_trigger_that_cannot_start_says_why_and_what_to_do() {
    let bed = HttpFixture::start().await;
    let check = async |url: &str, status: u16, lines: [&str; 2]| {
        let answered = bed.get(url).await;
        assert_eq!(answered.body.lines().collect::<Vec<_>>(), lines, "{url}");
        assert_eq!(answered.status.as_u16(), status, "{url}");
        assert_eq!(answered.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!(answered.header("cache-control"), "no-store");
    };
    check("/trigger", 400, ["Which client? Add ?id=…", "online now: none of 1"]).await;
    let grammar =
        "\"../etc\" is not a client id. Ids are 1-64 letters, digits, dot, dash or underscore.";
    check("/trigger?id=../etc", 400, [grammar, "list them: curl pull:80/clients"]).await;
    check("/trigger/..%2fetc", 400, [grammar, "list them: curl pull:80/clients"]).await;
    let unknown = "No client called cleint4 has ever connected. Did you mean client4?";
    check("/trigger?id=cleint4", 404, [unknown, "list them: curl pull:80/clients"]).await;
    let misspelt = "There is no parameter \"wiat\" here. Did you mean wait?";
    let known = "Parameters are: id, path, wait, queue, fresh.";
    check("/trigger?id=client4&wiat", 400, [misspelt, known]).await;
    let offline = bed.get("/trigger?id=client4").await;
    assert_eq!(offline.status, StatusCode::CONFLICT);
    assert!(
        offline.body.starts_with("client4 is offline. Last seen 0 s ago (reason unknown)."),
        "{}",
        offline.body
    );
    let hint = "\npull when it returns: curl \"pull:80/trigger?id=client4&queue=24h\"\n";
    assert!(offline.body.ends_with(hint), "{}", offline.body);
    let page = bed.get("/clients/client4").await.body;
    assert!(page.contains("curl \"pull:80/trigger?id=client4&queue=24h\""), "{page}");
    assert_eq!(bed.n_transfers().await, 0);
}

#[tokio::test]
async fn head_and_other_methods_start_nothing() {
    let bed = HttpFixture::start().await;
    for method in [Method::HEAD, Method::PUT, Method::OPTIONS] {
        for url in ["/trigger?id=client4&queue", "/trigger/client4?queue"] {
            let answered = bed.ask(method.clone(), url).await;
            assert_eq!(answered.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {url}");
            assert_eq!(answered.header("allow"), "GET, POST", "{method} {url}");
            let hint = if method == Method::HEAD { "" } else { "\nUse GET or POST.\n" };
            assert!(answered.body.ends_with(hint), "{}", answered.body);
        }
    }
    assert_eq!(bed.n_transfers().await, 0);
}

#[tokio::test]
async fn a_queued_pull_is_accepted_once_and_joined_after() {
    let bed = HttpFixture::start().await;
    let first = bed.ask(Method::POST, "/trigger/client4?queue=2h").await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{}", first.body);
    assert!(first.body.starts_with("Queued: client4 is offline; the pull starts when it returns"));
    let url = first.header("location").to_owned();
    let form =
        Request::post("/trigger").header("content-type", "application/x-www-form-urlencoded");
    let second = bed.send(form.body(Body::from("id=client4&queue")).unwrap()).await;
    assert!(second.body.starts_with("Already waiting: client4 is offline;"), "{}", second.body);
    assert_eq!(second.header("location"), url);
    let json = Request::post("/api/v1/transfers").header("content-type", "application/json");
    let body = Body::from(r#"{"client": "client4", "queue": "24h"}"#);
    let third = bed.send(json.body(body).unwrap()).await;
    assert_eq!(third.status, StatusCode::OK);
    assert_eq!((&third.json()["joined"], third.header("location")), (&Value::Bool(true), &*url));
    let id = url.rsplit('/').next().unwrap();
    let client = bed.get("/clients/client4").await.body;
    assert!(client.contains(&format!("\ncurrent  waiting  pull:80/transfers/{id}\n")), "{client}");
    let listed = bed.get("/api/v1/transfers?state=waiting").await.json();
    assert_eq!(
        (&listed["total"], &listed["items"][0]["waiting_for"]),
        (&1.into(), &"client".into())
    );
    assert_eq!(bed.get("/api/v1/transfers?state=running").await.json()["total"], 0);
    let file = bed.get(&format!("{url}/file")).await;
    assert_eq!(
        (file.status, &file.json()["code"]),
        (StatusCode::CONFLICT, &"transfer-active".into())
    );
    let cancelled = bed.ask(Method::POST, &format!("{url}/cancel")).await.json();
    assert_eq!(
        (&cancelled["state"], &cancelled["error"]["code"]),
        (&"cancelled".into(), &"cancelled".into())
    );
    assert_eq!(bed.ask(Method::POST, &format!("{url}/cancel")).await.json(), cancelled);
}

#[tokio::test]
async fn a_problem_is_the_same_in_words_and_as_json() {
    let bed = HttpFixture::start().await;
    let request = Request::get("/trigger?id=client4").header("accept", "application/json");
    let answered = bed.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answered.header("content-type"), "application/problem+json");
    let start = "{\n  \"type\": \"/problems/client-offline\",\n  \"code\": \"client-offline\",\n  \"title\": \"The client is offline\",\n  \"status\": 409,\n";
    assert!(answered.body.starts_with(start), "{}", answered.body);
    assert!(answered.body.ends_with("\n}\n"));
    let problem = answered.json();
    assert_eq!(problem["client"], "client4");
    assert_eq!(problem["request_id"], answered.header("x-request-id"));
    assert_eq!(bed.get("/trigger?id=client4&format=json").await.json()["code"], "client-offline");
    assert_eq!(bed.get("/trigger?id=client4&format=xml").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn whatever_is_typed_is_answered_and_never_breaks_the_server() {
    let bed = HttpFixture::start().await;
    let check = async |method: Method, url: &str, status: u16, code: &str| {
        let answered = bed.ask(method, url).await;
        assert_eq!(answered.status.as_u16(), status, "{url}: {}", answered.body);
        assert_eq!(answered.json()["code"], code, "{url}");
    };
    check(Method::GET, "/api/v1/client", 404, "no-such-url").await;
    check(Method::GET, "/api/v1/clients/%ff", 400, "invalid-request").await;
    check(Method::GET, "/api/v1/clients/a%00b", 400, "invalid-request").await;
    check(Method::GET, "/api/v1/clients/nobody", 404, "client-unknown").await;
    check(Method::GET, "/api/v1/clients/nobody/file", 404, "client-unknown").await;
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
    let answered = bed.ask(Method::DELETE, "/clients").await;
    assert_eq!(answered.header("allow"), "GET,HEAD");
    assert_eq!(answered.body, "/clients does not take DELETE.\nUse GET or HEAD.\n");
    let answered = bed.get("/client/client4").await;
    assert!(answered.body.contains("Did you mean /clients/client4?"), "{}", answered.body);
}

#[tokio::test]
async fn a_bad_body_is_told_what_is_wrong_and_what_a_good_one_is() {
    let bed = HttpFixture::start().await;
    let check = async |url: &str, body: String, detail: &str, hint: &str| {
        let json = Request::post(url).header("content-type", "application/json");
        let json = json.header("accept", "application/json").body(Body::from(body)).unwrap();
        let answered = bed.send(json).await;
        assert_eq!(answered.status, StatusCode::BAD_REQUEST, "{url}");
        let problem = answered.json();
        assert!(problem["detail"].as_str().unwrap().starts_with(detail), "{}", answered.body);
        assert_eq!(problem["hint"], hint, "{url}");
    };
    let broken = "The body is not a JSON object: EOF";
    let example = "For example: {\"id\":\"client4\"}";
    check("/trigger", "{\"id\":".to_owned(), broken, example).await;
    let example = "For example: {\"queue\":\"24h\"}";
    check("/trigger/client4", "{\"id\":".to_owned(), broken, example).await;
    let example = "For example: {\"client\":\"client4\"}";
    check("/api/v1/transfers", "{\"id\":".to_owned(), broken, example).await;
    let hint = "Send the parameters as a form or as a JSON object.";
    check("/trigger", " ".repeat(65 * 1024), "The body is larger than 64 KiB.", hint).await;
}

#[tokio::test]
async fn every_page_has_a_text_and_a_json_form() {
    let bed = HttpFixture::start().await;
    let transfer = bed.stored().await;
    let one = format!("/transfers/{}", transfer.id);
    let pages = ["/", "/clients", "/clients/client4", "/transfers", &one, "/server", "/problems"];
    for page in pages {
        let text = bed.get(page).await;
        assert_eq!(text.status, StatusCode::OK, "{page}");
        assert!(text.body.is_ascii() && text.body.ends_with('\n'), "{page}: {}", text.body);
        assert!(!text.body.contains("localhost"), "{page}: {}", text.body);
        let json = bed.get(&format!("{page}?format=json")).await;
        assert!(json.json().is_object(), "{page}");
        println!("$ curl {page}\n{}\n{}", text.body, json.body);
    }
    let ready = bed.get("/readyz?verbose").await;
    assert_eq!(ready.status, StatusCode::OK, "{}", ready.body);
    assert!(ready.body.ends_with("\nready\n"), "{}", ready.body);
    bed.app.lifecycle.drain().cancel();
    assert_eq!(bed.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(bed.get("/livez").await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_last_line_of_a_list_speaks_of_what_is_listed() {
    let bed = HttpFixture::start().await;
    bed.stored().await;
    bed.get("/trigger?id=client4&queue").await;
    let last_line = async |url| bed.get(url).await.body.lines().last().unwrap().to_owned();
    let all = last_line("/transfers").await;
    assert_eq!(all, "2 of 2 transfers; 0 running, 1 waiting.");
    let some = last_line("/transfers?client=client4&state=done").await;
    assert_eq!(some, "1 of 1 transfers that match.");
}

#[tokio::test]
async fn a_transfer_that_failed_is_told_with_its_own_problem() {
    let bed = HttpFixture::start().await;
    let mut transfer = Transfer::new(client4(), None, "test".to_owned(), Utc::now());
    let problem = Problem::new(Code::FileMissing, "client4 has no file.");
    transfer.fail(problem, LastProgress::default(), Utc::now()).unwrap();
    bed.app.records.save(&transfer).await.unwrap();
    let url = format!("/api/v1/transfers/{}", transfer.id);
    let shown = bed.get(&url).await;
    assert_eq!(shown.status, StatusCode::OK);
    assert_eq!(shown.json()["error"]["code"], "file-missing");
    let file = bed.get(&format!("{url}/file")).await;
    assert_eq!(
        (file.status, &file.json()["code"]),
        (StatusCode::NOT_FOUND, &"file-missing".into())
    );
    let failed = bed.get("/api/v1/transfers?state=failed&error=file-missing&since=1h").await.json();
    assert_eq!(failed["total"], 1);
}

#[tokio::test]
async fn waiting_ends_when_the_server_stops() {
    let bed = HttpFixture::start().await;
    bed.get("/trigger?id=client4&queue").await;
    let drain = bed.app.lifecycle.drain().clone();
    let (answered, ()) = tokio::join!(bed.get("/trigger?id=client4&queue&wait=10m"), async {
        tokio::task::yield_now().await;
        drain.cancel();
    });
    // Whether the pull came before the end or after it, it is answered at once.
    assert_eq!(answered.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answered.body);
    assert!(answered.body.starts_with("The server is restarting; "), "{}", answered.body);
    assert_eq!(answered.header("retry-after"), "10");
}

#[tokio::test]
async fn who_waits_in_vain_gets_a_status_that_curl_takes_for_a_failure() {
    let bed = HttpFixture::start().await;
    let waited = bed.get("/trigger?id=client4&queue&wait=1s").await;
    assert_eq!(waited.status, StatusCode::GATEWAY_TIMEOUT, "{}", waited.body);
    assert!(waited.body.starts_with("Still waiting after 1 s: "), "{}", waited.body);
    let url = waited.header("location").to_owned();
    let json = bed.get("/trigger?id=client4&queue&wait=1s&format=json").await;
    assert_eq!(json.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!((&json.json()["state"], &json.json()["joined"]), (&"waiting".into(), &true.into()));
    assert_eq!(json.header("content-type"), "application/json");
    let api = bed.ask(Method::POST, "/api/v1/transfers?client=client4&queue=24h&wait=1s").await;
    assert_eq!((api.status, api.header("location")), (StatusCode::ACCEPTED, &*url));
    assert_eq!(bed.get(&format!("{url}?wait=1s")).await.status, StatusCode::OK);
    let longest = bed.get("/trigger?id=client4&wait=24h1s").await;
    assert_eq!(longest.body, "wait is at most 24h.\nFor example: wait=50s\n");
}

#[tokio::test]
async fn every_url_rejects_a_parameter_that_it_does_not_know() {
    let bed = HttpFixture::start().await;
    let transfer = bed.stored().await;
    for path in request::suggest::PATHS {
        let id = match *path {
            path if path.contains("problems") => "cancelled".to_owned(),
            path if path.contains("transfers") => transfer.id.to_string(),
            _ => "client4".to_owned(),
        };
        let url = format!("{}?nonsense", path.replace("{}", &id));
        let method = if path.ends_with("/cancel") { Method::POST } else { Method::GET };
        let answered = bed.ask(method, &url).await;
        assert_eq!(answered.status, StatusCode::BAD_REQUEST, "{url}: {}", answered.body);
        assert!(answered.body.contains("There is no parameter"), "{url}: {}", answered.body);
    }
    assert_eq!(bed.get("/robots.txt?nonsense").await.status, StatusCode::BAD_REQUEST);
    let misspelt = bed.get("/readyz?verbos").await;
    assert!(misspelt.body.contains(" Did you mean verbose?\n"), "{}", misspelt.body);
    assert_eq!(bed.get("/livez?verbose&format=text").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_transfer_is_cancelled_in_words_by_its_id_or_by_its_client() {
    let bed = HttpFixture::start().await;
    let nothing = bed.ask(Method::POST, "/clients/client4/cancel").await;
    assert_eq!(nothing.status, StatusCode::NOT_FOUND);
    assert!(nothing.body.starts_with("client4 has no transfer to cancel.\n"), "{}", nothing.body);
    let url = bed.get("/trigger?id=client4&queue").await.header("location").to_owned();
    let id = url.rsplit('/').next().unwrap().to_owned();
    let triggered = bed.get("/trigger?id=client4&queue").await.body;
    let stop = format!("\n  stop   curl -X POST pull:80/transfers/{id}/cancel\n");
    assert!(triggered.contains(&stop), "{triggered}");
    let page = bed.get("/clients/client4").await.body;
    assert!(page.contains("\n  stop   curl -X POST pull:80/clients/client4/cancel\n"), "{page}");
    let by_client = bed.ask(Method::POST, "/clients/client4/cancel").await;
    assert_eq!(by_client.status, StatusCode::OK);
    assert!(by_client.body.starts_with("Cancelled by unknown at "), "{}", by_client.body);
    let by_id = bed.ask(Method::POST, &format!("/transfers/{id}/cancel")).await;
    assert_eq!((by_id.status, by_id.body), (StatusCode::OK, by_client.body.clone()));
    let again = bed.ask(Method::POST, "/api/v1/clients/client4/cancel").await;
    assert_eq!((again.status, &again.json()["state"]), (StatusCode::OK, &"cancelled".into()));
    let done = bed.stored().await;
    let late = bed.ask(Method::POST, &format!("/transfers/{}/cancel", done.id)).await;
    assert!(late.body.starts_with("Nothing to cancel. Done: client4 sent "), "{}", late.body);
    let unknown = bed.ask(Method::POST, "/clients/cleint4/cancel").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert!(unknown.body.contains("Did you mean client4?"), "{}", unknown.body);
    assert_eq!(bed.get("/clients/client4/cancel").await.header("allow"), "POST");
}

#[tokio::test]
async fn a_panic_is_an_answer_like_any_other() {
    let bed = HttpFixture::start().await;
    let broken = Router::new().route("/boom", get(async || -> () { panic!("a bug") }));
    let request = Request::get("/boom?format=json").body(Body::empty()).unwrap();
    let response = framed(broken, bed.app).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(response.headers().contains_key("x-request-id"));
    assert_eq!(response.headers()["content-type"], "application/problem+json");
}
