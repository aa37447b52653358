//! A TCP proxy between agents and the server that a test can cut, freeze, measure and corrupt.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::soon;

/// Accepts the connections of agents and forwards them to the server.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<ProxyState>,
}

#[derive(Debug)]
struct ProxyState {
    target: watch::Sender<SocketAddr>,
    /// Bytes from agents to the server, in all connections.
    sent: watch::Sender<u64>,
    /// The number of accepted connections.
    n_connections: AtomicU64,
    /// Connections that the server has reset.
    n_resets: watch::Sender<u64>,
    /// A change resets all open connections.
    cut: watch::Sender<u64>,
    /// A change resets the open connections with an upload.
    cut_uploads: watch::Sender<u64>,
    /// A change closes the connections to agents only.
    strand: watch::Sender<u64>,
    /// No byte passes while this is true. Connections stay open.
    frozen: watch::Sender<bool>,
    to_server: Mutex<Corruption>,
    to_agents: Mutex<Corruption>,
}

/// The direction in which bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From agents to the server.
    ToServer,
    /// From the server to agents.
    ToAgents,
}

/// Counts and corrupts the bytes of one direction.
#[derive(Debug, Default)]
struct Corruption {
    passed: u64,
    n_flipped: u64,
    /// The offset of the byte to corrupt, and a mask of the bits to flip.
    flip: Option<(u64, u8)>,
}

impl Corruption {
    fn pass(&mut self, bytes: &mut [u8]) {
        if let Some((at, bits)) = self.flip
            && let Some(index) = at.checked_sub(self.passed).and_then(|n| usize::try_from(n).ok())
            && let Some(byte) = bytes.get_mut(index)
        {
            *byte ^= bits;
            self.flip = None;
            self.n_flipped += 1;
        }
        self.passed += bytes.len() as u64;
    }
}

impl Proxy {
    /// Listens on a free port and forwards to `target`.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(ProxyState {
            target: watch::Sender::new(target),
            sent: watch::Sender::new(0),
            n_connections: AtomicU64::new(0),
            n_resets: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            cut_uploads: watch::Sender::new(0),
            strand: watch::Sender::new(0),
            frozen: watch::Sender::new(false),
            to_server: Mutex::default(),
            to_agents: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        #[allow(clippy::disallowed_methods, reason = "the tasks end with the runtime of the test")]
        tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                accepting.n_connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(forward(Arc::clone(&accepting), agent));
            }
        });
        Ok(Self { addr, shared })
    }

    /// Returns the address that agents dial.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Forwards later connections to another server.
    pub fn retarget(&self, target: SocketAddr) {
        self.shared.target.send_replace(target);
    }

    /// Resets every open connection on both sides.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|cut| *cut += 1);
    }

    /// Resets the open connections with an upload. Sessions stay open.
    pub fn cut_uploads(&self) {
        self.shared.cut_uploads.send_modify(|cut| *cut += 1);
    }

    /// Resets the connections to agents. The server does not notice until the next
    /// [`cut`](Self::cut), as if a router had lost its state.
    pub fn strand(&self) {
        self.shared.strand.send_modify(|strand| *strand += 1);
    }

    /// Stops forwarding. Connections stay open.
    pub fn freeze(&self) {
        self.shared.frozen.send_replace(true);
    }

    /// Ends a [`freeze`](Self::freeze) and forwards the waiting bytes.
    pub fn thaw(&self) {
        self.shared.frozen.send_replace(false);
    }

    /// Flips `bits` of the byte that passes after `after` other bytes. The TCP checksums are valid,
    /// so only the programs can notice.
    pub fn flip(&self, direction: Direction, after: u64, bits: u8) {
        let mut corruption = self.shared.corruption(direction);
        corruption.flip = Some((corruption.passed + after, bits));
    }

    /// Cancels a flip that has not happened, and returns the number of flips that have.
    pub fn stop_flipping(&self, direction: Direction) -> u64 {
        let mut corruption = self.shared.corruption(direction);
        corruption.flip = None;
        corruption.n_flipped
    }

    /// Returns the bytes sent from agents to the server.
    pub fn sent(&self) -> u64 {
        *self.shared.sent.borrow()
    }

    /// Returns the number of connections that agents have opened.
    pub fn n_connections(&self) -> u64 {
        self.shared.n_connections.load(Ordering::SeqCst)
    }

    /// Waits until the server has reset a connection.
    pub async fn reset_by_server(&self) -> anyhow::Result<()> {
        let mut n_resets = self.shared.n_resets.subscribe();
        soon("a reset", n_resets.wait_for(|&n_resets| 0 < n_resets)).await??;
        Ok(())
    }

    /// Waits until agents have sent `bytes` in total.
    pub async fn sent_at_least(&self, bytes: u64) -> anyhow::Result<()> {
        let mut sent = self.shared.sent.subscribe();
        soon(&format!("{bytes} bytes"), sent.wait_for(|&sent| bytes <= sent)).await??;
        Ok(())
    }
}

impl ProxyState {
    fn corruption(&self, direction: Direction) -> MutexGuard<'_, Corruption> {
        let corruption = match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToAgents => &self.to_agents,
        };
        corruption.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maximum bytes that the session of a test sends. An upload sends more.
const SESSION_BYTES: u64 = 128 * 1024;

async fn forward(shared: Arc<ProxyState>, agent: TcpStream) {
    let target = *shared.target.borrow();
    let mut cut = shared.cut.subscribe();
    let mut strand = shared.strand.subscribe();
    let mut cut_uploads = shared.cut_uploads.subscribe();
    let Ok(server) = TcpStream::connect(target).await else { return };
    for stream in [&agent, &server] {
        let _ = stream.set_nodelay(true);
        // A close sends RST instead of FIN.
        let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
    }
    let sent = AtomicU64::new(0);
    let (agent_in, agent_out) = agent.into_split();
    let (mut server_in, mut server_out) = server.into_split();
    let upload_cut = async {
        while cut_uploads.changed().await.is_ok() {
            if SESSION_BYTES < sent.load(Ordering::SeqCst) {
                return;
            }
        }
    };
    let stranded = {
        let up = pump(&shared, agent_in, &mut server_out, Some(&sent));
        let down = pump(&shared, &mut server_in, agent_out, None);
        tokio::select! {
            () = up => false,
            () = down => false,
            _ = cut.changed() => false,
            () = upload_cut => false,
            _ = strand.changed() => true,
        }
    };
    if stranded {
        let _ = cut.changed().await;
    }
}

async fn pump(
    shared: &ProxyState,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    sent: Option<&AtomicU64>,
) {
    let mut frozen = shared.frozen.subscribe();
    // Small, so that a cut can happen at almost any byte.
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let len = match from.read(&mut buffer).await {
            Ok(len) => len,
            Err(error) => {
                if sent.is_none() && error.kind() == ErrorKind::ConnectionReset {
                    shared.n_resets.send_modify(|n_resets| *n_resets += 1);
                }
                return;
            }
        };
        if len == 0 || frozen.wait_for(|frozen| !frozen).await.is_err() {
            return;
        }
        let direction = if sent.is_some() { Direction::ToServer } else { Direction::ToAgents };
        shared.corruption(direction).pass(&mut buffer[..len]);
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
        if let Some(sent) = sent {
            sent.fetch_add(len as u64, Ordering::SeqCst);
            shared.sent.send_modify(|sent| *sent += len as u64);
        }
    }
}
