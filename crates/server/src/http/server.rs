//! Accepts connections and serves HTTP/1 on them, without believing that the other end behaves.
//!
//! `axum::serve` sets no timer, so that a head that never ends would hold its connection for ever.

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

use super::connection::{HttpConnection, TimedBody};
use crate::connection_limit::{ConnectionLimit, ConnectionPermit};
use crate::guarded_body::GuardedBody;
use crate::listener;

/// Maximum number of unsent bytes for one reader: many slow readers must not fill the memory.
const SEND_LEN: usize = 64 * 1024;

/// From the first moment of a connection, and again after each answer: so long may a request's
/// head take. It ends connections that never send a byte and those that are kept alive for nothing.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// Accepts connections until the server drains. Those that are open then end by themselves once
/// their answer is sent, or when everything stops.
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
        lifecycle.spawn(connection(stream, peer, permit, router.clone(), lifecycle.clone()));
    }
}

/// Serves one connection. Ends when the peer hangs up, when the server drains and no request is
/// being answered, or at once when everything stops or another caller needs its permit.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    permit: ConnectionPermit,
    router: Router,
    lifecycle: Lifecycle,
) {
    listener::set_options(&stream);
    let closed = permit.closed().clone();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(SEND_LEN)
        .serve_connection(
            TokioIo::new(HttpConnection::new(stream, permit.clone())),
            service(router, peer, permit),
        );
    let mut connection = pin!(connection);
    let served = async {
        let ended = lifecycle.drain().run_until_cancelled(connection.as_mut()).await;
        if let Some(ended) = ended {
            return ended;
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    let ended = closed.run_until_cancelled(served).await;
    if let Some(Err(error)) = ended {
        debug!(event = "http.connection-broke", %peer, %error);
    }
}

/// The router, for requests from `peer`.
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
        let answered = router.clone().oneshot(request.map(TimedBody::new));
        // The connection is in use until the whole response has been sent.
        let guarded = |body| Body::new(GuardedBody::new(body, in_use));
        answered.map_ok(|response| response.map(guarded))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;

    use super::*;

    /// A server with a page that is answered when the server drains.
    struct HttpServer {
        addr: SocketAddr,
        lifecycle: Lifecycle,
        waits: Arc<Notify>,
    }

    async fn served() -> HttpServer {
        let (lifecycle, waits) = (Lifecycle::new(), Arc::new(Notify::new()));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (begun, drain) = (waits.clone(), lifecycle.drain().clone());
        let wait = get(move || async move {
            begun.notify_one();
            drain.cancelled().await;
        });
        let router = Router::new().route("/", get(|| async { "hello" })).route("/wait", wait);
        let limit = ConnectionLimit::new("operators", 2, true);
        lifecycle.spawn(serve(listener, router, limit, lifecycle.clone()));
        HttpServer { addr, lifecycle, waits }
    }

    async fn ask(addr: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    #[tokio::test]
    async fn idle_and_silent_connections_do_not_delay_the_end() {
        let HttpServer { addr, lifecycle, .. } = served().await;
        let _silent = TcpStream::connect(addr).await.unwrap();
        let mut idle = ask(addr, "/").await;
        let mut answer = [0; 256];
        let len = idle.read(&mut answer).await.unwrap();
        assert!(String::from_utf8_lossy(&answer[..len]).ends_with("hello"));
        lifecycle.shut_down(Duration::from_secs(4)).await.unwrap();
        assert_eq!(idle.read(&mut answer).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_request_that_is_being_answered_is_answered() {
        let HttpServer { addr, lifecycle, waits } = served().await;
        let mut waiting = ask(addr, "/wait").await;
        waits.notified().await;
        lifecycle.shut_down(Duration::from_secs(4)).await.unwrap();
        let mut answer = String::new();
        waiting.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
    }
}
