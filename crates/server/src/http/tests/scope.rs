//! A client outside the scope of a token does not exist: not in a list, a count, a hint or an error.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use filepull_core::id::TransferId;

use super::fixture::{HttpFixture, TestResponse};

/// A server with client4 (region south), client5 (north) and client6 (no labels), all offline, each
/// with a queued transfer and client5 with a download.
struct ScopeFixture {
    fixture: HttpFixture,
    /// Sees client4 only.
    south: String,
    /// Sees every client.
    all: String,
}

impl ScopeFixture {
    async fn start() -> Self {
        let fixture = HttpFixture::with_tokens(&[
            ("south", "operator", "clients=region=south"),
            ("all", "admin", ""),
        ])
        .await;
        for id in ["client5", "client6"] {
            fixture.know_client(id).await;
        }
        fixture.label_client("client4", r#"{"region":"south","kind":"till"}"#);
        fixture.label_client("client5", r#"{"region":"north"}"#);
        let south = fixture.token("south");
        let all = fixture.token("all");
        let scoped = Self { fixture, south, all };
        for id in ["client4", "client5", "client6"] {
            let queued = scoped.send(&scoped.all, "POST", &format!("/trigger/{id}?queue")).await;
            assert_eq!(queued.status, StatusCode::ACCEPTED, "{}", queued.body);
        }
        scoped
    }

    async fn send(&self, token: &str, method: &str, url: &str) -> TestResponse {
        let request = Request::builder()
            .method(method.parse::<Method>().unwrap())
            .uri(url)
            .header("host", "pull:80")
            .header("authorization", format!("Bearer {token}"));
        self.fixture.send(request.body(Body::empty()).unwrap()).await
    }

    async fn get(&self, url: &str) -> TestResponse {
        self.send(&self.south, "GET", url).await
    }

    async fn transfer_of(&self, client: &str) -> String {
        let url = format!("/api/v1/transfers?client={client}");
        let list = self.send(&self.all, "GET", &url).await;
        list.json()["items"][0]["id"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn lists_and_counts_have_only_the_clients_in_scope() {
    let scoped = ScopeFixture::start().await;
    for url in ["/api/v1/clients", "/api/v1/clients?sort=seen", "/api/v1/clients?q=client"] {
        let list = scoped.get(url).await.json();
        assert_eq!((&list["total"], &list["items"][0]["id"]), (&1.into(), &"client4".into()));
        assert_eq!(list["items"].as_array().unwrap().len(), 1, "{url}");
    }
    assert_eq!(scoped.get("/api/v1/clients?q=client5").await.json()["total"], 0);
    for url in ["/api/v1/transfers", "/api/v1/transfers?state=waiting"] {
        let list = scoped.get(url).await.json();
        assert_eq!((&list["total"], &list["items"][0]["client"]), (&1.into(), &"client4".into()));
    }
    assert_eq!(scoped.get("/api/v1/transfers?client=client5").await.json()["total"], 0);
    let server = scoped.get("/api/v1/server").await.json();
    assert_eq!(
        (&server["clients"]["offline"], &server["transfers"]["waiting"]),
        (&1.into(), &1.into())
    );
    let home = scoped.get("/").await.body;
    assert!(
        home.contains(" 1 offline, 0 transfers running") && home.contains("id=client4"),
        "{home}"
    );
    let text = scoped.get("/transfers").await.body;
    assert!(text.ends_with("1 of 1 transfers; 0 running, 1 waiting.\n"), "{text}");
    let all = scoped.send(&scoped.all, "GET", "/api/v1/clients").await.json();
    assert_eq!(all["total"], 3);
}

#[tokio::test]
async fn pages_within_a_scope_have_no_gap() {
    let scoped = ScopeFixture::start().await;
    for number in 10..40 {
        let id = format!("client{number}");
        scoped.fixture.know_client(&id).await;
        let region = if number % 3 == 0 { "south" } else { "north" };
        scoped.fixture.label_client(&id, &format!("{{\"region\":\"{region}\"}}"));
        scoped.fixture.store_failure(&id).await;
    }
    for list in ["clients", "transfers?since=1h", "transfers?state=failed"] {
        let n_expected = if list.ends_with("failed") { 10 } else { 11 };
        let separator = if list.contains('?') { '&' } else { '?' };
        let mut url = format!("/api/v1/{list}{separator}limit=4");
        let mut seen = Vec::new();
        loop {
            let page = scoped.get(&url).await.json();
            assert_eq!(page["total"], n_expected, "{list}");
            let items = page["items"].as_array().unwrap();
            let name = if list == "clients" { "id" } else { "client" };
            seen.extend(items.iter().map(|item| item[name].as_str().unwrap().to_owned()));
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            url = format!("/api/v1/{list}{separator}limit=4&cursor={cursor}");
        }
        seen.sort();
        let third =
            (10..40).filter(|number| number % 3 == 0).map(|number| format!("client{number}"));
        let expected: Vec<String> = third.chain(["client4".to_owned()]).take(n_expected).collect();
        assert_eq!(seen, expected, "{list}");
    }
}

#[tokio::test]
async fn a_client_out_of_scope_is_answered_as_one_that_never_existed() {
    let scoped = ScopeFixture::start().await;
    let foreign = scoped.transfer_of("client5").await;
    let unknown = TransferId::generate().to_string();
    let urls = [
        ("GET", "/clients/CLIENT"),
        ("GET", "/clients/CLIENT/file"),
        ("POST", "/clients/CLIENT/cancel"),
        ("GET", "/api/v1/clients/CLIENT"),
        ("GET", "/api/v1/clients/CLIENT/file"),
        ("POST", "/api/v1/clients/CLIENT/cancel"),
        ("GET", "/trigger?id=CLIENT"),
        ("POST", "/trigger/CLIENT?queue"),
        ("POST", "/api/v1/transfers?client=CLIENT&queue=1h"),
        ("GET", "/transfers/TRANSFER"),
        ("GET", "/transfers/TRANSFER?wait=1s"),
        ("GET", "/transfers/TRANSFER/file"),
        ("POST", "/transfers/TRANSFER/cancel"),
        ("POST", "/api/v1/transfers/TRANSFER/cancel"),
    ];
    for (method, url) in urls {
        let ask = async |client: &str, transfer: &str| {
            let url = url.replace("CLIENT", client).replace("TRANSFER", transfer);
            let response = scoped.send(&scoped.south, method, &url).await;
            let body = response.body.replace(client, "CLIENT").replace(transfer, "TRANSFER");
            let request_id = response.header("x-request-id").to_owned();
            (response.status, body.replace(&request_id, ""))
        };
        let hidden = ask("client5", &foreign).await;
        assert_eq!(hidden.0, StatusCode::NOT_FOUND, "{method} {url}: {}", hidden.1);
        // `client9` is as close to client4 as client5 is.
        assert_eq!(hidden, ask("client9", &unknown).await, "{method} {url}");
        assert_eq!(ask("client6", &foreign).await, hidden, "{method} {url}");
    }
    let list = scoped.send(&scoped.all, "GET", "/api/v1/transfers?state=waiting").await;
    assert_eq!(list.json()["total"], 3, "nothing was cancelled or created");
}

#[tokio::test]
async fn hints_name_only_clients_in_scope() {
    let scoped = ScopeFixture::start().await;
    let which = scoped.get("/trigger").await.body;
    assert_eq!(which, "Which client? Add ?id=…\nonline now: none of 1\n");
    let mistyped = scoped.get("/trigger?id=clint5").await.body;
    assert!(!mistyped.contains("client5") && !mistyped.contains("client6"), "{mistyped}");
    let meant = scoped.get("/trigger?id=cleint4").await.body;
    assert!(meant.contains("Did you mean client4?"), "{meant}");
    let all = scoped.send(&scoped.all, "GET", "/trigger?id=clint5").await.body;
    assert!(all.contains("Did you mean client5?"), "{all}");
    let ready = scoped.get("/readyz?verbose").await.body;
    assert!(!ready.contains("clients"), "{ready}");
    let ready = scoped.send(&scoped.all, "GET", "/readyz?verbose").await.body;
    assert!(ready.contains("0 of 3 clients online"), "{ready}");
}

#[tokio::test]
async fn idempotency_keys_of_two_callers_are_apart() {
    let scoped = ScopeFixture::start().await;
    let post = async |token: &str, client: &str| {
        let request = Request::post(format!("/api/v1/transfers?client={client}&queue=1h"))
            .header("authorization", format!("Bearer {token}"))
            .header("idempotency-key", "k1");
        scoped.fixture.send(request.body(Body::empty()).unwrap()).await
    };
    assert_eq!(post(&scoped.all, "client5").await.status, StatusCode::OK);
    let other = post(&scoped.south, "client4").await;
    assert_eq!(other.status, StatusCode::OK, "{}", other.body);
    assert_eq!(other.json()["client"], "client4");
    // After the scope became smaller, the key leads nowhere.
    scoped.fixture.label_client("client4", r#"{"region":"east"}"#);
    assert_eq!(post(&scoped.south, "client4").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn damaged_labels_and_other_values_are_out_of_scope() {
    let scoped = ScopeFixture::start().await;
    for labels in
        ["", "{", "null", r#"{"region":"South"}"#, r#"{"region":["south"]}"#, r#"{"x":"south"}"#]
    {
        scoped.fixture.label_client("client4", labels);
        let shown = scoped.get("/clients/client4").await;
        assert_eq!(shown.status, StatusCode::NOT_FOUND, "{labels}: {}", shown.body);
        assert_eq!(scoped.get("/api/v1/clients").await.json()["total"], 0, "{labels}");
    }
}
