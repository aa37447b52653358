//! A receipt proves what left an agent: it is checked before the file is published, and later without a
//! server.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use filepull_core::file_digest::Blake3;
use filepull_core::source::{Consistency, Source};
use filepull_proto::v1::upload_response::Kind as Response;
use filepull_proto::v1::{ErrorCode, StartTransfer};
use filepull_testkit::process::{command, test_program};
use filepull_testkit::{ScriptedAgent, ScriptedUpload, TestServer, trusted_channel};
use filepull_trust::AgentKey;
use filepull_trust::receipt::{ConsistencyClaims, Receipt, ReceiptClaims, SourceClaims};
use serde_json::{Value, json};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

/// Runs `filepull receipt verify`. Returns its exit code and its output.
async fn verify(
    file: &Path,
    receipt: &Path,
    options: &[&str],
) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = command(test_program("e2e-filepull")?);
    command.args(["receipt", "verify"]).args([file, receipt]).args(options);
    let output = command.output().await?;
    Ok((output.status.code(), String::from_utf8([output.stdout, output.stderr].concat())?))
}

#[tokio::test]
async fn a_receipt_verifies_the_file_and_nothing_else() -> anyhow::Result<()> {
    let server = TestServer::secure(&[]).await?;
    let _client = server.connect_enrolled("client4", b"what the till sold").await?;
    let pull = json!({"client": "client4", "wait": "1m"});
    let done = server.post("/api/v1/transfers", &pull).await?.json()?;
    let id = done["id"].as_str().unwrap_or_default();
    let response = server.get(&format!("/api/v1/transfers/{id}/receipt")).await?;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.headers["content-type"], "application/jose");

    let folder = TempDir::new()?;
    let file = folder.path().join("menu.txt");
    let receipt = folder.path().join("menu.jws");
    fs::write(&file, server.get(&format!("/transfers/{id}/file")).await?.body)?;
    fs::write(&receipt, response.text())?;
    let Receipt { claims, fingerprint } = Receipt::verify(&response.text())?;
    assert_eq!((claims.iss.as_str(), claims.transfer.as_str()), ("client4", id));
    assert_eq!((claims.size, &*claims.consistency.method), (18, "double-read"));
    let key = fingerprint.to_string();
    let (code, text) = verify(&file, &receipt, &["--key", &key]).await?;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("valid: the file is what the agent signed"), "{text}");

    let other = AgentKey::generate().fingerprint().to_string();
    let (code, text) = verify(&file, &receipt, &["--key", &other, "--json"]).await?;
    let report: Value = serde_json::from_str(&text)?;
    assert_eq!((code, &report["valid"], &report["key"]), (Some(1), &false.into(), &key.into()));
    for position in [0, 40, response.text().len() - 1] {
        let mut changed = response.body.to_vec();
        changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
        fs::write(&receipt, changed)?;
        assert_eq!(verify(&file, &receipt, &[]).await?.0, Some(1), "byte {position}");
    }
    fs::write(&receipt, response.text())?;
    fs::write(&file, b"what the till sole")?;
    let (code, text) = verify(&file, &receipt, &[]).await?;
    assert_eq!((code, text.contains("not valid: ")), (Some(1), true), "{text}");
    assert_eq!(verify(&folder.path().join("none"), &receipt, &[]).await?.0, Some(2));
    Ok(())
}

#[tokio::test]
async fn an_agent_without_a_key_has_no_receipt() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    let _client = server.connect("client4", b"data").await?;
    let pull = json!({"client": "client4", "wait": "1m"});
    let done = server.post("/api/v1/transfers", &pull).await?.json()?;
    let url = |transfer: &Value| {
        format!("/api/v1/transfers/{}/receipt", transfer["id"].as_str().unwrap_or_default())
    };
    let missing = server.get(&url(&done)).await?;
    assert_eq!((missing.status, &missing.json()?["code"]), (404, &"receipt-missing".into()));
    let waiting = json!({"client": "client4", "path": "a.txt", "queue": "1h", "fresh": true});
    drop(_client);
    server.until_offline("client4").await?;
    let waiting = server.post("/api/v1/transfers", &waiting).await?.json()?;
    let active = server.get(&url(&waiting)).await?;
    assert_eq!((active.status, &active.json()?["code"]), (409, &"transfer-active".into()));
    Ok(())
}

fn receipt(order: &StartTransfer, file: &[u8], key: &AgentKey) -> String {
    let source = Source { name: "data.txt".into(), size: file.len() as u64, modified_ns: 0 };
    let claims = ReceiptClaims {
        iss: "client4".to_owned(),
        transfer: order.transfer_id.clone(),
        attempt: order.attempt,
        path: None,
        size: file.len() as u64,
        digests: ReceiptClaims::digests_of(Blake3::of(file)),
        source: SourceClaims::from(&source),
        consistency: ConsistencyClaims::unchanged(Consistency::DoubleRead),
        requested_by: order.requested_by.clone(),
        iat: 0,
    };
    claims.sign(key)
}

/// Waits for the last response to an upload.
async fn end(mut upload: ScriptedUpload) -> anyhow::Result<Response> {
    loop {
        match upload.response(LIMIT).await? {
            Some(Response::Ack(_)) => {}
            Some(end) => return Ok(end),
            None => anyhow::bail!("no answer"),
        }
    }
}

#[tokio::test]
async fn only_the_receipt_of_the_connections_key_publishes_the_file() -> anyhow::Result<()> {
    let server = TestServer::secure(&[]).await?;
    let (invite, key) = server.enrol("client4").await?;
    let channel = trusted_channel(&invite, Some(&key)).await?;
    let opened = ScriptedAgent::open(channel, "client4", LIMIT).await?;
    let mut agent = opened.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let created = server.post("/api/v1/transfers", &json!({"client": "client4"})).await?.json()?;
    let url = format!("/api/v1/transfers/{}", created["id"].as_str().unwrap_or_default());
    let order = agent.order().await?;
    let upload = agent.upload(&order, 0, 4).await?;
    upload.chunk(0, Bytes::from_static(b"data")).await?;
    upload.trailer_with(b"data", receipt(&order, b"data", &AgentKey::generate())).await?;
    let Response::Error(error) = end(upload).await? else { anyhow::bail!("published") };
    assert_eq!(error.code(), ErrorCode::Protocol, "{error:?}");
    assert!(server.downloads("client4")?.is_empty());

    let order = agent.order().await?;
    assert_eq!(order.offset, 4, "the received bytes stay");
    let upload = agent.upload(&order, 4, 4).await?;
    let signed = receipt(&order, b"data", &key);
    upload.trailer_with(b"data", signed.clone()).await?;
    let Response::Stored(_) = end(upload).await? else { anyhow::bail!("not published") };
    server.done(&url).await?;
    assert_eq!(server.get(&format!("{url}/receipt")).await?.text(), signed);
    Ok(())
}

/// Verifies with a JOSE library of another language. The environment variable `JOSE_PYTHON` names a Python
/// that has `joserfc` and `blake3`; without them there is nothing to compare with. `.ci/run` sets it.
#[tokio::test]
async fn a_jose_library_accepts_the_receipt_and_rejects_one_changed_byte() -> anyhow::Result<()> {
    let Some(python) = std::env::var_os("JOSE_PYTHON") else { return Ok(()) };
    let server = TestServer::secure(&[]).await?;
    let _client = server.connect_enrolled("client4", b"what the till sold").await?;
    let pull = json!({"client": "client4", "wait": "1m"});
    let done = server.post("/api/v1/transfers", &pull).await?.json()?;
    let id = done["id"].as_str().unwrap_or_default();
    let signed = server.get(&format!("/api/v1/transfers/{id}/receipt")).await?.text();
    let key = Receipt::verify(&signed)?.fingerprint.to_string();
    let folder = TempDir::new()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verify_receipt.py");
    let check = async |file: &[u8], receipt: &[u8]| {
        let paths = ["menu.txt", "menu.jws"].map(|name| folder.path().join(name));
        fs::write(&paths[0], file)?;
        fs::write(&paths[1], receipt)?;
        let mut library = command(&python);
        let output = library.arg(&script).args(&paths).arg(&key).output().await?;
        let ours = verify(&paths[0], &paths[1], &["--key", &key]).await?;
        assert_eq!(output.status.code(), ours.0, "{output:?} {ours:?}");
        anyhow::Ok(ours.0)
    };
    assert_eq!(check(b"what the till sold", signed.as_bytes()).await?, Some(0));
    assert_eq!(check(b"what the till sole", signed.as_bytes()).await?, Some(1));
    // In the header, in the payload and in the signature.
    for position in [20, signed.len() / 2, signed.len() - 20] {
        let mut changed = signed.clone().into_bytes();
        changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
        assert_eq!(check(b"what the till sold", &changed).await?, Some(1), "byte {position}");
    }
    Ok(())
}
