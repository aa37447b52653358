//! Listens and accepts, for operators and for agents.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::sleep;
use tracing::{debug, warn};

/// Maximum number of connections that wait to be accepted: the SYN packets of a fleet that reconnects
/// at once must not be dropped. The limit of the system (`net.core.somaxconn`) applies too.
const BACKLOG: u32 = 4096;

/// The first and the longest pause after an accept that failed without a resource.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Listens on `addr`.
///
/// # Errors
/// The address is in use, or does not belong to this machine.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Accepts the next connection, and retries after errors. `callers` (agents or operators) names the
/// listener in the log.
pub(crate) async fn accept(listener: &TcpListener, callers: &str) -> (TcpStream, SocketAddr) {
    let mut pause = FIRST_PAUSE;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                // Usually too many open files. The connection stays in the backlog, and another
                // accept would fail at once: without a pause this loop would use a whole core.
                warn!(
                    event = "accept.failed", %error, listener = callers,
                    "cannot accept connections"
                );
                sleep(pause).await;
                pause = MAX_PAUSE.min(pause * 2);
            }
        }
    }
}

/// Sets the options of a connection: small messages are sent at once, and a lost connection is noticed
/// even while nothing is sent.
pub(crate) fn set_options(stream: &TcpStream) {
    let set = || {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(15))
            .with_retries(3);
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(Duration::from_secs(45)))?;
        io::Result::Ok(())
    };
    if let Err(error) = set() {
        debug!(event = "socket.option_failed", %error, "cannot set the socket options");
    }
}

/// Returns whether the connection ended before it was accepted, which is not an error of the listener.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
