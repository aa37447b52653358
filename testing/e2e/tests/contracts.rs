//! What other programs and people rely on, as snapshots: a change to any of it shows in review.
//!
//! `cargo insta review` shows each difference and accepts it; `INSTA_UPDATE=always` accepts all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use filepull_testkit::{TestServer, test_data};
use hyper::Method;
use insta::assert_snapshot;
use regex::Regex;
use serde_json::Value;

/// Values that differ from run to run, and what a snapshot shows instead.
const MASKS: [(&str, &str); 9] = [
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "[id]"),
    (r"download-\d{8}-\d{6}(?:-\d+)?", "download-[time]"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?Z?(?: UTC)?", "[time]"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:[port]"),
    (r"\b(?:under )?\d+(?:\.\d+)? (?:ms|s|min)\b", "[duration]"),
    (r" \(\d+(?:\.\d+)? [KMGT]?i?B/s\)", ""),
    (r"/tmp/[^/\s]+", "[folder]"),
    // Columns are as wide as the values that are masked.
    (r"(?P<text>\S)  +", "$text  "),
    (r"(?m) +$", ""),
];

/// JSON fields whose values depend on the machine.
const MACHINE_FIELDS: [&str; 11] = [
    "free_bytes",
    "hostname",
    "os",
    "arch",
    "round_trip_ms",
    "bytes_per_second",
    "eta_seconds",
    "version",
    "uptime_seconds",
    "writes",
    "copies",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn masked(text: &str) -> String {
    let replace = |text: String, (pattern, shown): &(&str, &str)| {
        let pattern = Regex::new(pattern).expect("a mask is a valid pattern");
        pattern.replace_all(&text, *shown).into_owned()
    };
    MASKS.iter().fold(text.to_owned(), replace)
}

/// Returns `value` with the fields of the machine replaced by their types.
fn without_machine(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(key, value)| {
                    let of_machine = MACHINE_FIELDS.contains(&key.as_str()) && !value.is_null();
                    let shown =
                        if of_machine { "[of the machine]".into() } else { without_machine(value) };
                    (key, shown)
                })
                .collect(),
        ),
        Value::Array(items) => items.into_iter().map(without_machine).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

/// A server with one client that has sent its file, and one client that is offline.
async fn server_with_a_download() -> anyhow::Result<TestServer> {
    let server = TestServer::start().await?;
    let mut offline = server.connect("client1", &test_data("client1", 1000)).await?;
    offline.stop().await?;
    server.until_offline("client1").await?;
    Ok(server)
}

#[tokio::test]
async fn the_json_of_the_api() -> anyhow::Result<()> {
    let server = server_with_a_download().await?;
    let _client = server.connect("client4", &test_data("client4", 100_000)).await?;
    let created = server
        .send(
            Method::POST,
            "/api/v1/transfers",
            &[("content-type", "application/json"), ("prefer", "wait=60")],
            r#"{"client":"client4"}"#,
        )
        .await?;
    let id = created.json()?["id"].as_str().unwrap_or_default().to_owned();
    let mut seen = String::new();
    let body = serde_json::to_string_pretty(&without_machine(created.json()?))?;
    writeln!(seen, "POST /api/v1/transfers -> {}\n{body}\n", created.status)?;
    let paths = [
        "/api/v1/server".to_owned(),
        "/api/v1/clients".to_owned(),
        "/api/v1/clients/client4".to_owned(),
        "/api/v1/clients/client9".to_owned(),
        "/api/v1/transfers".to_owned(),
        format!("/api/v1/transfers/{id}"),
        "/api/v1/transfers/not-an-id".to_owned(),
        "/api/v1/transfers?state=unknown".to_owned(),
        "/api/v1/nowhere".to_owned(),
    ];
    for path in paths {
        let response = server.get(&path).await?;
        let body = serde_json::to_string_pretty(&without_machine(response.json()?))?;
        writeln!(seen, "GET {path} -> {}\n{body}\n", response.status)?;
    }
    assert_snapshot!("api", masked(&seen));
    Ok(())
}

#[tokio::test]
async fn the_text_of_the_pages() -> anyhow::Result<()> {
    let server = server_with_a_download().await?;
    let _client = server.connect("client4", &test_data("client4", 100_000)).await?;
    let mut seen = String::new();
    let paths = [
        "/trigger?id=client4&wait=60s",
        "/",
        "/trigger",
        "/trigger?id=client9",
        "/trigger?id=cleint4",
        "/trigger?id=client1",
        "/trigger?id=client1&queue=1h",
        "/trigger?id=client4&path=/etc/passwd",
        "/trigger?id=client4&nonsense=1",
        "/clients",
        "/clients/client1",
        "/clients/client4",
        "/transfers",
        "/livez",
        "/readyz",
        "/nowhere",
    ];
    for path in paths {
        let response = server.get(path).await?;
        writeln!(seen, "GET {path} -> {}\n{}\n", response.status, response.text().trim_end())?;
    }
    assert_snapshot!("pages", masked(&seen));
    Ok(())
}

#[tokio::test]
async fn the_catalogue_of_problems() -> anyhow::Result<()> {
    let server = TestServer::start().await?;
    assert_snapshot!("problems", server.get("/problems").await?.text());
    Ok(())
}

#[test]
fn the_help_of_both_programs() -> anyhow::Result<()> {
    let mut seen = String::new();
    let server = env!("CARGO_BIN_EXE_e2e-filepull");
    let agent = env!("CARGO_BIN_EXE_e2e-filepull-agent");
    let calls: [(&str, &[&str]); 9] = [
        (server, &["--help"]),
        (server, &["server", "--help"]),
        (server, &["demo", "--help"]),
        (server, &["health", "--help"]),
        (server, &["verify", "--help"]),
        (server, &["token", "create", "--help"]),
        (server, &["token", "list", "--help"]),
        (server, &["token", "revoke", "--help"]),
        (agent, &["--help"]),
    ];
    for (program, arguments) in calls {
        let mut command = std::process::Command::new(program);
        let output = command.args(arguments).env_clear().env("COLUMNS", "100").output()?;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let name = Path::new(program).file_name().unwrap_or_default().display();
        let help = String::from_utf8(output.stdout)?;
        writeln!(seen, "== {name} {}\n{help}", arguments.join(" "))?;
    }
    assert_snapshot!("help", masked(&seen));
    Ok(())
}

#[test]
fn the_messages_on_the_wire() -> anyhow::Result<()> {
    let proto = root().join("proto");
    let files = protox::compile(
        ["filepull/v1/control.proto", "filepull/v1/error.proto", "filepull/v1/transfer.proto"],
        [&proto],
    )?;
    let mut seen = String::new();
    for file in files.file.iter().filter(|file| file.package() == "filepull.v1") {
        for message in &file.message_type {
            writeln!(seen, "message {}", message.name())?;
            for field in &message.field {
                let kind = match field.type_name() {
                    "" => format!("{:?}", field.r#type()).to_lowercase(),
                    name => name.to_owned(),
                };
                let label = format!("{:?}", field.label()).to_lowercase();
                let oneof =
                    field.oneof_index.map_or(String::new(), |index| format!(" oneof {index}"));
                writeln!(seen, "  {} {} {label} {kind}{oneof}", field.number(), field.name())?;
            }
        }
        for values in &file.enum_type {
            writeln!(seen, "enum {}", values.name())?;
            for value in &values.value {
                writeln!(seen, "  {} {}", value.number(), value.name())?;
            }
        }
        for service in &file.service {
            for rpc in &service.method {
                let stream = |streams: bool| if streams { "stream " } else { "" };
                writeln!(
                    seen,
                    "rpc {}.{}({}{}) -> {}{}",
                    service.name(),
                    rpc.name(),
                    stream(rpc.client_streaming()),
                    rpc.input_type(),
                    stream(rpc.server_streaming()),
                    rpc.output_type(),
                )?;
            }
        }
    }
    assert_snapshot!("wire", seen);
    Ok(())
}

#[test]
fn the_events_of_the_log() {
    let mut events: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for file in rust_files(&root().join("crates")) {
        let text = fs::read_to_string(&file).expect("a source file is readable");
        let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (level, body) in log_calls(shipped) {
            let fields = fields(body);
            let Some(event) = fields.iter().find_map(|field| field.strip_prefix("event = ")) else {
                continue;
            };
            let is_field =
                |field: &&String| !field.starts_with("event = ") && !field.contains(": ");
            let names = fields.iter().filter(is_field).map(|field| field_name(field));
            let levels = events.entry(event.trim_matches('"').to_owned()).or_default();
            levels.entry(level.to_owned()).or_default().extend(names);
        }
    }
    let form = Regex::new(r"^[a-z][a-z_]*\.[a-z][a-z_]*$").expect("a valid pattern");
    let mut seen = String::new();
    for (event, levels) in &events {
        assert!(form.is_match(event), "{event} is not noun.verb_past in snake_case");
        assert_eq!(levels.len(), 1, "{event} has more than one level: {levels:?}");
        for (level, fields) in levels {
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            let line = format!("{event} {level} {}", fields.join(" "));
            let _ = writeln!(seen, "{}", line.trim_end());
        }
    }
    assert_snapshot!("events", seen);
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a source folder is readable") {
        let path = entry.expect("an entry is readable").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Returns the level and the arguments of each call of a log macro.
fn log_calls(text: &str) -> Vec<(&str, &str)> {
    let head = Regex::new(r"\b(error|warn|info|debug|trace)!\(").expect("a valid pattern");
    let calls = head.captures_iter(text).filter_map(|found| {
        let whole = found.get(0)?;
        let level = found.get(1)?;
        let rest = &text[whole.end()..];
        Some((level.as_str(), &rest[..end_of_arguments(rest)?]))
    });
    calls.collect()
}

/// Returns where the parenthesis that was opened before `text` closes.
fn end_of_arguments(text: &str) -> Option<usize> {
    let mut depth = 1;
    let mut in_string = false;
    let mut escaped = false;
    for (index, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            '(' if !in_string => depth += 1,
            ')' if !in_string => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(index);
        }
    }
    None
}

/// Returns the fields of a log call, without its message.
fn fields(body: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = body;
    while let Some(comma) = comma_of_depth_0(rest) {
        parts.push(rest[..comma].split_whitespace().collect::<Vec<_>>().join(" "));
        rest = &rest[comma + 1..];
    }
    parts.push(rest.split_whitespace().collect::<Vec<_>>().join(" "));
    let is_message = |part: &String| part.starts_with('"') || part.is_empty();
    let message = parts.iter().position(is_message).unwrap_or(parts.len());
    parts.truncate(message);
    parts
}

fn comma_of_depth_0(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut in_string = false;
    for (index, character) in text.char_indices() {
        match character {
            '"' => in_string = !in_string,
            '(' | '[' | '{' if !in_string => depth += 1,
            ')' | ']' | '}' if !in_string => depth -= 1,
            ',' if depth == 0 && !in_string => return Some(index),
            _ => {}
        }
    }
    None
}

/// Returns the name of a field: `error` of `error = %chain(error)` and of `%error`.
fn field_name(field: &str) -> String {
    let name = field.split(" = ").next().unwrap_or(field).trim_start_matches(['%', '?']);
    name.rsplit('.').next().unwrap_or(name).to_owned()
}
