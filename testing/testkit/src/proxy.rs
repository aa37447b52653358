//! A wire between agents and the server that a test can cut, freeze, measure and damage.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::soon;

/// Agents dial it; it dials the server.
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
    /// Connections made.
    n_connections: AtomicU64,
    /// Connections that the server has reset.
    n_resets: watch::Sender<u64>,
    /// Raised to cut all present connections.
    cut: watch::Sender<u64>,
    /// Raised to cut those that have carried much.
    cut_uploads: watch::Sender<u64>,
    /// Raised to hang up on the agents only.
    strand: watch::Sender<u64>,
    /// Nothing passes while this is true; connections stay open.
    frozen: watch::Sender<bool>,
    to_server: Mutex<Noise>,
    to_agents: Mutex<Noise>,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From agents to the server.
    ToServer,
    /// From the server to agents.
    ToAgents,
}

/// What happens to the bytes of one way.
#[derive(Debug, Default)]
struct Noise {
    passed: u64,
    n_flipped: u64,
    /// At which byte, and which of its bits.
    flip: Option<(u64, u8)>,
}

impl Noise {
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
    ///
    /// # Errors
    /// No port is free.
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
        #[allow(clippy::disallowed_methods, reason = "they end with the runtime of the test")]
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

    /// Resets the connections that carry uploads, and leaves the lines alone.
    pub fn cut_uploads(&self) {
        self.shared.cut_uploads.send_modify(|cut| *cut += 1);
    }

    /// Hangs up on the agents; the server sees nothing of it until the next [`cut`](Self::cut), as
    /// when a router has forgotten a connection.
    pub fn strand(&self) {
        self.shared.strand.send_modify(|strand| *strand += 1);
    }

    /// Lets nothing through, without closing anything.
    pub fn freeze(&self) {
        self.shared.frozen.send_replace(true);
    }

    /// Lets everything through again.
    pub fn thaw(&self) {
        self.shared.frozen.send_replace(false);
    }

    /// Flips these bits of the byte that passes after `after` others, whatever it belongs to. The
    /// check sums of TCP are made anew behind it, so that nobody but the programs can notice.
    pub fn flip(&self, way: Direction, after: u64, bits: u8) {
        let mut noise = self.shared.noise(way);
        noise.flip = Some((noise.passed + after, bits));
    }

    /// Takes a flip back that has not come to pass; how many have.
    pub fn stop_flipping(&self, way: Direction) -> u64 {
        let mut noise = self.shared.noise(way);
        noise.flip = None;
        noise.n_flipped
    }

    /// Bytes that went from agents to the server.
    pub fn sent(&self) -> u64 {
        *self.shared.sent.borrow()
    }

    /// Connections that agents have made.
    pub fn n_connections(&self) -> u64 {
        self.shared.n_connections.load(Ordering::SeqCst)
    }

    /// Waits until the server has reset a connection.
    ///
    /// # Errors
    /// It did not.
    pub async fn reset_by_server(&self) -> anyhow::Result<()> {
        let mut n_resets = self.shared.n_resets.subscribe();
        soon("a reset", n_resets.wait_for(|&n_resets| 0 < n_resets)).await??;
        Ok(())
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

impl ProxyState {
    fn noise(&self, way: Direction) -> std::sync::MutexGuard<'_, Noise> {
        let noise = match way {
            Direction::ToServer => &self.to_server,
            Direction::ToAgents => &self.to_agents,
        };
        noise.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a line carries in a test; an upload carries more.
const LINE_BYTES: u64 = 128 * 1024;

async fn forward(shared: Arc<ProxyState>, agent: TcpStream) {
    let target = *shared.target.borrow();
    let (mut cut, mut strand) = (shared.cut.subscribe(), shared.strand.subscribe());
    let mut cut_uploads = shared.cut_uploads.subscribe();
    let Ok(server) = TcpStream::connect(target).await else { return };
    for stream in [&agent, &server] {
        let _ = stream.set_nodelay(true);
        // Closing resets the connection instead of ending it politely.
        let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
    }
    let carried = AtomicU64::new(0);
    let (agent_in, agent_out) = agent.into_split();
    let (mut server_in, mut server_out) = server.into_split();
    let upload_cut = async {
        while cut_uploads.changed().await.is_ok() {
            if LINE_BYTES < carried.load(Ordering::SeqCst) {
                return;
            }
        }
    };
    let stranded = {
        let up = pump(&shared, agent_in, &mut server_out, Some(&carried));
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
    carried: Option<&AtomicU64>,
) {
    let mut frozen = shared.frozen.subscribe();
    // Small, so that a cut can come at almost any byte.
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let len = match from.read(&mut buffer).await {
            Ok(len) => len,
            Err(error) => {
                if carried.is_none() && error.kind() == ErrorKind::ConnectionReset {
                    shared.n_resets.send_modify(|n_resets| *n_resets += 1);
                }
                return;
            }
        };
        if len == 0 || frozen.wait_for(|frozen| !frozen).await.is_err() {
            return;
        }
        let way = if carried.is_some() { Direction::ToServer } else { Direction::ToAgents };
        shared.noise(way).pass(&mut buffer[..len]);
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
        if let Some(carried) = carried {
            carried.fetch_add(len as u64, Ordering::SeqCst);
            shared.sent.send_modify(|sent| *sent += len as u64);
        }
    }
}
