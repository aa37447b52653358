//! Accepts connections of operators and serves HTTP/1 on them, with a limit on each wait.
//!
//! `axum::serve` sets no timer: a request head that never ends would keep its connection forever.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
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
use crate::connection_limit::{ConnectionLimit, ConnectionPermit};
use crate::guarded_body::GuardedBody;
use crate::listener;

/// Maximum number of unsent bytes of a connection: many slow readers must not fill the memory.
const SEND_LEN: usize = 64 * 1024;

/// How long the head of a request may take, counted from the start of the connection and from the end
/// of each response. Closes connections that send nothing and unused keepalive connections.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// Accepts connections until the server drains. An open connection then closes after the response to
/// its current request, or when the server stops.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limit: ConnectionLimit,
    lifecycle: Lifecycle,
) {
    let drain = lifecycle.drain().clone();
    let next = || async {
        let accepted = listener::accept(&listener, "operators").await;
        (accepted, limit.admit(lifecycle.stop()).await)
    };
    while let Some(((stream, peer), permit)) = drain.run_until_cancelled(next()).await {
        lifecycle.spawn(serve_connection(stream, peer, permit, router.clone(), lifecycle.clone()));
    }
}

/// Serves one connection. Ends when the peer closes it, when the server drains and no request is
/// unanswered, or at once when the server stops or another connection needs the permit.
async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    permit: ConnectionPermit,
    router: Router,
    lifecycle: Lifecycle,
) {
    listener::set_options(&stream);
    let closed = permit.closed().clone();
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(SEND_LEN)
        .serve_connection(
            TokioIo::new(HttpConnection::new(stream, permit.clone())),
            service(router, peer, permit),
        );
    let mut connection = pin!(served);
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
    permit: ConnectionPermit,
) -> impl Service<
    hyper::Request<Incoming>,
    Response = Response,
    Error = Infallible,
    Future: Send + 'static,
> {
    service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
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
        lifecycle.spawn(serve(listener, router, limit, lifecycle.clone()));
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
