//! Accepts connections of operators and serves HTTP/1 on them, with a limit on each wait.
//!
//! `axum::serve` sets no timer: a request head that never ends would keep its connection forever.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use filepull_process::Lifecycle;
use futures::TryFutureExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;
use tracing::debug;

use super::connection::HttpConnection;
use super::request::caller::Https;
use crate::connection_limit::{ConnectionLimit, ConnectionPermit};
use crate::guarded_body::GuardedBody;
use crate::listener;
use crate::tls::{HandshakeError, PeerStream, ProtocolLog, TlsAcceptor};

/// Maximum number of unsent bytes of a connection: many slow readers must not fill the memory.
const SEND_LEN: usize = 64 * 1024;

/// How long the head of a request may take, counted from the start of the connection and from the end
/// of each response. Closes connections that send nothing and unused keepalive connections.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// What the listener for operators needs to accept connections.
pub(crate) struct OperatorListener {
    pub(crate) listener: TcpListener,
    pub(crate) limit: ConnectionLimit,
    /// None: plain text.
    pub(crate) tls: Option<TlsAcceptor>,
    /// Runs the connections.
    pub(crate) lifecycle: Lifecycle,
}

impl OperatorListener {
    /// Accepts connections until the server drains. An open connection then closes after the response
    /// to its current request, or when the server stops.
    pub(crate) async fn serve(self, router: Router) {
        let Self { listener, limit, tls, lifecycle } = self;
        let log = ProtocolLog::new("operators");
        let drain = lifecycle.drain().clone();
        let next = || async {
            let accepted = listener::accept(&listener, "operators").await;
            (accepted, limit.admit(lifecycle.stop()).await)
        };
        while let Some(((stream, peer), permit)) = drain.run_until_cancelled(next()).await {
            listener::set_options(&stream);
            let newcomer = IncomingCaller { stream, peer, permit, log: log.clone() };
            let served = newcomer.serve(tls.clone(), router.clone(), lifecycle.clone());
            lifecycle.spawn(served);
        }
    }
}

/// A connection that is counted, and whose handshake is not finished.
struct IncomingCaller {
    stream: TcpStream,
    peer: SocketAddr,
    permit: ConnectionPermit,
    log: ProtocolLog,
}

impl IncomingCaller {
    /// Serves the connection. Ends when the peer closes it, when the server drains and no request is
    /// unanswered, or at once when the server stops or another connection needs the permit.
    async fn serve(self, tls: Option<TlsAcceptor>, router: Router, lifecycle: Lifecycle) {
        let Self { stream, peer, permit, log } = self;
        let closed = permit.closed().clone();
        let accepted = async {
            match tls {
                // In a box, which is gone after the handshake: the task of each connection would be as large.
                Some(tls) => closed.run_until_cancelled(Box::pin(tls.accept(stream))).await,
                None => Some(Ok(PeerStream::Plain(stream))),
            }
        };
        match lifecycle.drain().run_until_cancelled(accepted).await.flatten() {
            Some(Ok(stream)) => {
                let stream = HttpConnection::new(stream, permit.clone(), log);
                serve_connection(stream, peer, permit, router, lifecycle).await;
            }
            Some(Err(error)) => {
                log.failed(peer, &error);
                if let HandshakeError::PlainText(stream) = error {
                    reject_plain_text(&stream);
                }
            }
            None => {}
        }
    }
}

/// The response to a request in plain text: curl shows it.
const USE_HTTPS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Connection: close\r\nContent-Length: 59\r\n\r\n\
    This port speaks HTTPS. Write https:// before the address.\n";

/// Reports the mistake. The response fits into the empty send buffer, so this does not wait.
fn reject_plain_text(stream: &TcpStream) {
    let _ = stream.try_write(USE_HTTPS);
    // Without this the unread request would turn the close into a reset, which drops the response.
    let _ = stream.try_read(&mut [0; 16 * 1024]);
}

async fn serve_connection(
    stream: HttpConnection<PeerStream>,
    peer: SocketAddr,
    permit: ConnectionPermit,
    router: Router,
    lifecycle: Lifecycle,
) {
    let closed = permit.closed().clone();
    let https = stream.is_tls().then_some(Https);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(SEND_LEN)
        .serve_connection(TokioIo::new(stream), service(router, peer, https, permit));
    // In a box: each layer of futures around it would hold it twice.
    let mut connection = Box::pin(served);
    let until_drained = async {
        let ended = lifecycle.drain().run_until_cancelled(connection.as_mut()).await;
        if let Some(result) = ended {
            return result;
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    if let Some(Err(error)) = closed.run_until_cancelled(until_drained).await {
        debug!(event = "connection.failed", %peer, %error, "the connection of an operator failed");
    }
}

/// Returns the router as a service for the requests of one connection.
fn service(
    router: Router,
    peer: SocketAddr,
    https: Option<Https>,
    permit: ConnectionPermit,
) -> impl Service<
    hyper::Request<Incoming>,
    Response = Response,
    Error = Infallible,
    Future: Send + 'static,
> {
    service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        https.map(|https| request.extensions_mut().insert(https));
        let in_use = permit.begin();
        let response = router.clone().oneshot(request);
        // The connection is in use until the whole response has been sent.
        let guarded = |body| Body::new(GuardedBody::new(body, in_use));
        response.map_ok(|response| response.map(guarded))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;

    use super::*;

    /// A server with two pages: `/` answers at once, `/wait` when the server drains.
    struct HttpServer {
        addr: SocketAddr,
        lifecycle: Lifecycle,
        /// Notified when `/wait` receives a request.
        requested: Arc<Notify>,
    }

    async fn start() -> HttpServer {
        let lifecycle = Lifecycle::new();
        let requested = Arc::new(Notify::new());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let notify = requested.clone();
        let drain = lifecycle.drain().clone();
        let wait = get(move || async move {
            notify.notify_one();
            drain.cancelled().await;
        });
        let router = Router::new().route("/", get(|| async { "hello" })).route("/wait", wait);
        let limit = ConnectionLimit::new("operators", 2, true);
        let operators =
            OperatorListener { listener, limit, tls: None, lifecycle: lifecycle.clone() };
        lifecycle.spawn(operators.serve(router));
        HttpServer { addr, lifecycle, requested }
    }

    async fn send_request(addr: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    #[tokio::test]
    async fn idle_and_silent_connections_do_not_delay_the_shutdown() {
        let HttpServer { addr, lifecycle, .. } = start().await;
        let _silent = TcpStream::connect(addr).await.unwrap();
        let mut idle = send_request(addr, "/").await;
        let mut answer = [0; 256];
        let len = idle.read(&mut answer).await.unwrap();
        assert!(String::from_utf8_lossy(&answer[..len]).ends_with("hello"));
        lifecycle.shut_down(Duration::from_secs(4)).await.unwrap();
        assert_eq!(idle.read(&mut answer).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_shutdown_waits_for_the_response_to_a_running_request() {
        let HttpServer { addr, lifecycle, requested } = start().await;
        let mut waiting = send_request(addr, "/wait").await;
        requested.notified().await;
        lifecycle.shut_down(Duration::from_secs(4)).await.unwrap();
        let mut answer = String::new();
        waiting.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
    }
}
