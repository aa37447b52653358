//! Each act has one audit record, which is durable before its answer, and no record changes unnoticed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use filepull_core::audit::{AuditContent, AuditRecord, ChainHead};
use filepull_core::digest::Digest;
use filepull_server::access::Role;
use filepull_testkit::process::{command, test_program};
use filepull_testkit::{
    ADMIN, HttpClient, HttpResponse, ScriptedAgent, TestServer, enrol, poll, trusted_channel,
};
use filepull_trust::AgentKey;
use hyper::Method;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

/// Runs `filepull audit verify` with these options. Returns its exit code and its output.
async fn verify(data_dir: &Path, options: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = command(test_program("e2e-filepull")?);
    let options = ["audit", "verify"].iter().chain(options);
    let output = command.args(options).env("DATA_DIR", data_dir).output().await?;
    Ok((output.status.code(), String::from_utf8([output.stdout, output.stderr].concat())?))
}

/// Returns the newest audit record.
async fn newest(server: &TestServer) -> anyhow::Result<Value> {
    Ok(server.json("/api/v1/audit?limit=1").await?["items"][0].clone())
}

/// Returns the number of audit records with this action.
async fn count(server: &TestServer, action: &str) -> anyhow::Result<u64> {
    let page = server.json(&format!("/api/v1/audit?action={action}&limit=1")).await?;
    Ok(page["total"].as_u64().unwrap_or_default())
}

#[tokio::test]
async fn each_act_is_on_record_when_its_answer_arrives() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let mut client = server.connect("client4", &[7; 1000]).await?;
    let pull = json!({"client": "client4", "wait": "1m"});
    let created = server.post("/api/v1/transfers", &pull).await?.json()?;
    let transfer = created["id"].as_str().unwrap_or_default().to_owned();
    client.stop().await?;
    server.until_offline("client4").await?;
    // Requests in their order; for each the status, the action, and a member of the detail.
    let file = format!("/transfers/{transfer}/file");
    let range = [("range", "bytes=2-5")];
    let none: &[(&str, &str)] = &[];
    type Act<'a> = (Method, &'a str, &'a [(&'a str, &'a str)], u16, &'a str, (&'a str, Value));
    let acts: [Act<'_>; 10] = [
        (Method::GET, &file, none, 200, "download.retrieved", ("size", 1000.into())),
        (Method::GET, &file, &range, 206, "download.retrieved", ("range", "bytes 2-5/1000".into())),
        (
            Method::GET,
            "/clients/client4/file",
            none,
            200,
            "download.retrieved",
            ("range", Value::Null),
        ),
        (
            Method::GET,
            "/trigger?id=client4",
            none,
            409,
            "transfer.rejected",
            ("code", "client-offline".into()),
        ),
        (
            Method::GET,
            "/trigger?id=client9",
            none,
            404,
            "transfer.rejected",
            ("code", "client-unknown".into()),
        ),
        (
            Method::GET,
            "/trigger?id=client4&path=a.txt&queue=2h",
            none,
            202,
            "transfer.requested",
            ("path", "a.txt".into()),
        ),
        (
            Method::GET,
            "/trigger?id=client4&path=a.txt&queue=2h",
            none,
            202,
            "transfer.joined",
            ("fresh", false.into()),
        ),
        (
            Method::POST,
            "/trigger/client4?path=b.txt&queue=1h",
            none,
            202,
            "transfer.requested",
            ("queue_seconds", 3600.into()),
        ),
        (
            Method::POST,
            "/api/v1/transfers?client=client4&path=b.txt&queue=1h",
            &[("idempotency-key", "k")],
            200,
            "transfer.joined",
            ("has_key", true.into()),
        ),
        (
            Method::POST,
            "/clients/client4/cancel",
            none,
            200,
            "transfer.cancelled",
            ("transfer", Value::Null),
        ),
    ];
    for (method, path, headers, status, action, (member, value)) in acts {
        let before = newest(&server).await?["seq"].as_u64().unwrap_or_default();
        let response = server.send(method, path, headers, "").await?;
        assert_eq!(response.status, status, "{path}: {}", response.text());
        let record = newest(&server).await?;
        assert_eq!((&record["seq"], &record["action"]), (&(before + 1).into(), &action.into()));
        if action != "transfer.cancelled" {
            assert_eq!(record["detail"][member], value, "{record}");
        }
        let request_id = response.headers["x-request-id"].to_str()?;
        assert_eq!(
            (&record["request_id"], &record["actor"]),
            (&request_id.into(), &"127.0.0.1".into())
        );
    }
    // What sends no bytes is no retrieval.
    let before = newest(&server).await?;
    server.send(Method::HEAD, &file, &[], "").await?;
    server.send(Method::GET, &file, &[("range", "bytes=9999-")], "").await?;
    assert_eq!(newest(&server).await?, before);
    Ok(())
}

#[tokio::test]
async fn an_act_without_its_record_is_not_done() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let _client = server.connect("client4", b"data").await?;
    server.pull("client4").await?;
    let file = "/clients/client4/file";
    let records = server.data_dir().join(".filepull");
    let aside = server.data_dir().join("aside");
    fs::rename(&records, &aside)?;
    let rejected = server.json("/api/v1/clients/client4/file").await?;
    assert_eq!(rejected["code"], "records-failed");
    assert_eq!(server.get("/trigger?id=client4").await?.status, 503);
    fs::rename(&aside, &records)?;
    assert_eq!(server.get(file).await?.text(), "data");
    Ok(())
}

#[tokio::test]
async fn a_killed_server_loses_no_record_of_an_answered_act() -> anyhow::Result<()> {
    let mut server = TestServer::start_process().await?;
    let _client = server.connect("client4", b"data").await?;
    server.pull("client4").await?;
    for round in 0..3 {
        let mut requests = tokio::task::JoinSet::new();
        let http = HttpClient::new(server.http());
        for n in 0..20 {
            let http = http.clone();
            let path = match n % 2 {
                0 => "/clients/client4/file".to_owned(),
                _ => format!("/trigger?id=client4&path={round}-{n}.txt&queue=1h"),
            };
            requests.spawn(async move { http.get(&path).await });
        }
        let mut answered = Vec::new();
        while answered.len() < 7
            && let Some(response) = requests.join_next().await
        {
            answered.push(response??);
        }
        server.kill().await?;
        while let Some(response) = requests.join_next().await {
            answered.extend(response?.ok());
        }
        server.start_server().await?;
        let lines = server.get("/audit?format=jsonl").await?.text().to_owned();
        for response in answered {
            let id = response.headers["x-request-id"].to_str()?;
            assert!(lines.contains(id), "the audit has no request {id}: {}", response.text());
        }
        let (code, text) = verify(&server.data_dir(), &[]).await?;
        assert_eq!(code, Some(0), "{text}");
    }
    Ok(())
}

/// A data folder with a copy of the records of a server.
struct RecordsCopy(TempDir);

impl RecordsCopy {
    fn of(server: &TestServer) -> anyhow::Result<Self> {
        let copy = TempDir::new()?;
        fs::create_dir(copy.path().join(".filepull"))?;
        for name in ["records.db", "records.db-wal"] {
            let from = server.data_dir().join(".filepull").join(name);
            if from.exists() {
                fs::copy(from, copy.path().join(".filepull").join(name))?;
            }
        }
        Ok(Self(copy))
    }

    fn change(&self, sql: &str) -> anyhow::Result<()> {
        let connection = Connection::open(self.0.path().join(".filepull/records.db"))?;
        Ok(connection.execute_batch(sql)?)
    }

    async fn verify(&self, options: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
        verify(self.0.path(), options).await
    }
}

#[tokio::test]
async fn verify_names_the_first_record_that_was_changed_removed_or_inserted() -> anyhow::Result<()>
{
    let server = TestServer::start().await?;
    let _client = server.connect("client4", b"data").await?;
    for _ in 0..5 {
        server.pull("client4").await?;
        server.get("/clients/client4/file").await?;
    }
    let (code, text) = verify(&server.data_dir(), &[]).await?;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("11 records: the chain is complete.\nlast      11:"), "{text}");

    let next = "UPDATE audit SET seq = -seq - 1 WHERE seq >= 6; UPDATE audit SET seq = -seq WHERE seq < 0;";
    let insert = "INSERT INTO audit SELECT 6, at, 'stranger', address, action, subject, detail, \
                  request, digest, digest FROM audit WHERE seq = 5;";
    let cases = [
        ("UPDATE audit SET actor = 'stranger' WHERE seq = 4", "changed   record 4 was changed"),
        ("UPDATE audit SET at = at + 1 WHERE seq = 11", "changed   record 11 was changed"),
        ("UPDATE audit SET digest = 'x' WHERE seq = 2", "changed   record 2 was changed"),
        ("DELETE FROM audit WHERE seq = 1", "removed   record 1 was removed"),
        ("DELETE FROM audit WHERE seq IN (7, 8)", "removed   records 7 to 8 were removed"),
        (&format!("{next}{insert}"), "inserted  record 6 was inserted"),
    ];
    for (sql, expected) in cases {
        let copy = RecordsCopy::of(&server)?;
        copy.change(sql)?;
        let (code, text) = copy.verify(&[]).await?;
        assert_eq!((code, text.lines().next()), (Some(1), Some(expected)), "{sql}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_note_of_the_last_record_shows_that_the_tail_was_cut_or_written_again()
-> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let _client = server.connect("client4", b"data").await?;
    server.pull("client4").await?;
    server.get("/clients/client4/file").await?;
    let (_, text) = verify(&server.data_dir(), &["--json"]).await?;
    let report: Value = serde_json::from_str(&text)?;
    assert_eq!((&report["intact"], &report["records"]), (&true.into(), &3.into()));
    let digest = report["last"]["digest"].as_str().unwrap_or_default();
    let note = format!("3:{digest}");
    server.get("/clients/client4/file").await?;
    let (code, text) = verify(&server.data_dir(), &["--expect", &note]).await?;
    assert_eq!(code, Some(0), "{text}");

    let copy = RecordsCopy::of(&server)?;
    copy.change("DELETE FROM audit WHERE seq >= 3")?;
    let (code, text) = copy.verify(&[]).await?;
    assert_eq!(code, Some(0), "a chain does not show that its end was cut: {text}");
    let (code, text) = copy.verify(&["--expect", &note]).await?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the audit ends before the record of --expect"), "{text}");

    // A program that can write the records computes the digests again.
    let copy = RecordsCopy::of(&server)?;
    rewrite_from(&copy, 3)?;
    let (code, text) = copy.verify(&[]).await?;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = copy.verify(&["--expect", &note]).await?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("has another digest now"), "{text}");
    Ok(())
}

/// Changes the actor of the records from `first` on, and computes their digests again.
fn rewrite_from(copy: &RecordsCopy, first: u64) -> anyhow::Result<()> {
    let connection = Connection::open(copy.0.path().join(".filepull/records.db"))?;
    let mut statement = connection.prepare("SELECT * FROM audit ORDER BY seq")?;
    let read = |row: &rusqlite::Row<'_>| {
        let millis: i64 = row.get("at")?;
        let digest = |text: String| Digest::parse(&text).unwrap_or(Digest::of(b""));
        Ok(AuditRecord {
            seq: row.get::<_, i64>("seq")?.cast_unsigned(),
            content: AuditContent {
                at: chrono::DateTime::from_timestamp_millis(millis).unwrap_or_default(),
                actor: row.get("actor")?,
                address: row.get("address")?,
                action: row.get("action")?,
                subject: row.get("subject")?,
                detail: row.get("detail")?,
                request: row.get("request")?,
            },
            previous: digest(row.get("previous")?),
            digest: digest(row.get("digest")?),
        })
    };
    let records = statement.query_map((), read)?.collect::<Result<Vec<_>, _>>()?;
    let mut head = ChainHead::empty();
    for record in records {
        if record.seq < first {
            head = ChainHead { seq: record.seq, digest: record.digest };
            continue;
        }
        let content = AuditContent { actor: "stranger".to_owned(), ..record.content };
        let written = head.append(content);
        connection.execute(
            "UPDATE audit SET actor = 'stranger', previous = ?2, digest = ?3 WHERE seq = ?1",
            (written.seq.cast_signed(), written.previous.to_string(), written.digest.to_string()),
        )?;
    }
    Ok(())
}

#[tokio::test]
async fn another_program_follows_the_audit_as_json_lines() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let _client = server.connect("client4", b"data").await?;
    server.pull("client4").await?;
    for _ in 0..3 {
        server.get("/clients/client4/file").await?;
    }
    let lines = |response: &HttpResponse| -> anyhow::Result<Vec<Value>> {
        response.text().lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    };
    let accept = [("accept", "application/x-ndjson")];
    let whole = server.send(Method::GET, "/api/v1/audit", &accept, "").await?;
    assert_eq!(whole.headers["content-type"], "application/x-ndjson");
    let seqs: Vec<_> = lines(&whole)?.iter().map(|record| record["seq"].clone()).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5], "oldest first");
    let next = server.get("/api/v1/audit?order=asc&after=3&format=jsonl&limit=1").await?;
    let seqs: Vec<_> = lines(&next)?.iter().map(|record| record["seq"].clone()).collect();
    assert_eq!(seqs, [4]);
    let filtered =
        server.get("/audit?action=download.retrieved&subject=client4&format=jsonl").await?;
    assert_eq!(lines(&filtered)?.len(), 3);
    // The first page of people is the newest one.
    let page = server.json("/audit?limit=2").await?;
    assert_eq!((&page["items"][0]["seq"], &page["next_cursor"]), (&5.into(), &"4".into()));
    let text = server.get("/audit").await?;
    assert!(text.text().starts_with("SEQ  TIME"), "{}", text.text());

    let folder = TempDir::new()?;
    let file = folder.path().join("audit.jsonl");
    fs::write(&file, whole.text())?;
    let option = file.display().to_string();
    let (code, text) = verify(folder.path(), &["--from", &option]).await?;
    assert_eq!((code, text.starts_with("5 records: ")), (Some(0), true), "{text}");
    fs::write(&file, whole.text().replace("client4", "client5"))?;
    let (code, text) = verify(folder.path(), &["--from", &option]).await?;
    assert_eq!((code, text.starts_with("changed ")), (Some(1), true), "{text}");
    let part: String = whole.text().lines().skip(2).map(|line| format!("{line}\n")).collect();
    fs::write(&file, part)?;
    let (code, text) = verify(folder.path(), &["--from", &option]).await?;
    assert_eq!((code, text.starts_with("3 records: ")), (Some(0), true), "{text}");
    Ok(())
}

#[tokio::test]
async fn changed_settings_are_recorded_at_the_start() -> anyhow::Result<()> {
    let mut server = TestServer::start().await?;
    server.stop().await?;
    server.start_server().await?;
    assert_eq!(count(&server, "settings.changed").await?, 1, "only the first start");
    server.stop().await?;
    server.server_setting("MAX_RUNNING", "7");
    server.start_server().await?;
    let changed = newest(&server).await?;
    assert_eq!(changed["action"], "settings.changed");
    assert_eq!(changed["detail"]["changed"], json!({"max_running": {"from": "20", "to": "7"}}));
    Ok(())
}

#[tokio::test]
async fn a_flood_of_rejections_is_ten_records_and_a_count() -> anyhow::Result<()> {
    let server = TestServer::secure(&[]).await?;
    let stranger = HttpClient::new(server.http());
    let n_rejected = 60;
    for _ in 0..n_rejected {
        let rejected = stranger.get("/clients").await?;
        assert!([401, 429].contains(&rejected.status), "{}", rejected.text());
    }
    let lines = async || -> anyhow::Result<Vec<Value>> {
        let response = server.get("/api/v1/audit?format=jsonl").await?;
        assert_eq!(response.status, 200, "{}", response.text());
        response.text().lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    };
    let total = async || -> anyhow::Result<Option<(u64, u64)>> {
        let records = lines().await?;
        let one_by_one =
            records.iter().filter(|record| record["action"] == "request.rejected").count() as u64;
        let counted: u64 = records
            .iter()
            .filter(|record| record["action"] == "rejections.omitted")
            .filter_map(|record| record["detail"]["count"].as_u64())
            .sum();
        Ok(Some((one_by_one, counted)).filter(|_| one_by_one + counted == n_rejected))
    };
    let (one_by_one, _) = poll("every rejection is counted", total).await?;
    assert!((10..60).contains(&one_by_one), "{one_by_one} records");
    let first = lines().await?.into_iter().find(|record| record["action"] == "request.rejected");
    assert_eq!(first.unwrap_or_default()["detail"]["code"], "signed-out");
    Ok(())
}

#[tokio::test]
async fn each_act_of_an_administrator_is_on_record_when_its_answer_arrives() -> anyhow::Result<()> {
    let server = TestServer::secure(&[]).await?;
    let group = json!({"group": "tills", "uses": 9, "approve": true});
    let invite = server.invite(&group).await?;
    let expect = async |action: &str, subject: Option<&str>| -> anyhow::Result<Value> {
        let record = newest(&server).await?;
        assert_eq!(record["action"], action, "{record}");
        if let Some(subject) = subject {
            assert_eq!(record["subject"], subject, "{record}");
        }
        Ok(record)
    };
    let record = expect("invite.created", None).await?;
    assert_eq!(record["actor"], ADMIN);
    let secret: String = invite.secret().as_bytes().iter().map(|b| format!("{b:02x}")).collect();
    let text = invite.to_string();
    assert!(!record.to_string().contains(&secret) && !record.to_string().contains(&text));

    let key = AgentKey::generate();
    let channel = trusted_channel(&invite, Some(&key)).await?;
    let enrolled = enrol(channel, &invite, "client4").await?;
    assert!(enrolled.is_ok_and(|enrolled| enrolled.pending));
    let record = expect("client.enrolled", Some("client4")).await?;
    assert!(record.to_string().contains(&key.fingerprint().to_string()), "{record}");
    let channel = trusted_channel(&invite, Some(&AgentKey::generate())).await?;
    assert!(ScriptedAgent::open(channel, "client4", LIMIT).await?.is_err());
    let record = expect("agent.rejected", Some("client4")).await?;
    assert_eq!(record["detail"]["reason"], "unknown_key");
    let other = server.invite_client("client5").await?;
    let channel = trusted_channel(&other, Some(&AgentKey::generate())).await?;
    assert!(enrol(channel, &other, "client6").await?.is_err());
    expect("agent.rejected", Some("client6")).await?;

    assert_eq!(server.approve("client4").await?.status, 200);
    expect("client.approved", Some("client4")).await?;
    let channel = trusted_channel(&invite, Some(&key)).await?;
    let _agent = ScriptedAgent::open(channel, "client4", LIMIT).await?;
    let rotated = server.send(Method::POST, "/api/v1/clients/client4/rotate", &[], "").await?;
    assert!(rotated.status < 300, "{}", rotated.text());
    expect("key.rotation_requested", Some("client4")).await?;
    let steps =
        [("rotate", "ca.rotated"), ("switch?force", "ca.switched"), ("retire?force", "ca.retired")];
    for (step, action) in steps {
        let answer = server.send(Method::POST, &format!("/api/v1/ca/{step}"), &[], "").await?;
        assert!(answer.status < 300, "{}", answer.text());
        expect(action, None).await?;
    }
    assert_eq!(server.forget("client4").await?.status, 204);
    expect("client.forgotten", Some("client4")).await?;

    server.create_token("nightly", Role::Viewer, &[], None)?;
    let added = async || {
        let record = newest(&server).await?;
        Ok(Some(record).filter(|record| record["detail"]["added"] == json!(["nightly"])))
    };
    let record = poll("the new token is on record", added).await?;
    assert_eq!((&record["action"], &record["actor"]), (&"tokens.changed".into(), &"server".into()));
    let (code, text) = verify(&server.data_dir(), &[]).await?;
    assert_eq!(code, Some(0), "{text}");
    Ok(())
}
