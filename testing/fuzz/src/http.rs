//! Requests of operators: the path, the parameters and the method.

use std::fmt::Write as _;
use std::sync::OnceLock;

use filepull_testkit::TestServer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::runtime;

/// The first byte of the input selects one.
const METHODS: [&str; 5] = ["GET", "POST", "DELETE", "HEAD", "PUT"];

/// Sends one request to a server. Anything but an internal error is a correct response.
pub fn http(data: &[u8]) {
    static SERVER: OnceLock<TestServer> = OnceLock::new();
    let Some((first, target)) = data.split_first() else { return };
    let server = SERVER.get_or_init(|| runtime().block_on(TestServer::start()).unwrap());
    let method = METHODS[usize::from(*first) % METHODS.len()];
    let response = runtime().block_on(async {
        let mut stream = TcpStream::connect(server.http()).await.unwrap();
        stream.write_all(request(method, target).as_bytes()).await.unwrap();
        let mut response = Vec::new();
        // A request that is no HTTP may end with a reset.
        let _ = stream.read_to_end(&mut response).await;
        response
    });
    let status = response.get(9..12).unwrap_or_default();
    let text = || String::from_utf8_lossy(&response).into_owned();
    assert!(status != b"500", "{method} {}: {}", target.escape_ascii(), text());
}

/// Returns a request for this target. A byte that no target may contain is escaped, so that each input
/// reaches the parser of the parameters.
fn request(method: &str, target: &[u8]) -> String {
    let mut text = format!("{method} /");
    for byte in target {
        match byte {
            b'!'..=b'~' => text.push(char::from(*byte)),
            other => {
                let _ = write!(text, "%{other:02x}");
            }
        }
    }
    let end = "Host: localhost\r\nConnection: close\r\nContent-Length: 0";
    text + &format!(" HTTP/1.1\r\n{end}\r\n\r\n")
}
