//! An agent that lies about what it sends, in every way that the protocol allows, and then sends
//! the truth.

use anyhow::Context as _;
use bytes::Bytes;
use filepull_proto::v1::StartTransfer;

use super::MIN_LEN;
use crate::scripted_scenario::{ScriptedScenario, is_stored};
use crate::trial::Trial;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// The digest belongs to other bytes.
    WrongDigest,
    /// One bit of a chunk is flipped.
    FlippedBit,
    /// Fewer bytes than announced, with the digest of these bytes.
    Short,
    /// More bytes than announced, with the digest of these bytes.
    Long,
    /// Two chunks with exchanged content.
    Exchanged,
    /// Two chunks in the wrong order, each with its own offset.
    OutOfOrder,
    /// One chunk is sent twice.
    Repeated,
    /// One chunk is not sent.
    LeftOut,
    /// The complete file without a trailer.
    NoTrailer,
    /// A part of the file without a trailer.
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

pub(super) async fn run(trial: &Trial, n: u32, count: u32) -> anyhow::Result<()> {
    let mut scripted = ScriptedScenario::prepare(trial, &format!("r5-lies-{n}"), &[]).await?;
    for lie in Lie::ALL.into_iter().cycle().take(count as usize) {
        let tried = send_lie(&mut scripted, lie).await.with_context(|| format!("{lie:?}"));
        scripted.scenario.explain("a lying agent", tried)?;
        trial.counters.fault("lies");
    }
    scripted.finish().await
}

async fn send_lie(scripted: &mut ScriptedScenario, lie: Lie) -> anyhow::Result<()> {
    let (id, order) = scripted.next_transfer(MIN_LEN).await?;
    anyhow::ensure!(!is_lie_stored(scripted, &order, lie).await?, "the lie was stored");
    let again = scripted.order(&id).await?;
    scripted.scenario.audit(false).await?;
    // The server may hold bytes of the lie. An honest agent detects that they are not a prefix of
    // its file.
    anyhow::ensure!(scripted.upload_honestly(&again).await?, "the true file was not stored");
    scripted.check_end(&id).await
}

async fn is_lie_stored(
    scripted: &mut ScriptedScenario,
    order: &StartTransfer,
    lie: Lie,
) -> anyhow::Result<bool> {
    let mut chunks = scripted.chunks(0, scripted.file.len());
    let last = chunks.len() - 1;
    let n = scripted.rng.usize(1..last);
    let mut claimed = scripted.file.to_vec();
    match lie {
        Lie::WrongDigest => flip_bit(scripted, &mut claimed),
        Lie::FlippedBit => {
            let mut bytes = chunks[n].1.to_vec();
            flip_bit(scripted, &mut bytes);
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
            let first = chunks[0].1.clone();
            chunks[0].1 = std::mem::replace(&mut chunks[n].1, first);
        }
        Lie::OutOfOrder => chunks.swap(n - 1, n),
        Lie::Repeated => chunks.insert(n, chunks[n].clone()),
        Lie::LeftOut => _ = chunks.remove(n),
        Lie::NoTrailer => {}
        Lie::HalfAndNoTrailer => chunks.truncate(last),
    }
    let upload = scripted.upload(order, 0, chunks).await?;
    if matches!(lie, Lie::NoTrailer | Lie::HalfAndNoTrailer) {
        return Ok(is_stored(upload.end()).await);
    }
    let _ = upload.trailer(&claimed).await;
    Ok(is_stored(upload).await)
}

fn flip_bit(scripted: &mut ScriptedScenario, bytes: &mut [u8]) {
    let at = scripted.rng.usize(0..bytes.len());
    bytes[at] ^= 1 << scripted.rng.u8(0..8);
}
