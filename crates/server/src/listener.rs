//! The door of a listener, for operators and for agents alike.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::sleep;
use tracing::{debug, warn};

/// Connections that wait to be accepted: a fleet that comes back at once must not lose its SYNs.
/// The system's own bound (`net.core.somaxconn`) holds as well.
const BACKLOG: u32 = 4096;

/// How long to wait after an accept that failed for want of something: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Listens on `addr`.
///
/// # Errors
/// The address is in use or not ours.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// The next connection, whatever it takes. `whose` names the listener in the log.
pub(crate) async fn accept(listener: &TcpListener, whose: &str) -> (TcpStream, SocketAddr) {
    let mut pause = PAUSES.0;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Mostly too many open files. The connection stays in the backlog, so that
                // another accept would fail at once: without a pause this loop takes a whole core.
                warn!(event = "accept.failed", %error, whose, "cannot accept connections");
                sleep(pause).await;
                pause = PAUSES.1.min(pause * 2);
            }
        }
    }
}

/// Sets what both listeners want of a connection: small answers leave at once, and a peer that is
/// gone is noticed also while nothing is sent.
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
        debug!(%error, "socket options");
    }
}

/// The peer was gone before it was accepted: nothing is wrong here.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
