//! The operator's commands against a server that a script plays: what they send, what they print, and
//! their exit codes.

use std::fs;
use std::net::SocketAddr;
use std::pin::pin;

use filepull_testkit::process::{command, test_program};
use filepull_testkit::soon;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// What a command printed and returned.
#[derive(Debug)]
struct CommandResult {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `filepull ARGS` with `settings` as its environment.
async fn filepull(args: &[&str], settings: &[(&str, &str)]) -> anyhow::Result<CommandResult> {
    let mut command = command(test_program("e2e-filepull")?);
    command.args(args).envs(settings.iter().copied());
    let output = soon("the command", command.output()).await??;
    Ok(CommandResult {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}

/// One request, as the server received it.
#[derive(Debug)]
struct RecordedRequest {
    head: String,
    body: Value,
}

/// A server that gives one answer.
struct ScriptedServer {
    listener: TcpListener,
    addr: SocketAddr,
}

impl ScriptedServer {
    async fn bind() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        Ok(Self { listener, addr })
    }

    /// Runs a command against this server, which answers with `status` and `answer`.
    async fn run(
        &self,
        args: &[&str],
        status: u16,
        answer: &str,
    ) -> anyhow::Result<(CommandResult, RecordedRequest)> {
        let server = format!("http://{}", self.addr);
        let settings = [("FILEPULL_SERVER", server.as_str()), ("FILEPULL_TOKEN", "fp_canary")];
        let mut running = pin!(filepull(args, &settings));
        let received = tokio::select! {
            received = self.serve(status, answer) => received?,
            finished = &mut running => anyhow::bail!("no request: {:?}", finished?),
        };
        Ok((running.await?, received))
    }

    async fn serve(&self, status: u16, answer: &str) -> anyhow::Result<RecordedRequest> {
        let (mut connection, _) = self.listener.accept().await?;
        let mut bytes = Vec::new();
        let (head, mut body) = loop {
            let mut block = vec![0; 65536];
            let n_read = connection.read(&mut block).await?;
            anyhow::ensure!(n_read != 0, "the command closed the connection");
            bytes.extend_from_slice(&block[..n_read]);
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break (String::from_utf8(bytes[..end].to_vec())?, bytes[end + 4..].to_vec());
            }
        };
        let header = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            lines
                .filter(|(found, _)| found.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
                .next()
        };
        let len: usize = header("content-length").unwrap_or("0").parse()?;
        let n_received = body.len();
        body.resize(len, 0);
        connection.read_exact(&mut body[n_received..]).await?;
        let response = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
            answer.len()
        );
        connection.write_all(response.as_bytes()).await?;
        connection.shutdown().await?;
        let body = if len == 0 { Value::Null } else { serde_json::from_slice(&body)? };
        Ok(RecordedRequest { head, body })
    }
}

#[tokio::test]
async fn an_invite_is_the_only_text_on_standard_output() -> anyhow::Result<()> {
    let server = ScriptedServer::bind().await?;
    let answer =
        json!({ "client": "client4", "invite": "fp1.abc", "expires_at": "2026-12-01T08:00:00Z" });
    let args = ["invite", "client4", "--label", "region=south", "--expires", "2h", "--replace"];
    let (finished, received) = server.run(&args, 201, &answer.to_string()).await?;
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), "fp1.abc\n"), "{finished:?}");
    assert!(
        finished.stderr.contains("client4 is valid once, until 2026-12-01T08:00:00Z"),
        "{finished:?}"
    );
    assert!(!finished.stderr.contains("fp1.abc"), "{finished:?}");
    assert!(received.head.starts_with("POST /api/v1/invites HTTP/1.1"), "{received:?}");
    assert!(received.head.contains("authorization: Bearer fp_canary"), "{received:?}");
    let expected = json!({
        "client": "client4", "labels": { "region": "south" }, "expires": "2h",
        "approve": false, "replace": true,
    });
    assert_eq!(received.body, expected);
    Ok(())
}

#[tokio::test]
async fn the_clients_of_a_group_wait_for_approval() -> anyhow::Result<()> {
    let server = ScriptedServer::bind().await?;
    let answer = json!({ "group": "tills", "invite": "fp1.abc" }).to_string();
    let args = ["invite", "--group", "tills", "--uses", "500"];
    let (finished, received) = server.run(&args, 201, &answer).await?;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let expected = json!({
        "group": "tills", "uses": 500, "labels": {}, "expires": "24h", "approve": true, "replace": false,
    });
    assert_eq!(received.body, expected);
    assert!(finished.stderr.contains("tills is valid for 500 clients"), "{finished:?}");
    Ok(())
}

#[tokio::test]
async fn a_list_is_sent_as_a_whole_and_answered_as_csv_or_json_lines() -> anyhow::Result<()> {
    let server = ScriptedServer::bind().await?;
    let folder = tempfile::tempdir()?;
    let list = folder.path().join("stores.csv");
    fs::write(&list, "id,region\nlyon-1,south\nlille-1,\n")?;
    let list = list.to_string_lossy();
    let items = json!({ "items": [
        { "client": "lyon-1", "invite": "fp1.a" }, { "client": "lille-1", "invite": "fp1.b" },
    ] });
    let (csv, received) = server.run(&["invite", "--from", &list], 201, &items.to_string()).await?;
    assert_eq!(csv.stdout, "id,invite\nlyon-1,fp1.a\nlille-1,fp1.b\n", "{csv:?}");
    assert_eq!(
        received.body["clients"],
        json!([
            { "client": "lyon-1", "labels": { "region": "south" } },
            { "client": "lille-1", "labels": {} },
        ])
    );
    let args = ["invite", "--from", &list, "--json"];
    let (lines, _) = server.run(&args, 201, &items.to_string()).await?;
    let parsed: Vec<Value> =
        lines.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(parsed.len(), 2);
    assert_eq!((&parsed[1]["id"], &parsed[1]["invite"]), (&json!("lille-1"), &json!("fp1.b")));
    Ok(())
}

#[tokio::test]
async fn a_rejected_client_of_a_list_is_named_with_its_line() -> anyhow::Result<()> {
    let server = ScriptedServer::bind().await?;
    let folder = tempfile::tempdir()?;
    let list = folder.path().join("stores.csv");
    fs::write(&list, "id\nlyon-1\nlille-1\n")?;
    let problem = json!({
        "code": "client-exists", "status": 409, "client": "lille-1",
        "detail": "lille-1 exists already.", "hint": "Add --replace.",
    });
    let args = ["invite", "--from", &list.to_string_lossy()];
    let (finished, _) = server.run(&args, 409, &problem.to_string()).await?;
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""), "{finished:?}");
    let expected = "stores.csv line 3: lille-1 exists already.\nAdd --replace.\n";
    assert!(finished.stderr.ends_with(expected), "{finished:?}");
    Ok(())
}

#[tokio::test]
async fn a_wrong_list_is_rejected_before_anything_is_sent() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let list = folder.path().join("stores.csv");
    fs::write(&list, "id\nlyon-1\na/b\nlyon-1\n")?;
    // Port 1: a request would fail with exit code 9.
    let settings = [("FILEPULL_SERVER", "http://127.0.0.1:1")];
    let finished = filepull(&["invite", "--from", &list.to_string_lossy()], &settings).await?;
    assert_eq!(finished.code, Some(2), "{finished:?}");
    for part in
        ["stores.csv line 3: \"a/b\" is not", "stores.csv line 4: lyon-1 is on line 2 already"]
    {
        assert!(finished.stderr.contains(part), "{finished:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_problem_is_a_message_for_people_or_json_for_scripts() -> anyhow::Result<()> {
    let server = ScriptedServer::bind().await?;
    let problem = json!({
        "code": "not-allowed", "status": 403, "detail": "Your token has the role viewer.",
        "hint": "This needs the role admin.", "request_id": "r_1",
    });
    let (text, _) = server.run(&["rotate", "client4"], 403, &problem.to_string()).await?;
    assert_eq!(text.code, Some(3), "{text:?}");
    assert_eq!(
        (text.stdout.as_str(), text.stderr.as_str()),
        ("", "filepull: Your token has the role viewer.\nThis needs the role admin.\n")
    );
    let args = ["rotate", "client4", "--json"];
    let (json, _) = server.run(&args, 403, &problem.to_string()).await?;
    assert_eq!((json.code, json.stdout.as_str()), (Some(3), ""), "{json:?}");
    assert_eq!(serde_json::from_str::<Value>(&json.stderr)?, problem);
    Ok(())
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_exit_code_nine() -> anyhow::Result<()> {
    for server in ["http://127.0.0.1:1", "http://no-such-host.invalid:8080"] {
        let finished = filepull(&["ca"], &[("FILEPULL_SERVER", server)]).await?;
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(9), ""), "{finished:?}");
        assert!(finished.stderr.contains(&format!("{server} cannot be reached: ")), "{finished:?}");
        assert!(finished.stderr.contains("Is the server running?"), "{finished:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_broken_connection_does_not_pretend_to_know_the_outcome() -> anyhow::Result<()> {
    let server = ScriptedServer::bind().await?;
    let address = format!("http://{}", server.addr);
    let args = ["forget", "client4", "--yes"];
    let settings = [("FILEPULL_SERVER", address.as_str())];
    let mut running = pin!(filepull(&args, &settings));
    // Also a second connection: the HTTP client may try again.
    let finished = loop {
        tokio::select! {
            finished = &mut running => break finished?,
            accepted = server.listener.accept() => drop(accepted?),
        }
    };
    assert_eq!(finished.code, Some(9), "{finished:?}");
    assert!(finished.stderr.contains("check before you repeat it"), "{finished:?}");
    Ok(())
}

#[tokio::test]
async fn forget_asks_a_person_and_needs_yes_from_a_script() -> anyhow::Result<()> {
    let server = ScriptedServer::bind().await?;
    let (finished, received) = server.run(&["forget", "client4", "--yes"], 204, "").await?;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(received.head.starts_with("DELETE /api/v1/clients/client4 HTTP/1.1"), "{received:?}");
    assert!(finished.stdout.starts_with("Forgotten: client4."), "{finished:?}");
    let finished =
        filepull(&["forget", "client4"], &[("FILEPULL_SERVER", "http://127.0.0.1:1")]).await?;
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("add --yes"), "{finished:?}");
    Ok(())
}

#[tokio::test]
async fn waiting_clients_are_listed_with_what_an_operator_compares() -> anyhow::Result<()> {
    let server = ScriptedServer::bind().await?;
    let fingerprint = format!("SHA256:{}", "ab".repeat(32));
    let client = |id: &str, pending: bool| json!({ "id": id, "pending": pending, "fingerprint": fingerprint, "remote_addr": "203.0.113.7", "agent": null });
    let page =
        json!({ "items": [client("till-7", true), client("client4", false)], "next_cursor": null });
    let (finished, received) = server.run(&["approve"], 200, &page.to_string()).await?;
    assert!(received.head.starts_with("GET /api/v1/clients?"), "{received:?}");
    assert_eq!(finished.stdout, format!("till-7  {fingerprint}  203.0.113.7  -\n"), "{finished:?}");
    let approved = client("till-7", false).to_string();
    let (finished, received) = server.run(&["approve", "till-7"], 200, &approved).await?;
    assert!(received.head.starts_with("POST /api/v1/clients/till-7/approve "), "{received:?}");
    assert!(
        finished.stdout.starts_with(&format!("Approved: till-7  {fingerprint}")),
        "{finished:?}"
    );
    let other = format!("SHA256:{}", "cd".repeat(32));
    let args = ["approve", "till-7", "--fingerprint", &other];
    let (finished, received) = server.run(&args, 200, &approved).await?;
    assert!(received.head.starts_with("GET /api/v1/clients/till-7 "), "{received:?}");
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""), "{finished:?}");
    Ok(())
}

#[tokio::test]
async fn a_token_is_never_on_a_command_line_and_never_printed() -> anyhow::Result<()> {
    let finished = filepull(&["ca", "--token", "fp_canary"], &[]).await?;
    assert_eq!(finished.code, Some(2), "{finished:?}");
    let settings = [("FILEPULL_SERVER", "http://127.0.0.1:1"), ("FILEPULL_TOKEN", "fp_canary two")];
    let finished = filepull(&["ca"], &settings).await?;
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("FILEPULL_TOKEN does not hold an API token"), "{finished:?}");
    assert!(!finished.stderr.contains("canary"), "{finished:?}");
    Ok(())
}

#[tokio::test]
async fn a_token_file_that_others_may_read_is_named() -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("ops.token");
    fs::write(&file, "fp_canary\n")?;
    let warned = async |mode: u32| -> anyhow::Result<bool> {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        let path = file.to_string_lossy();
        let settings = [("FILEPULL_SERVER", "http://127.0.0.1:1")];
        let finished = filepull(&["ca", "--token-file", &path], &settings).await?;
        Ok(finished.stderr.contains("other users may read the token"))
    };
    assert!(warned(0o644).await? && !warned(0o600).await?);
    Ok(())
}
