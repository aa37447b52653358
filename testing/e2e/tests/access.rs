//! Who may use the HTTP API: every route with every kind of caller, and the commands for tokens.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::Utc;
use filepull_server::access::Role;
use filepull_server::access::token_editor::{self, NewToken};
use filepull_server::{Access, RouteRule, route_rules};
use filepull_testkit::process::{command, test_program};
use filepull_testkit::{HttpResponse, Process, TestServer, poll, settings_in, test_data};
use hyper::Method;
use insta::assert_snapshot;
use rusqlite::Connection;
use serde_json::Value;

const PROGRAM: &str = "e2e-filepull";

/// A server that asks for tokens. client4 (region south) and client5 (region north) have each sent a
/// file and are offline.
struct AccessFixture {
    server: TestServer,
    tokens: BTreeMap<CallerKind, String>,
    /// The transfer of client4, and the one of client5.
    transfers: [String; 2],
}

/// The callers of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CallerKind {
    NoToken,
    Viewer,
    Operator,
    Admin,
    /// An admin for the clients of region south only, who names client5.
    OutOfScope,
    /// The browser of an admin, for a page of another web site.
    OtherSite,
}

const CALLERS: [CallerKind; 6] = [
    CallerKind::NoToken,
    CallerKind::Viewer,
    CallerKind::Operator,
    CallerKind::Admin,
    CallerKind::OutOfScope,
    CallerKind::OtherSite,
];

/// Makes a token and returns it.
fn token(
    file: &Path,
    name: &str,
    role: Role,
    label: Option<(&str, &str)>,
) -> anyhow::Result<String> {
    let clients =
        label.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let new = NewToken { name: name.to_owned(), role, clients, expires: None };
    Ok(token_editor::create(file, &new, Utc::now())?.secret)
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

impl AccessFixture {
    async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("tokens");
        let admin = token(&file, "admin", Role::Admin, None)?;
        let tokens = BTreeMap::from([
            (CallerKind::Viewer, token(&file, "viewer", Role::Viewer, None)?),
            (CallerKind::Operator, token(&file, "operator", Role::Operator, None)?),
            (CallerKind::Admin, admin.clone()),
            (
                CallerKind::OutOfScope,
                token(&file, "south", Role::Admin, Some(("region", "south")))?,
            ),
            (CallerKind::OtherSite, admin),
        ]);
        let path = file.display().to_string();
        let server = TestServer::with(&[("HTTP_AUTH", "tokens"), ("TOKENS_FILE", &path)]).await?;
        let mut fixture = Self { server, tokens, transfers: [String::new(), String::new()] };
        for (index, client) in ["client4", "client5"].into_iter().enumerate() {
            let mut agent = fixture.server.connect(client, &test_data(client, 1000)).await?;
            let url = format!("/trigger?id={client}&wait=60s&format=json");
            let pulled =
                fixture.send(CallerKind::Operator, &Method::POST, &url).await?.success_json()?;
            fixture.transfers[index] = pulled["id"].as_str().context("no id")?.to_owned();
            agent.stop().await?;
        }
        fixture.label("client4", "south")?;
        fixture.label("client5", "north")?;
        Ok(fixture)
    }

    /// Gives a client a key with a label, as an enrolment does.
    fn label(&self, client: &str, region: &str) -> anyhow::Result<()> {
        let records = Connection::open(self.server.data_dir().join(".filepull/records.db"))?;
        let digit = if region == "south" { "a" } else { "b" };
        let labels = format!("{{\"region\":\"{region}\"}}");
        records.execute(
            "INSERT INTO client_keys (client, fingerprint, pending, labels, invite, enrolled_at, \
             enrolled_from, rotated_at, pins) VALUES ($1, $2, 0, $3, '', 0, '127.0.0.1', 0, '[]')",
            (client, digit.repeat(64), labels),
        )?;
        Ok(())
    }

    async fn send(
        &self,
        caller: CallerKind,
        method: &Method,
        url: &str,
    ) -> anyhow::Result<HttpResponse> {
        let authorization = self.tokens.get(&caller).map(|token| bearer(token));
        let mut headers: Vec<(&str, &str)> = Vec::new();
        headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
        if caller == CallerKind::OtherSite {
            headers.extend([("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")]);
        }
        self.server.send(method.clone(), url, &headers, "").await
    }

    /// Returns a URL of the route that names client4, or client5.
    fn url(&self, rule: &RouteRule, client: usize) -> String {
        let name = ["client4", "client5"][client];
        let path = rule.path.replace("{code}", "cancelled");
        let id = if path.contains("/transfers/") { &self.transfers[client] } else { name };
        let path = path.replace("{id}", id);
        match rule.path.as_str() {
            "/trigger" => format!("{path}?id={name}&queue"),
            "/trigger/{id}" => format!("{path}?queue"),
            "/api/v1/transfers" if rule.method == Method::POST => {
                format!("{path}?client={name}&queue=1h")
            }
            _ => path,
        }
    }

    async fn n_transfers(&self) -> anyhow::Result<Value> {
        let list = self.send(CallerKind::Admin, &Method::GET, "/api/v1/transfers").await?;
        Ok(list.success_json()?["total"].take())
    }
}

/// What a response says about the caller.
fn verdict(response: &HttpResponse) -> &'static str {
    let text = response.text();
    match response.status {
        401 => "401 sign in",
        403 if text.contains("another web site") => "403 other site",
        403 => "403 role",
        404 if text.contains("has ever connected") || text.contains("No transfer") => "404 unknown",
        200 if response.header("content-type").starts_with("text/html") => "200 confirm",
        _ => "allowed",
    }
}

fn expected(rule: &RouteRule, caller: CallerKind) -> &'static str {
    let role = match caller {
        CallerKind::NoToken => None,
        CallerKind::Viewer => Some(Role::Viewer),
        CallerKind::Operator => Some(Role::Operator),
        CallerKind::Admin | CallerKind::OutOfScope | CallerKind::OtherSite => Some(Role::Admin),
    };
    let is_trigger = rule.path.starts_with("/trigger");
    let names_client = is_trigger
        || rule.path.contains("{id}")
        || (rule.path == "/api/v1/transfers" && rule.method == Method::POST);
    match (rule.access, role) {
        _ if caller == CallerKind::OtherSite && rule.method != Method::GET => "403 other site",
        (Access::Public, _) => "allowed",
        (_, None) => "401 sign in",
        (Access::Needs(needed) | Access::NeedsAll(needed), Some(role)) if role < needed => {
            "403 role"
        }
        (Access::NeedsAll(_), _) if caller == CallerKind::OutOfScope => "403 role",
        (Access::Needs(_), _) if caller == CallerKind::OutOfScope && names_client => "404 unknown",
        _ if caller == CallerKind::OtherSite && is_trigger => "200 confirm",
        (Access::Needs(_) | Access::NeedsAll(_), Some(_)) => "allowed",
    }
}

/// The routes come from the router, so a new route is in the table at once.
#[tokio::test]
async fn every_route_decides_about_every_kind_of_caller() -> anyhow::Result<()> {
    let fixture = AccessFixture::start().await?;
    let rules = route_rules();
    assert!(30 < rules.len(), "{rules:?}");
    let mut found = BTreeMap::new();
    let check =
        async |found: &mut BTreeMap<(usize, CallerKind), &'static str>, index: usize, caller| {
            let rule: &RouteRule = &rules[index];
            let url = fixture.url(rule, usize::from(caller == CallerKind::OutOfScope));
            let response = fixture.send(caller, &rule.method, &url).await?;
            let verdict = verdict(&response);
            let text = response.text();
            assert_eq!(verdict, expected(rule, caller), "{caller:?} {} {url}: {text}", rule.method);
            if caller == CallerKind::OutOfScope && !url.contains("client5") {
                assert!(!text.contains("client5"), "{url}: {text}");
            }
            found.insert((index, caller), verdict);
            anyhow::Ok(())
        };
    let before = fixture.n_transfers().await?;
    // First what must change nothing, then what may.
    for (index, rule) in rules.iter().enumerate() {
        for caller in CALLERS {
            if expected(rule, caller) != "allowed" {
                check(&mut found, index, caller).await?;
            }
        }
    }
    assert_eq!(fixture.n_transfers().await?, before, "a rejected request started a transfer");
    let removes = |index: &usize| rules[*index].method == Method::DELETE;
    let in_order = (0..rules.len()).filter(|index| !removes(index));
    for index in in_order.chain((0..rules.len()).filter(removes)) {
        for caller in CALLERS {
            if expected(&rules[index], caller) == "allowed" {
                check(&mut found, index, caller).await?;
            }
        }
    }
    let mut table = String::from(
        "| route | no token | viewer | operator | admin | out of scope | other site |\n|---|---|---|---|---|---|---|\n",
    );
    for (index, rule) in rules.iter().enumerate() {
        write!(table, "| {} {} |", rule.method, rule.path)?;
        for caller in CALLERS {
            write!(table, " {} |", found[&(index, caller)])?;
        }
        table.push('\n');
    }
    assert_snapshot!("access", table);
    Ok(())
}

/// The router is built in one file, so that no route can be added without a rule.
#[test]
fn no_route_is_added_without_its_rule() -> anyhow::Result<()> {
    let mut folders =
        vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../crates/server/src/http")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path)?;
            let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let is_own = path.ends_with("http/routing.rs");
            // `.route()` without an argument reads the route of a request.
            let text = shipped.replace(".route()", "");
            let adds = [".route(", ".route_service(", ".nest(", ".merge(Router"]
                .map(|call| text.contains(call));
            assert!(is_own || adds == [false; 4], "{} adds a route", path.display());
        }
    }
    Ok(())
}

#[tokio::test]
async fn head_and_options_of_a_trigger_start_nothing() -> anyhow::Result<()> {
    let fixture = AccessFixture::start().await?;
    let before = fixture.n_transfers().await?;
    for method in [Method::HEAD, Method::OPTIONS] {
        for url in ["/trigger?id=client4&queue", "/trigger/client4?queue"] {
            for caller in CALLERS {
                let response = fixture.send(caller, &method, url).await?;
                assert_eq!(response.status, 405, "{caller:?} {method} {url}");
                assert_eq!(response.header("allow"), "GET, POST");
            }
        }
    }
    assert_eq!(fixture.n_transfers().await?, before);
    Ok(())
}

/// Runs `filepull token` and returns its standard output, or fails with its standard error.
async fn run_token(folder: &tempfile::TempDir, args: &[&str]) -> anyhow::Result<String> {
    let mut token = command(test_program(PROGRAM)?);
    token.arg("token").args(args).env("DATA_DIR", folder.path().join("server-data"));
    let output = token.output().await?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.success(), "{}: {error}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test]
async fn a_server_for_other_machines_starts_only_with_a_token() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = settings_in(folder.path(), &[("HTTP_ADDR", "0.0.0.0:0")]);
    let server = Process::start(&[], PROGRAM, "server", &settings)?;
    let refusal = server.fails_with(2, "filepull token create NAME --role admin").await?;
    assert!(refusal.contains("HTTP_AUTH=none"), "{refusal}");
    assert!(!folder.path().join("server-data").exists());
    let secret = run_token(&folder, &["create", "ops", "--role", "admin"]).await?;
    let file = folder.path().join("server-data/.filepull/tokens");
    assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    assert!(!fs::read_to_string(&file)?.contains(secret.trim()));
    let mut server = Process::start(&[], PROGRAM, "server", &settings)?;
    server.ready("Ready.").await?;
    Ok(())
}

#[tokio::test]
async fn a_broken_or_unsafe_file_of_tokens_is_named_at_the_start() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("tokens");
    let path = file.display().to_string();
    let settings = settings_in(folder.path(), &[("HTTP_AUTH", "tokens"), ("TOKENS_FILE", &path)]);
    let start = || Process::start(&[], PROGRAM, "server", &settings);
    fs::write(&file, "# tokens\nuser alice boss\n")?;
    let reason = format!("TOKENS_FILE={path}, line 2: the role must be viewer, operator or admin");
    start()?.fails_with(2, &reason).await?;
    fs::write(&file, "user alice admin\n")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666))?;
    start()?.fails_with(2, &format!("Run: chmod go-w {path}")).await?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    start()?.says("other users of this machine can read the names and hashes").await?;
    Ok(())
}

#[tokio::test]
async fn a_token_works_from_its_creation_to_its_revocation_in_a_running_server()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let first = run_token(&folder, &["create", "first", "--role", "admin"]).await?;
    let settings = [("HTTP_AUTH", "tokens"), ("LOG_LEVEL", "trace")];
    let mut server =
        TestServer::in_folder(folder, filepull_testkit::Programs::default(), &settings);
    server.start_server().await?;
    let who = async |token: &str| {
        let authorization = bearer(token);
        let headers = [("authorization", authorization.as_str())];
        server.send(Method::GET, "/api/v1/whoami", &headers, "").await
    };
    assert_eq!(who(first.trim()).await?.status, 200);
    let args =
        ["create", "ci", "--role", "viewer", "--clients", "region=south", "--expires", "90d"];
    let data_dir = server.data_dir();
    let run = async |args: &[&str]| {
        let mut token = command(test_program(PROGRAM)?);
        token.arg("token").args(args).arg("--data-dir").arg(&data_dir);
        let output = token.output().await?;
        anyhow::ensure!(output.status.success(), "{output:?}");
        anyhow::Ok(String::from_utf8(output.stdout)?)
    };
    let secret = run(&args).await?.trim().to_owned();
    let until = async |status: u16| {
        poll("the token", async || Ok(Some(who(&secret).await?).filter(|r| r.status == status)))
            .await
    };
    let ci = until(200).await?.json()?;
    assert_eq!((&ci["name"], &ci["clients"]["region"]), (&"ci".into(), &"south".into()));
    let used = async || {
        let listed: Value = serde_json::from_str(&run(&["list", "--json"]).await?)?;
        let ci = listed["items"]
            .as_array()
            .and_then(|items| items.iter().find(|item| item["name"] == "ci"));
        let ci = ci.context("ci is not listed")?.clone();
        Ok(Some(ci).filter(|ci| ci["last_used_at"].is_string()))
    };
    let listed = poll("the last use", used).await?;
    assert_eq!((&listed["role"], &listed["expired"]), (&"viewer".into(), &false.into()));
    assert!(listed["expires_at"].is_string() && !listed.to_string().contains(&secret), "{listed}");
    let text = run(&["list"]).await?;
    assert!(text.contains("region=south") && !text.contains(&secret), "{text}");
    // A broken file changes nothing, and the log names the line.
    let file = data_dir.join(".filepull/tokens");
    let before = fs::read_to_string(&file)?;
    fs::write(&file, format!("{before}token broken\n"))?;
    server.server()?.says("the role is missing").await?;
    assert_eq!(who(&secret).await?.status, 200);
    fs::write(&file, before)?;
    run(&["revoke", "ci"]).await?;
    let revoked = Instant::now();
    let refused = until(401).await?;
    assert!(revoked.elapsed() < Duration::from_millis(1500), "{:?}", revoked.elapsed());
    assert!(refused.text().contains("it was revoked"), "{}", refused.text());
    let authorization = bearer(first.trim());
    let headers = [("authorization", authorization.as_str())];
    let url = "/api/v1/audit?action=tokens.changed";
    let audit = server.send(Method::GET, url, &headers, "").await?.success_json()?;
    let newest = &audit["items"][0]["detail"];
    assert_eq!(newest["removed"], serde_json::json!(["ci"]), "{audit}");
    server.get(&format!("/clients?token={secret}")).await?;
    server.stop_and_read(&[&secret, first.trim()]).await
}

/// Fails if a secret is in the output of the server.
trait NoSecrets {
    async fn stop_and_read(self, secrets: &[&str]) -> anyhow::Result<()>;
}

impl NoSecrets for TestServer {
    async fn stop_and_read(self, secrets: &[&str]) -> anyhow::Result<()> {
        let process = self.server()?;
        let lines = process.said();
        let requests = lines.iter().filter(|line| line.contains("\"http.request\""));
        assert!(1 < requests.count(), "the log has no requests: {}", process.last_output());
        for secret in secrets {
            let hit = lines.iter().find(|line| line.contains(secret));
            assert!(hit.is_none(), "a token is in the log: {hit:?}");
            let args = fs::read(format!("/proc/{}/cmdline", process.pid()))?;
            assert!(!String::from_utf8_lossy(&args).contains(secret));
        }
        Ok(())
    }
}

#[tokio::test]
async fn the_command_token_reports_its_errors() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let check = async |args: &[&str], code: &str, reason: &str| {
        let error = run_token(&folder, args).await.unwrap_err().to_string();
        assert!(
            error.contains(&format!("exit status: {code}")) && error.contains(reason),
            "{error}"
        );
    };
    assert!(run_token(&folder, &["list"]).await?.contains("There is no token in "));
    check(&["create", "a b", "--role", "viewer"], "2", "is not the name of a token").await;
    check(&["create", "ci"], "2", "--role").await;
    check(&["create", "ci", "--role", "viewer", "--clients", "south"], "2", "is not a label").await;
    run_token(&folder, &["create", "ci", "--role", "viewer"]).await?;
    check(&["create", "ci", "--role", "admin"], "2", "exists already; revoke it first").await;
    check(&["revoke", "ops"], "4", "no token or user is called ops").await;
    let text = run_token(&folder, &["create", "ops", "--role", "operator", "--json"]).await?;
    let created: Value = serde_json::from_str(&text)?;
    assert!(created["token"].as_str().unwrap_or_default().starts_with("filepull_"), "{text}");
    let revoked: Value =
        serde_json::from_str(&run_token(&folder, &["revoke", "ops", "--json"]).await?)?;
    assert_eq!(revoked["revoked"], true);
    Ok(())
}
