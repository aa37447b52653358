//! filepull and the programs it is compared with, measured in turn.

use std::time::Duration;

use serde::Serialize;

use crate::VERSION;
use crate::peers::{Facts, Peer};
use crate::product::{BothEnds, Product};
use crate::source::SourceFile;
use crate::targets;

/// A program that is measured.
pub(crate) enum Competitor {
    Product(Box<Product>),
    Peer(Box<Peer>),
}

/// The name of filepull with TLS 1.3 between agent and server.
pub(crate) const WITH_TLS: &str = "filepull, TLS";

/// One transfer. The server accepts the connection, the client opens it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct TransferRun {
    pub(crate) seconds: f64,
    pub(crate) server_cpu_seconds: f64,
    pub(crate) client_cpu_seconds: f64,
}

/// Processes may finish some work after they have answered; it counts too.
const FINISH_TIME: Duration = Duration::from_millis(100);

impl Competitor {
    pub(crate) fn facts(&self) -> Facts {
        match self {
            Self::Product(product) => Facts {
                name: if product.server.uses_tls { WITH_TLS } else { "filepull" },
                version: VERSION.to_owned(),
                guarantees: "BLAKE3, SHA-256, synced, source unchanged",
                // Compared with the row of TLS, if there is one.
                target: (!product.server.uses_tls).then_some(targets::TLS_OVER_PLAIN),
            },
            Self::Peer(peer) => peer.facts.clone(),
        }
    }

    pub(crate) async fn measure(&self, source: &SourceFile) -> anyhow::Result<TransferRun> {
        let (duration, server, client) = match self {
            Self::Peer(peer) => {
                let copied = peer.copy(source).await?;
                (copied.duration, copied.server_cpu, copied.client_cpu)
            }
            Self::Product(product) => {
                let before = product.cpu()?;
                let duration = product.pull(source).await?;
                tokio::time::sleep(FINISH_TIME).await;
                let after = product.cpu()?;
                (duration, after.server - before.server, after.agent - before.agent)
            }
        };
        Ok(TransferRun {
            seconds: duration.as_secs_f64(),
            server_cpu_seconds: server.as_secs_f64(),
            client_cpu_seconds: client.as_secs_f64(),
        })
    }
}

/// TransferRuns each competitor once without counting it. A peer that fails is removed and reported as
/// missing.
pub(crate) async fn warm_up(
    competitors: Vec<Competitor>,
    source: &SourceFile,
    missing: &mut Vec<String>,
) -> anyhow::Result<Vec<Competitor>> {
    let mut warm = Vec::new();
    for competitor in competitors {
        match (competitor.measure(source).await, competitor) {
            (Ok(_), competitor) => warm.push(competitor),
            (Err(error), Competitor::Product(_)) => return Err(error),
            (Err(error), Competitor::Peer(peer)) => {
                missing.push(format!("{}: {error:#}", peer.facts.name));
                peer.end().await?;
            }
        }
    }
    Ok(warm)
}

/// Ends all competitors. Returns the peak memory of filepull.
pub(crate) async fn end(competitors: Vec<Competitor>) -> anyhow::Result<BothEnds<u64>> {
    let mut peak = BothEnds::default();
    for competitor in competitors {
        match competitor {
            Competitor::Product(product) => {
                let this = product.peak_rss()?;
                peak.server = this.server.max(peak.server);
                peak.agent = this.agent.max(peak.agent);
                product.end().await?;
            }
            Competitor::Peer(peer) => peer.end().await?,
        }
    }
    Ok(peak)
}
