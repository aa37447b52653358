//! The authority of a server is replaced while agents run, and no machine needs a visit.

#[path = "tls/peer.rs"]
#[allow(dead_code, reason = "the other tests of TLS use the rest")]
mod peer;

use filepull_testkit::{Strace, TestClient, TestServer, enrol, trusted_channel};
use filepull_trust::AgentKey;
use peer::connect;
use serde_json::{Value, json};

/// Creates a client that is enrolled, and connects its agent.
async fn enrolled(server: &TestServer, id: &str) -> anyhow::Result<TestClient> {
    let invite = server.invite(&json!({ "client": id })).await?.encode();
    server.client(id, id.as_bytes())?.setting("INVITE", &invite).connected().await
}

async fn step(server: &TestServer, name: &str, body: Value) -> anyhow::Result<Value> {
    server.post(&format!("/api/v1/ca/{name}"), &body).await?.success_json()
}

#[tokio::test]
async fn agents_follow_the_authority_and_one_that_was_off_comes_back() -> anyhow::Result<()> {
    let mut server = TestServer::with(&[("AGENT_AUTH", "invite")]).await?;
    let mut online = enrolled(&server, "online").await?;
    let mut off = enrolled(&server, "off").await?;
    off.stop().await?;
    server.until_offline("off").await?;
    step(&server, "rotate", json!({})).await?;
    // The agent that is online stores the pin; the other one is named.
    let one_lacks_it = |ca: &Value| ca["clients"]["without"] == json!(["off"]);
    let announced = server.until("/api/v1/ca", one_lacks_it).await?;
    assert_eq!(
        (&announced["state"], &announced["clients"]["with_pin"]),
        (&json!("announced"), &json!(1))
    );
    let refused = server.post("/api/v1/ca/switch", &json!({})).await?;
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("The new pin is missing: 1 enrolled client (off)."));
    step(&server, "switch", json!({ "force": true })).await?;
    server.pull("online").await?;
    let refused = server.post("/api/v1/ca/retire", &json!({})).await?;
    assert_eq!(refused.status, 409, "{}", refused.text());
    off.connect().await?;
    let all_have_it = |ca: &Value| ca["clients"]["without_pin"] == 0;
    server.until("/api/v1/ca", all_have_it).await?;
    step(&server, "retire", json!({})).await?;
    online.stop().await?;
    off.stop().await?;
    server.stop().await?;
    server.start_server().await?;
    for client in [&mut online, &mut off] {
        client.set("SERVER_ADDR", &server.grpc().to_string());
        client.connect().await?;
    }
    server.pull("online").await?;
    server.pull("off").await?;
    Ok(())
}

#[tokio::test]
async fn a_server_switches_by_itself_once_every_client_has_the_pin() -> anyhow::Result<()> {
    let server = TestServer::with(&[("AGENT_AUTH", "invite")]).await?;
    let _first = enrolled(&server, "client1").await?;
    let _second = enrolled(&server, "client2").await?;
    step(&server, "rotate", json!({})).await?;
    let switched = |ca: &Value| ca["state"] == "switched";
    let ca = server.until("/api/v1/ca", switched).await?;
    assert_eq!((&ca["clients"]["with_pin"], &ca["clients"]["without_pin"]), (&json!(2), &json!(0)));
    server.pull("client1").await?;
    Ok(())
}

#[tokio::test]
async fn the_old_authority_stays_while_an_invite_or_a_pending_client_needs_it() -> anyhow::Result<()>
{
    let server = TestServer::with(&[("AGENT_AUTH", "invite")]).await?;
    let group = json!({ "group": "tills", "uses": 2, "approve": true });
    let invite = server.invite(&group).await?;
    let pending = AgentKey::generate();
    let channel = trusted_channel(&invite, Some(&pending)).await?;
    enrol(channel, &invite, "till1").await?.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    step(&server, "rotate", json!({})).await?;
    server.until("/api/v1/ca", |ca: &Value| ca["state"] == "switched").await?;
    // An invite of now has both pins, and does not matter.
    server.invite(&json!({ "client": "client4" })).await?;
    let refused = server.post("/api/v1/ca/retire", &json!({})).await?;
    let expected =
        "1 client that no operator has approved; 1 open invite from before the rotation.";
    assert!(refused.status == 409 && refused.text().contains(expected), "{}", refused.text());
    step(&server, "retire", json!({ "force": true })).await?;
    Ok(())
}

/// The calls that make a step durable: of the files of the authority, and of the audit.
const DURABLE_CALLS: &str = "fsync,fdatasync,rename";

/// More calls than a step makes.
const MAX_CALLS: u32 = 30;

#[tokio::test]
async fn a_server_that_is_killed_at_any_call_of_a_step_keeps_its_agents() -> anyhow::Result<()> {
    let mut server = TestServer::process_with(&[("AGENT_AUTH", "invite")]).await?;
    // An agent that never connects, so that the server does not switch by itself.
    let (invite, _) = server.enrol("client4").await?;
    let old = invite.ca_pins();
    let mut n_kills = 0;
    for (step, body, before, after) in [
        ("rotate", json!({}), "steady", "announced"),
        ("switch", json!({ "force": true }), "announced", "switched"),
        ("retire", json!({ "force": true }), "switched", "steady"),
    ] {
        for call in 1..MAX_CALLS {
            let fault = format!("-e inject={DURABLE_CALLS}:signal=SIGKILL:when={call}");
            let args: Vec<&str> = fault.split(' ').collect();
            let pid = server.server()?.pid();
            let Some(strace) = Strace::attach(pid, &args).await? else {
                println!("skipped: no strace");
                return Ok(());
            };
            // Without an answer the step may have been done or not.
            let answer = server.post(&format!("/api/v1/ca/{step}"), &body).await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                strace.detach().await?;
                break;
            }
            drop(strace);
            n_kills += 1;
            drop(server.take_server()?);
            server.start_server().await?;
            let newest = server.invite(&json!({ "client": "client5" })).await?;
            connect(server.grpc(), newest.ca_pins(), None).await?;
            if step != "retire" {
                connect(server.grpc(), old, None).await?;
            }
            let state = server.json("/api/v1/ca").await?["state"].clone();
            assert!(state == before || state == after, "{step}, call {call}: {state}");
            if state == after {
                break;
            }
        }
    }
    assert!(6 < n_kills, "only {n_kills} kills");
    Ok(())
}
