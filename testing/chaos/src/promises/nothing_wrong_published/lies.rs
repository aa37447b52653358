//! An agent that lies about what it sends, in every way the wire allows, and then tells the truth.

use anyhow::Context as _;
use bytes::Bytes;
use filepull_proto::v1::StartTransfer;

use super::hand::{ScriptedScenario, is_stored};
use crate::trial::Trial;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// The digest is of other bytes.
    WrongDigest,
    /// A bit of a chunk is another.
    FlippedBit,
    /// Fewer bytes than announced, with their own digest.
    Short,
    /// More bytes than announced.
    Long,
    /// Two chunks in each other's place.
    Exchanged,
    /// Two chunks in the wrong order, each with its true offset.
    OutOfOrder,
    /// One chunk twice.
    Repeated,
    /// One chunk never.
    LeftOut,
    /// Everything, but no word that this is the end.
    NoTrailer,
    /// A part, and no word that this is the end.
    HalfAndNoTrailer,
}

impl Lie {
    const ALL: [Self; 10] = [
        Self::WrongDigest,
        Self::FlippedBit,
        Self::Short,
        Self::Long,
        Self::Exchanged,
        Self::OutOfOrder,
        Self::Repeated,
        Self::LeftOut,
        Self::NoTrailer,
        Self::HalfAndNoTrailer,
    ];
}

pub(super) async fn attempt(trial: &Trial, n: u32, count: u32) -> anyhow::Result<()> {
    let mut hand = ScriptedScenario::set(trial, &format!("r5-lies-{n}")).await?;
    for lie in Lie::ALL.into_iter().cycle().take(count as usize) {
        let tried = lie_and_truth(&mut hand, lie).await.with_context(|| format!("{lie:?}"));
        hand.stage.explain("an agent that lies", tried)?;
        trial.tally.fault("lies");
    }
    hand.stage.audit(true).await?;
    hand.stage.strike().await
}

async fn lie_and_truth(hand: &mut ScriptedScenario, lie: Lie) -> anyhow::Result<()> {
    let (id, order) = hand.ordered().await?;
    anyhow::ensure!(!told(hand, &order, lie).await?, "it was stored");
    let again = hand.order(&id).await?;
    hand.stage.audit(false).await?;
    // The server may hold bytes of the lie: an honest agent proves that they are not its own.
    anyhow::ensure!(hand.honest(&again).await?, "the truth was not stored");
    hand.ends_well(&id).await
}

/// Whether the server has stored a lie.
async fn told(
    hand: &mut ScriptedScenario,
    order: &StartTransfer,
    lie: Lie,
) -> anyhow::Result<bool> {
    let mut chunks = hand.chunks(0, hand.file.len());
    let (last, n) = (chunks.len() - 1, hand.dice.usize(1..chunks.len() - 1));
    let mut claimed = hand.file.to_vec();
    match lie {
        Lie::WrongDigest => flip(hand, &mut claimed),
        Lie::FlippedBit => {
            let mut bytes = chunks[n].1.to_vec();
            flip(hand, &mut bytes);
            chunks[n].1 = bytes.into();
        }
        Lie::Short => {
            let (at, _) = chunks.pop().context("there is a last chunk")?;
            claimed.truncate(usize::try_from(at)?);
        }
        Lie::Long => {
            chunks.push((claimed.len() as u64, Bytes::from_static(b"more")));
            claimed.extend_from_slice(b"more");
        }
        Lie::Exchanged => {
            let (a, b) = (chunks[0].1.clone(), chunks[n].1.clone());
            (chunks[0].1, chunks[n].1) = (b, a);
        }
        Lie::OutOfOrder => chunks.swap(n - 1, n),
        Lie::Repeated => chunks.insert(n, chunks[n].clone()),
        Lie::LeftOut => _ = chunks.remove(n),
        Lie::NoTrailer => {}
        Lie::HalfAndNoTrailer => chunks.truncate(last),
    }
    let upload = hand.sent(order, 0, chunks).await?;
    if matches!(lie, Lie::NoTrailer | Lie::HalfAndNoTrailer) {
        return Ok(is_stored(upload.end()).await);
    }
    let _ = upload.trailer(&claimed).await;
    Ok(is_stored(upload).await)
}

fn flip(hand: &mut ScriptedScenario, bytes: &mut [u8]) {
    let at = hand.dice.usize(0..bytes.len());
    bytes[at] ^= 1 << hand.dice.u8(0..8);
}
