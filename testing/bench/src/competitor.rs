//! Those that run in turn: filepull, and the programs it is compared to.

use std::time::Duration;

use serde::Serialize;

use crate::VERSION;
use crate::peers::{Facts, Peer};
use crate::product::{Ends, Product};
use crate::source::SourceFile;

/// One that runs in turn with the others.
pub(crate) enum Competitor {
    Product(Box<Product>),
    Peer(Box<Peer>),
}

/// One transfer. The server is the end that is dialled, the client the end that dials.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) seconds: f64,
    pub(crate) server_cpu_seconds: f64,
    pub(crate) client_cpu_seconds: f64,
}

/// Processes that have answered may still have a little to do, which is theirs.
const REST: Duration = Duration::from_millis(100);

impl Competitor {
    pub(crate) fn facts(&self) -> Facts {
        match self {
            Self::Product(_) => Facts {
                name: "filepull",
                version: VERSION.to_owned(),
                assures: "SHA-256, synced, source unchanged",
                must: None,
            },
            Self::Peer(peer) => peer.facts.clone(),
        }
    }

    /// Brings the file over once.
    pub(crate) async fn measure(&self, source: &SourceFile) -> anyhow::Result<Run> {
        let (took, server, client) = match self {
            Self::Peer(peer) => {
                let copied = peer.copy(source).await?;
                (copied.took, copied.server_cpu, copied.client_cpu)
            }
            Self::Product(product) => {
                let before = product.cpu()?;
                let took = product.pull(source).await?;
                tokio::time::sleep(REST).await;
                let after = product.cpu()?;
                (took, after.server - before.server, after.agent - before.agent)
            }
        };
        Ok(Run {
            seconds: took.as_secs_f64(),
            server_cpu_seconds: server.as_secs_f64(),
            client_cpu_seconds: client.as_secs_f64(),
        })
    }
}

/// One run of each that does not count. A peer that fails here is missing, with the reason.
pub(crate) async fn warm_up(
    contestants: Vec<Competitor>,
    source: &SourceFile,
    missing: &mut Vec<String>,
) -> anyhow::Result<Vec<Competitor>> {
    let mut warm = Vec::new();
    for contestant in contestants {
        match (contestant.measure(source).await, contestant) {
            (Ok(_), contestant) => warm.push(contestant),
            (Err(error), Competitor::Product(_)) => return Err(error),
            (Err(error), Competitor::Peer(peer)) => {
                missing.push(format!("{}: {error:#}", peer.facts.name));
                peer.end().await?;
            }
        }
    }
    Ok(warm)
}

/// Ends all of them; the peak memory of filepull.
pub(crate) async fn end(contestants: Vec<Competitor>) -> anyhow::Result<Ends<u64>> {
    let mut peak = Ends::default();
    for contestant in contestants {
        match contestant {
            Competitor::Product(product) => {
                peak = product.peak_rss()?;
                product.end().await?;
            }
            Competitor::Peer(peer) => peer.end().await?,
        }
    }
    Ok(peak)
}
