//! S8: requests that a page of another site can make a browser send. None may start a transfer.

use std::time::Duration;

use anyhow::Context as _;
use filepull_testkit::HttpClient;
use futures::FutureExt as _;
use hyper::Method;

use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "S8",
    statement: "No page in a browser can trigger a transfer; a program with a token can.",
    requirements: &[],
    limit: Duration::from_secs(30),
    run: |trial| run(trial).boxed_local(),
};

/// The headers of requests that no transfer may follow, in either mode.
const BROWSERS: [&[(&str, &str)]; 12] = [
    &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")],
    &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")],
    &[("sec-fetch-site", "same-site"), ("origin", "https://other.example")],
    &[("sec-fetch-site", "cross-site"), ("sec-purpose", "prefetch")],
    &[("purpose", "prefetch"), ("user-agent", "Mozilla/5.0")],
    &[("origin", "https://evil.example")],
    &[("origin", "null")],
    &[("user-agent", "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"), ("origin", "http://evil")],
    &[("host", "evil.example"), ("origin", "http://evil.example")],
    &[("host", "evil.example")],
    &[("host", "evil.example:80"), ("user-agent", "Mozilla/5.0")],
    &[("content-type", "text/plain"), ("origin", "https://evil.example")],
];
/// The headers that show where a request comes from.
const ORIGINS: [&str; 3] = ["origin", "sec-fetch-site", "host"];
/// The ways to trigger: a link, a form, and the API.
const FORM: &str = "id=client1";
const JSON: &str = "{\"client\":\"client1\"}";

async fn run(trial: &Trial) -> anyhow::Result<()> {
    for is_secure in [false, true] {
        let mut scenario = match is_secure {
            false => Scenario::prepare(trial, &[]).await?,
            true => Scenario::prepare_secure(trial, &[("AGENT_AUTH", "open")]).await?,
        };
        scenario.start_server().await?;
        scenario.add_client("client1", 1000, &[])?;
        scenario.connect(0).await?;
        let tried = try_browsers(trial, &mut scenario, is_secure).await;
        scenario.explain(if is_secure { "with tokens" } else { "without sign-in" }, tried)?;
        scenario.teardown().await?;
    }
    Ok(())
}

async fn try_browsers(
    trial: &Trial,
    scenario: &mut Scenario,
    is_secure: bool,
) -> anyhow::Result<()> {
    // A browser has no token: no page can read or guess it.
    let browser = HttpClient::new(scenario.server.http());
    for headers in BROWSERS {
        // With a token, the name in `Host` decides nothing: there is nothing that a page could send.
        for (method, path, body) in [
            (Method::GET, "/trigger?id=client1", ""),
            (Method::GET, "/trigger/client1", ""),
            (Method::POST, "/trigger?id=client1", ""),
            (Method::POST, "/trigger", FORM),
            (Method::POST, "/api/v1/transfers", JSON),
            (Method::HEAD, "/trigger?id=client1", ""),
            (Method::OPTIONS, "/trigger?id=client1", ""),
        ] {
            // A browser names the origin of each POST. A POST without one comes from a program.
            let names_origin = headers.iter().any(|(name, _)| ORIGINS.contains(name));
            if method == Method::POST && !names_origin {
                continue;
            }
            let answer = browser.send(method.clone(), path, headers, body).await?;
            let expected: &[u16] = match (&method, is_secure) {
                (&Method::HEAD | &Method::OPTIONS, false) => &[403, 405],
                (&Method::HEAD | &Method::OPTIONS, true) => &[401, 403, 405],
                // A browser gets a page with a button, which only the same site can press.
                (&Method::GET, false) => &[200, 403],
                (_, false) => &[400, 403, 415],
                (_, true) => &[401, 403],
            };
            let known = expected.contains(&answer.status);
            anyhow::ensure!(known, "{method} {path} with {headers:?}: {}", answer.status);
            let n_transfers = scenario.transfers().await?.len();
            anyhow::ensure!(n_transfers == 0, "{method} {path} with {headers:?} starts a transfer");
            trial.counters.fault("requests of a browser");
        }
    }
    let started = scenario.server.get("/trigger?id=client1&wait=20s").await?;
    anyhow::ensure!(started.status == 200, "a program: {}: {}", started.status, started.text());
    scenario.audit(false).await.context("the file of the program")
}
