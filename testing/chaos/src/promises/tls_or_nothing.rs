//! S9: everything but TLS 1.3 with HTTP/2 is rejected by the listener for agents, and plain text off
//! loopback needs an explicit setting.

use std::net::SocketAddr;
use std::time::Duration;

use filepull_testkit::Process;
use futures::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::tool::{self, Requirement};
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "S9",
    statement: "TLS 1.3 or nothing: plain text only on loopback, or when it is set explicitly.",
    requirements: &[Requirement::Program("openssl", "openssl")],
    limit: Duration::from_secs(60),
    run: |trial| run(trial).boxed_local(),
};

const LIMIT: Duration = Duration::from_secs(15);
/// What OpenSSL prints when a handshake has succeeded.
const AGREED: &str = "Server certificate";

async fn run(trial: &Trial) -> anyhow::Result<()> {
    let mut scenario = Scenario::prepare_secure(trial, &[]).await?;
    scenario.start_server().await?;
    let grpc = scenario.server.grpc();
    let tried = try_handshakes(trial, grpc).await;
    scenario.explain("handshakes", tried)?;
    let tried = try_plain_text(trial, grpc).await;
    scenario.explain("plain text", tried)?;
    scenario.teardown().await?;
    starts_without_protection(trial).await
}

async fn try_handshakes(trial: &Trial, grpc: SocketAddr) -> anyhow::Result<()> {
    let good = openssl(trial, grpc, &["-tls1_3", "-alpn", "h2"]).await?;
    let agreed = good.contains(AGREED) && good.contains("ALPN protocol: h2");
    anyhow::ensure!(agreed, "TLS 1.3 with h2 is rejected: {good}");
    for args in [
        &["-tls1_2", "-alpn", "h2"][..],
        &["-tls1_1", "-alpn", "h2", "-cipher", "ALL:@SECLEVEL=0"],
        &["-tls1_3", "-alpn", "http/1.1"],
        &["-tls1_3", "-alpn", "spdy/3"],
        &["-tls1_2", "-fallback_scsv"],
    ] {
        let said = openssl(trial, grpc, args).await?;
        anyhow::ensure!(!said.contains(AGREED), "the server accepts {args:?}: {said}");
        trial.counters.fault("handshakes that must fail");
    }
    Ok(())
}

/// Returns what `openssl s_client` prints.
async fn openssl(trial: &Trial, grpc: SocketAddr, args: &[&str]) -> anyhow::Result<String> {
    let mut command = tool::command(&trial.sandbox, "openssl");
    command.args(["s_client", "-connect", &grpc.to_string()]).args(args);
    // With an empty input it ends after the handshake.
    let mut client = Process::spawn(command)?;
    let _ = timeout(LIMIT, client.ended()).await?;
    Ok(client.said().join("\n"))
}

/// Text without TLS gets no answer but an alert.
async fn try_plain_text(trial: &Trial, grpc: SocketAddr) -> anyhow::Result<()> {
    for request in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(grpc).await?;
        stream.write_all(request).await?;
        let mut said = Vec::new();
        let _ = timeout(LIMIT, stream.read_to_end(&mut said)).await?;
        let is_alert = said.first().is_none_or(|&kind| kind == 0x15);
        anyhow::ensure!(is_alert, "the server answers plain text: {said:?}");
        trial.counters.fault("connections without TLS");
    }
    Ok(())
}

/// A server on all addresses starts only with keys and tokens, or with an explicit setting.
async fn starts_without_protection(trial: &Trial) -> anyhow::Result<()> {
    let open = ("AGENT_AUTH", "open");
    let none = ("HTTP_AUTH", "none");
    let grpc = ("GRPC_ADDR", "0.0.0.0:0");
    let http = ("HTTP_ADDR", "0.0.0.0:0");
    let cases: [(&[(&str, &str)], bool); 5] = [
        (&[http], false),
        (&[http, grpc], false),
        (&[http, none], true),
        (&[grpc, open], true),
        (&[grpc], true),
    ];
    for (settings, starts) in cases {
        let mut scenario = Scenario::prepare(trial, settings).await?;
        let started = scenario.start_server().await;
        anyhow::ensure!(started.is_ok() == starts, "{settings:?}: {started:?}");
        if settings == [grpc] {
            let said =
                openssl(trial, local(scenario.server.grpc()), &["-tls1_3", "-alpn", "h2"]).await?;
            anyhow::ensure!(said.contains(AGREED), "off loopback agents need no TLS: {said}");
        }
        trial.counters.fault("starts off loopback");
        scenario.teardown().await?;
    }
    Ok(())
}

fn local(addr: SocketAddr) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], addr.port()))
}
