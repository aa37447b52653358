//! A wire between agents and the server that a test can cut, freeze and measure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::soon;

/// Agents dial it; it dials the server.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: watch::Sender<SocketAddr>,
    /// Bytes from agents to the server, in all connections.
    sent: watch::Sender<u64>,
    /// Connections made.
    n_connections: AtomicU64,
    /// Raised to cut all present connections.
    cut: watch::Sender<u64>,
    /// Nothing passes while this is true; connections stay open.
    frozen: watch::Sender<bool>,
}

impl Proxy {
    /// Listens on a free port and forwards to `target`.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: watch::Sender::new(target),
            sent: watch::Sender::new(0),
            n_connections: AtomicU64::new(0),
            cut: watch::Sender::new(0),
            frozen: watch::Sender::new(false),
        });
        let accepting = Arc::clone(&shared);
        #[allow(clippy::disallowed_methods, reason = "it ends with the runtime of the test")]
        tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                accepting.n_connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(forward(Arc::clone(&accepting), agent));
            }
        });
        Ok(Self { addr, shared })
    }

    /// Where agents dial.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sends connections made from now on to another server.
    pub fn retarget(&self, target: SocketAddr) {
        self.shared.target.send_replace(target);
    }

    /// Resets every present connection, both ways.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|cut| *cut += 1);
    }

    /// Lets nothing through, without closing anything.
    pub fn freeze(&self) {
        self.shared.frozen.send_replace(true);
    }

    /// Lets everything through again.
    pub fn thaw(&self) {
        self.shared.frozen.send_replace(false);
    }

    /// Bytes that went from agents to the server.
    pub fn sent(&self) -> u64 {
        *self.shared.sent.borrow()
    }

    /// Connections that agents have made.
    pub fn n_connections(&self) -> u64 {
        self.shared.n_connections.load(Ordering::SeqCst)
    }

    /// Waits until agents have sent that many bytes in all.
    ///
    /// # Errors
    /// They did not.
    pub async fn sent_at_least(&self, bytes: u64) -> anyhow::Result<()> {
        let mut sent = self.shared.sent.subscribe();
        soon(&format!("{bytes} bytes"), sent.wait_for(|&sent| bytes <= sent)).await??;
        Ok(())
    }
}

#[allow(clippy::disallowed_methods, reason = "both end with their connection")]
async fn forward(shared: Arc<Shared>, agent: TcpStream) {
    let target = *shared.target.borrow();
    let mut cut = shared.cut.subscribe();
    cut.mark_unchanged();
    let Ok(server) = TcpStream::connect(target).await else { return };
    for stream in [&agent, &server] {
        let _ = stream.set_nodelay(true);
        // Closing resets the connection instead of ending it politely.
        let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
    }
    let (agent_in, agent_out) = agent.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::select! {
        () = pump(&shared, agent_in, server_out, true) => {}
        () = pump(&shared, server_in, agent_out, false) => {}
        _ = cut.changed() => {}
    }
}

async fn pump(
    shared: &Shared,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    counted: bool,
) {
    let mut frozen = shared.frozen.subscribe();
    // Small, so that a cut can come at almost any byte.
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(len) = from.read(&mut buffer).await {
        if len == 0 || frozen.wait_for(|frozen| !frozen).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
        if counted {
            shared.sent.send_modify(|sent| *sent += len as u64);
        }
    }
}
