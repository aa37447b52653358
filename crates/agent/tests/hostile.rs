//! A hostile server: it requests what is not shared, while another program moves links and folders, and
//! it sends absurd numbers. The agent sends only what its settings share, and stays available.

#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod fake;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use fake::{CONTENT_LEN, FakeServer, FakeSession, order, welcome};
use filepull_proto::v1::agent_message::Kind as ToServer;
use filepull_proto::v1::server_message::Kind as FromServer;
use filepull_proto::v1::transfer_update::State;
use filepull_proto::v1::{self, ErrorCode, upload_response};
use rustix::fs::{CWD, Mode, RenameFlags, mknodat, renameat_with};
use tempfile::TempDir;

/// The content of a file that is not shared.
const CANARY: &str = "CANARY-2b7e151628aed2a6";

/// The content of a file that is shared.
const SHARED: &str = "shared content";

/// A folder that is not shared, with a canary under the names of shared files.
fn outside() -> TempDir {
    let outside = TempDir::new().unwrap();
    for name in ["canary", "a.log", "data.txt"] {
        fs::write(outside.path().join(name), CANARY).unwrap();
    }
    outside
}

/// Adds `logs/a.log`, which the agent shares.
fn add_logs(server: &FakeServer) {
    fs::create_dir(server.path("logs")).unwrap();
    fs::write(server.path("logs/a.log"), SHARED).unwrap();
}

fn request(path: &str) -> v1::StartTransfer {
    v1::StartTransfer { path: path.to_owned(), ..order(1) }
}

/// Paths that lead to the canary in one way or another, or to nothing.
fn hostile_paths(outside: &Path) -> Vec<String> {
    let canary = format!("{}/canary", outside.display());
    let folder = outside.file_name().unwrap().to_str().unwrap();
    let up = |n: usize| "../".repeat(n);
    let mut paths = vec![
        canary.clone(),
        format!("/{canary}"),
        format!("/proc/self/root{canary}"),
        format!("/proc/thread-self/root{canary}"),
        format!("file://{canary}"),
        canary.replace('/', "\\"),
        canary.replace('/', "\u{2215}"),
        canary.replace('/', "%2f"),
        format!("{canary}\0"),
        format!("logs/a.log\0{canary}"),
        format!("logs/a.log\n{canary}"),
        "/etc/passwd".to_owned(),
        "/dev/mem".to_owned(),
        "/proc/self/environ".to_owned(),
        "/dev/fd/3".to_owned(),
        "logs".to_owned(),
        "logs/".to_owned(),
        "logs/*.log".to_owned(),
        "logs/link.log".to_owned(),
        "logs/folder.log/canary".to_owned(),
        "logs/proc.log".to_owned(),
        "-rf".to_owned(),
        "~/canary".to_owned(),
        "$HOME/canary".to_owned(),
        "\u{202e}gol.a/sgol".to_owned(),
        "logs/\u{1b}[2J.log".to_owned(),
        "a/".repeat(500),
        "x".repeat(40_000),
    ];
    for n in 1..12 {
        for prefix in ["", "logs/", "/logs/", "./", "logs/./", "logs//"] {
            paths.push(format!("{prefix}{}{folder}/canary", up(n)));
            paths.push(format!("{prefix}{}{}", up(n), &canary[1..]));
        }
        paths.push(format!("logs/{}", up(n).replace("../", "..\\")) + "canary");
        paths.push(format!("logs/{}canary", up(n).replace("../", "%2e%2e/")));
        paths.push(format!("logs/{}canary", up(n).replace("../", "..%2f")));
        paths.push(format!("logs/{}canary", up(n).replace("../", "....//")));
        paths.push(format!("logs/{}canary", up(n).replace("../", "\u{ff0e}\u{ff0e}/")));
    }
    // Each known path with one character changed, by a fixed seed.
    let mut random = fastrand::Rng::with_seed(10);
    let n_known = paths.len();
    while paths.len() < 1000 {
        let known = &paths[random.usize(..n_known)];
        let mut chars: Vec<char> = known.chars().collect();
        let place = random.usize(..chars.len());
        chars[place] = *random.choice(&['/', '.', '\\', '\0', '*', '%', ' ', 'é']).unwrap();
        paths.push(chars.into_iter().collect());
    }
    paths
}

#[tokio::test]
async fn a_thousand_hostile_paths_are_rejected() {
    let state = TempDir::new().unwrap();
    let state_dir = state.path().to_owned();
    let mut server = FakeServer::start_with(|config| config.state_dir = Some(state_dir)).await;
    let outside = outside();
    add_logs(&server);
    symlink(outside.path().join("canary"), server.path("logs/link.log")).unwrap();
    symlink(outside.path(), server.path("logs/folder.log")).unwrap();
    symlink("/proc/self/environ", server.path("logs/proc.log")).unwrap();
    let (mut session, _) = server.open_session().await;
    let paths = hostile_paths(outside.path());
    assert_eq!(paths.len(), 1000);
    for path in paths {
        session.send(FromServer::Start(request(&path))).await;
        let State::Failed(error) = session.answer().await else { panic!("accepted {path:?}") };
        assert!(!error.message.contains(CANARY), "{error:?}");
    }
    server.stop.cancel();
    while session.receive().await.is_some() {}
    drop(session);
    let log = read_log(state.path(), "refusals.jsonl").await;
    assert_eq!(log.lines().count(), 1000, "each refused order is on record");
}

/// Returns the log of the client once the agent has ended.
async fn read_log(state: &Path, name: &str) -> String {
    let path = state.join("status.json");
    while !fs::read_to_string(&path).unwrap_or_default().contains("\"stopped\"") {
        tokio::task::yield_now().await;
    }
    fs::read_to_string(state.join(name)).unwrap()
}

/// Exchanges two names without a pause until it is dropped.
struct Exchange {
    stop: Arc<AtomicBool>,
    running: Option<thread::JoinHandle<usize>>,
}

impl Exchange {
    fn start(one: &Path, other: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let one = one.to_owned();
        let other = other.to_owned();
        let stopped = Arc::clone(&stop);
        let running = thread::spawn(move || {
            let mut n_exchanges = 0;
            while !stopped.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                n_exchanges += 1;
            }
            n_exchanges
        });
        Self { stop, running: Some(running) }
    }

    /// Returns the number of exchanges.
    fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.running.take().unwrap().join().unwrap()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Orders `path` this many times. Returns how often it was sent; checks that only the shared content was.
async fn request_repeatedly(
    server: &mut FakeServer,
    session: &mut FakeSession,
    path: &str,
    n_orders: usize,
) -> usize {
    let mut n_sent = 0;
    for _ in 0..n_orders {
        session.send(FromServer::Start(request(path))).await;
        if let State::Failed(error) = session.answer().await {
            assert!(!error.message.contains(CANARY), "{error:?}");
            continue;
        }
        let mut upload = server.upload().await;
        upload.header().await;
        let (bytes, _) = upload.rest().await;
        assert!(bytes.is_empty() || bytes == SHARED.as_bytes(), "other bytes were sent");
        n_sent += usize::from(!bytes.is_empty());
        upload.send(upload_response::Kind::Stored(v1::Stored::default())).await;
        assert!(upload.next().await.is_none());
    }
    n_sent
}

#[tokio::test]
async fn a_file_that_is_exchanged_with_a_link_leaks_nothing() {
    let mut server = FakeServer::start().await;
    let outside = outside();
    add_logs(&server);
    symlink(outside.path().join("canary"), server.path("logs/link.log")).unwrap();
    let (mut session, _) = server.open_session().await;
    let exchange = Exchange::start(&server.path("logs/a.log"), &server.path("logs/link.log"));
    let n_sent = request_repeatedly(&mut server, &mut session, "logs/a.log", 500).await;
    let n_exchanges = exchange.end();
    assert!(0 < n_sent && 500 < n_exchanges, "{n_sent} sent, {n_exchanges} exchanges");
}

#[tokio::test]
async fn a_folder_that_is_exchanged_with_a_link_leaks_nothing() {
    let mut server = FakeServer::start().await;
    let outside = outside();
    add_logs(&server);
    symlink(outside.path(), server.path("link")).unwrap();
    let (mut session, _) = server.open_session().await;
    let exchange = Exchange::start(&server.path("logs"), &server.path("link"));
    let n_sent = request_repeatedly(&mut server, &mut session, "logs/a.log", 500).await;
    let n_exchanges = exchange.end();
    assert!(0 < n_sent && 500 < n_exchanges, "{n_sent} sent, {n_exchanges} exchanges");
}

#[tokio::test]
async fn a_root_that_is_exchanged_with_a_link_leaks_nothing() {
    let place = TempDir::new().unwrap();
    let root = place.path().join("pos");
    fs::create_dir_all(root.join("logs")).unwrap();
    fs::write(root.join("data.txt"), SHARED).unwrap();
    let outside = outside();
    symlink(outside.path(), place.path().join("link")).unwrap();
    let file = root.join("data.txt");
    let mut server = FakeServer::start_with(|config| {
        config.shares = filepull_agent::share::Shares::new(&file, []).unwrap();
    })
    .await;
    let (mut session, _) = server.open_session().await;
    let exchange = Exchange::start(&root, &place.path().join("link"));
    let n_sent = request_repeatedly(&mut server, &mut session, "", 500).await;
    let n_exchanges = exchange.end();
    assert!(0 < n_sent && 500 < n_exchanges, "{n_sent} sent, {n_exchanges} exchanges");
}

#[tokio::test]
async fn only_regular_files_are_sent_and_none_blocks_the_agent() {
    let mut server = FakeServer::start().await;
    add_logs(&server);
    fs::create_dir(server.path("logs/folder.log")).unwrap();
    let _listener = UnixListener::bind(server.path("logs/socket.log")).unwrap();
    let fifo = server.path("logs/fifo.log");
    mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    let mut special = vec!["logs/folder.log", "logs/socket.log", "logs/fifo.log"];
    let zero = rustix::fs::makedev(1, 5);
    let device = server.path("logs/device.log");
    // Only root may create a device.
    if mknodat(CWD, &device, rustix::fs::FileType::CharacterDevice, Mode::RWXU, zero).is_ok() {
        special.push("logs/device.log");
    }
    let (mut session, _) = server.open_session().await;
    for path in special {
        session.send(FromServer::Start(request(path))).await;
        let State::Failed(error) = session.answer().await else { panic!("accepted {path}") };
        assert_eq!(error.code(), ErrorCode::NotAFile, "{path}: {}", error.message);
        session.check_alive().await;
    }
}

#[tokio::test]
async fn a_sparse_file_of_ten_terabytes_delays_no_other_order() {
    let mut server = FakeServer::start().await;
    add_logs(&server);
    let sparse = fs::File::create(server.path("logs/sparse.log")).unwrap();
    // 8 TiB: some file systems stop below 10 TB.
    let size = 8 << 40;
    sparse.set_len(size).unwrap();
    let (mut session, _) = server.open_session().await;
    // The agent compares 8 TiB with a digest that no file has, and then would send them.
    let prefix_blake3 = vec![1; 32].into();
    let compared = v1::StartTransfer { offset: size, prefix_blake3, ..request("logs/sparse.log") };
    let sent = request("logs/sparse.log");
    for order in [&compared, &sent] {
        session.send(FromServer::Start(order.clone())).await;
        assert!(matches!(session.answer().await, State::Accepted(_)));
    }
    let mut upload = server.upload().await;
    assert_eq!(upload.header().await.offset, 0);
    session.send(FromServer::Start(request("logs/a.log"))).await;
    assert!(matches!(session.answer().await, State::Accepted(_)));
    let mut other = server.upload().await;
    other.header().await;
    assert_eq!(other.rest().await.0, SHARED.as_bytes());
    for order in [compared, sent] {
        let transfer_id = order.transfer_id;
        let cancel = v1::CancelTransfer { transfer_id, reason: String::new() };
        session.send(FromServer::Cancel(cancel)).await;
    }
    session.check_alive().await;
    assert_eq!(upload.rest().await.1, None);
}

#[tokio::test]
async fn absurd_numbers_in_an_order_neither_stop_nor_slow_an_agent() {
    let mut server = FakeServer::start().await;
    let (mut session, _) = server.open_session().await;
    let hash = |len: usize| vec![7_u8; len].into();
    let max = u64::MAX;
    for absurd in [
        v1::StartTransfer { attempt: u32::MAX, ..order(1) },
        v1::StartTransfer { offset: max, prefix_blake3: hash(32), ..order(1) },
        v1::StartTransfer { offset: max, prefix_blake3: hash(9000), ..order(0) },
        v1::StartTransfer { offset: 1, ..order(1) },
        v1::StartTransfer { upload_token: hash(30_000), ..order(1) },
        v1::StartTransfer { max_bytes_per_s: max, max_size: max, ..order(1) },
        v1::StartTransfer { requested_by: "\u{1b}[2J\n".repeat(5000), ..order(1) },
    ] {
        session.send(FromServer::Start(absurd)).await;
        assert!(matches!(session.answer().await, State::Accepted(_)));
        let mut upload = server.upload().await;
        assert_eq!(upload.header().await.offset, 0);
        assert_eq!(upload.rest().await.0.len(), CONTENT_LEN);
        upload.send(upload_response::Kind::Stored(v1::Stored::default())).await;
        assert!(upload.next().await.is_none());
    }
    for transfer_id in ["", "x", &"0".repeat(50_000), "\u{1b}[2J"] {
        let transfer_id = transfer_id.to_owned();
        session.send(FromServer::Start(v1::StartTransfer { transfer_id, ..order(1) })).await;
        assert!(matches!(session.answer().await, State::Failed(_)));
    }
    session.check_alive().await;
}

#[tokio::test]
async fn absurd_numbers_outside_of_orders_do_not_stop_an_agent() {
    let mut server = FakeServer::start().await;
    for number in [0, u32::MAX] {
        let mut session = server.next_session().await;
        assert!(matches!(session.receive().await, Some(ToServer::Hello(_))));
        let absurd = v1::Welcome {
            session_id: "x".repeat(30_000),
            protocol: number,
            heartbeat_ms: number,
            dead_after_ms: number,
            max_chunk_bytes: number.max(1),
            ..welcome()
        };
        session.send(FromServer::Welcome(absurd)).await;
        session.send(FromServer::Ping(v1::Ping { seq: u64::MAX, sent_unix_us: u64::MAX })).await;
        let pong = ToServer::Pong(v1::Pong { seq: u64::MAX, echo_unix_us: u64::MAX });
        assert_eq!(session.receive().await, Some(pong));
        session.send(FromServer::Start(order(1))).await;
        assert!(matches!(session.answer().await, State::Accepted(_)));
        let mut upload = server.upload().await;
        upload.header().await;
        let ack = v1::UploadAck { received: u64::MAX, durable: u64::MAX };
        upload.send(upload_response::Kind::Ack(ack)).await;
        assert_eq!(upload.rest().await.0.len(), CONTENT_LEN);
    }
}
