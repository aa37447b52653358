//! The attacks of one bad agent. Each repeats until it is aborted, and connects again when the server closes
//! its connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use filepull_testkit::process;
use tokio::time::sleep;

use crate::raw_http2::{
    CONTINUATION, DATA, END_HEADERS, HEADERS, PING, RST_STREAM, RawHttp2, SESSION, SETTINGS,
    UPLOAD, frame, message, request,
};
use crate::tool;
use crate::trial::Trial;

/// What a bad agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attack {
    OpenStreams,
    RapidResets,
    MalformedHeaders,
    Continuations,
    SettingsFlood,
    PingFlood,
    OneByteMessages,
    ZeroWindow,
    EndlessUpload,
    HugeLength,
    GzipBomb,
}

pub(super) const ATTACKS: &[Attack] = &[
    Attack::OpenStreams,
    Attack::RapidResets,
    Attack::MalformedHeaders,
    Attack::Continuations,
    Attack::SettingsFlood,
    Attack::PingFlood,
    Attack::OneByteMessages,
    Attack::ZeroWindow,
    Attack::EndlessUpload,
    Attack::HugeLength,
    Attack::GzipBomb,
];

/// Frames that are sent at once, and the pause after them: one agent behind one connection, not a machine
/// that takes all cores from the trial.
const BATCH: u32 = 64;
const PAUSE: Duration = Duration::from_millis(2);
/// The last stream of a connection. Then the attack starts again.
const MAX_STREAM: u32 = 40_001;
/// Identifier of SETTINGS_INITIAL_WINDOW_SIZE.
const INITIAL_WINDOW: u16 = 4;
/// Of the uncompressed bomb.
const BOMB_LEN: &str = "200M";

pub(super) async fn repeat(attack: Attack, server: SocketAddr, bomb: Vec<u8>) {
    loop {
        let _ = once(attack, server, &bomb).await;
        sleep(PAUSE).await;
    }
}

/// Attacks on one connection, until the server closes it.
async fn once(attack: Attack, server: SocketAddr, bomb: &[u8]) -> io::Result<()> {
    let zero_window = [(INITIAL_WINDOW, 0)];
    let settings = if attack == Attack::ZeroWindow { &zero_window[..] } else { &[] };
    let mut connection = RawHttp2::connect(server, settings).await?;
    let mut stream = 1;
    let upload = request(UPLOAD, &[]);
    let keeps_stream =
        matches!(attack, Attack::OneByteMessages | Attack::EndlessUpload | Attack::Continuations);
    if keeps_stream {
        let flags = if attack == Attack::Continuations { 0 } else { END_HEADERS };
        connection.send(&frame(HEADERS, flags, stream, &upload)).await?;
    }
    while stream < MAX_STREAM {
        let mut batch = Vec::new();
        for _ in 0..BATCH {
            batch.extend(next_frames(attack, stream, bomb));
            stream += if keeps_stream { 0 } else { 2 };
        }
        connection.send(&batch).await?;
        sleep(PAUSE).await;
    }
    Ok(())
}

fn next_frames(attack: Attack, stream: u32, bomb: &[u8]) -> Vec<u8> {
    let headers =
        |more: &[(&str, &str)]| frame(HEADERS, END_HEADERS, stream, &request(SESSION, more));
    match attack {
        Attack::OpenStreams | Attack::ZeroWindow => headers(&[]),
        Attack::RapidResets => {
            [headers(&[]), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
        }
        // An upper-case name is malformed (RFC 9113, section 8.2).
        Attack::MalformedHeaders => headers(&[("Upper-Case", "x")]),
        Attack::Continuations => frame(CONTINUATION, 0, stream, &request(SESSION, &[])),
        Attack::SettingsFlood => frame(SETTINGS, 0, 0, &[]),
        Attack::PingFlood => frame(PING, 0, 0, &[0; 8]),
        Attack::OneByteMessages => frame(DATA, 0, stream, &[0]),
        Attack::EndlessUpload => frame(DATA, 0, stream, &message(false, 0, &[])),
        Attack::HugeLength => {
            let claim = message(false, u32::MAX, b"x");
            [headers(&[]), frame(DATA, 0, stream, &claim)].concat()
        }
        Attack::GzipBomb => {
            let part = &bomb[..bomb.len().min(16_000)];
            let claim = message(true, u32::try_from(part.len()).unwrap_or_default(), part);
            [headers(&[("grpc-encoding", "gzip")]), frame(DATA, 0, stream, &claim)].concat()
        }
    }
}

/// Returns the start of 200 MB of zeros, compressed.
pub(super) async fn gzip_bomb(trial: &Trial) -> anyhow::Result<Vec<u8>> {
    let file = trial.sandbox.folder().join("bomb.gz");
    let mut command = tool::command(&trial.sandbox, "sh");
    let script = format!("head -c {BOMB_LEN} /dev/zero | gzip -1 >'{}'", file.display());
    command.arg("-c").arg(script);
    process::finish(command, Duration::from_secs(30)).await?;
    Ok(std::fs::read(file)?)
}
