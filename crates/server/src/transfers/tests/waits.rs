//! What a transfer waits for, and what ends the wait.

use futures::stream::pending;

use super::*;

const HOUR: Duration = Duration::from_hours(1);

async fn nothing(_: PathBuf, _: &Records) {}

/// An upload that sends these pieces and then nothing.
fn endless(
    bed: &TransfersFixture,
    order: &SendOrder,
    size: usize,
    pieces: Vec<UploadItem>,
) -> mpsc::Receiver<Reply> {
    let pieces = stream::iter(pieces).map(Ok).chain(pending()).boxed();
    bed.upload_from(order.prefix.len, order, size, pieces)
}

impl TransfersFixture {
    async fn sees(&self, id: TransferId, wanted: impl Fn(&View) -> bool) -> View {
        let mut view = self.transfers.watch(id).unwrap();
        soon(view.wait_for(wanted)).await.unwrap().clone()
    }

    /// The deadline on record.
    async fn queue_until(&self, id: TransferId) -> Option<DateTime<Utc>> {
        let recorded = self.records.transfer(id).await.unwrap().unwrap();
        recorded.readable().unwrap().queue_until
    }
}

#[tokio::test]
async fn a_pull_with_queue_moves_the_deadline_of_the_transfer_it_joins() {
    let mut bed = TransfersFixture::start().await;
    let id = bed.pull().await.unwrap().id;
    let order = bed.order().await;
    assert_eq!(bed.queue_until(id).await, None);
    let joined = bed.pull_of(None, Some(HOUR)).await.unwrap();
    assert_eq!((joined.id, joined.joined), (id, true));
    let first = bed.queue_until(id).await.unwrap();
    assert!(now() + HOUR / 2 < first, "{first}");
    endless(&bed, &order, 4, vec![chunk(0, b"da")]);
    bed.sees(id, |view| view.activity == Activity::Running).await;
    bed.pull_of(None, Some(HOUR / 2)).await.unwrap();
    assert_eq!(bed.queue_until(id).await, Some(first), "an earlier deadline changes nothing");
    bed.pull_of(None, Some(HOUR * 2)).await.unwrap();
    assert!(first + HOUR / 2 < bed.queue_until(id).await.unwrap());
}

#[tokio::test]
async fn a_deadline_that_cannot_be_recorded_is_not_promised() {
    let mut bed = TransfersFixture::start().await;
    let id = bed.pull().await.unwrap().id;
    let _order = bed.order().await;
    bed.refuse("NEW.queue_until IS NOT NULL");
    let problem = bed.pull_of(None, Some(HOUR)).await.unwrap_err();
    assert_eq!(problem.code, Code::RecordsFailed);
    assert_eq!(bed.queue_until(id).await, None);
}

#[tokio::test]
async fn only_a_queued_pull_waits_for_space() {
    let limits = Limits { min_free: u64::MAX, resume_within: HOUR, ..LIMITS };
    let mut bed = TransfersFixture::start_within(limits, nothing).await;
    assert_eq!(bed.pull().await.unwrap_err().code, Code::ServerFull);
    let id = bed.pull_of(None, Some(HOUR)).await.unwrap().id;
    let order = bed.order().await;
    endless(&bed, &order, 4, Vec::new());
    let waits = bed.sees(id, |view| view.state() == TransferState::Waiting(WaitingFor::Disk)).await;
    let reason = waits.reason.unwrap();
    assert!(reason.contains("the file needs 4 B"), "{reason}");
    assert_eq!(waits.expires_at, waits.transfer.queue_until);
    let cancelled = soon(bed.transfers.cancel(id, "test")).await.unwrap();
    assert_eq!(cancelled.state(), TransferState::Cancelled);
}

#[tokio::test]
async fn a_pull_whose_deadline_passes_on_a_full_disk_fails_with_the_reason() {
    let limits = Limits { min_free: u64::MAX, ..LIMITS };
    let mut bed = TransfersFixture::start_within(limits, nothing).await;
    let id = bed.pull_of(None, Some(Duration::from_millis(200))).await.unwrap().id;
    let order = bed.order().await;
    endless(&bed, &order, 4, Vec::new());
    assert_eq!(bed.ended(id).await.problem().unwrap().code, Code::ServerFull);
}

#[tokio::test]
async fn a_slow_upload_gives_its_turn_to_others_and_keeps_its_bytes() {
    let min_rate_window = Duration::from_millis(200);
    let limits = Limits { min_rate: 1 << 20, min_rate_window, ..LIMITS };
    let mut bed = TransfersFixture::start_within(limits, nothing).await;
    let slow = bed.pull().await.unwrap().id;
    let order = bed.order().await;
    let mut said = endless(&bed, &order, 4, vec![chunk(0, b"da")]);
    bed.sees(slow, |view| view.activity == Activity::Running).await;
    let other = bed.pull_of(Some("other.txt"), None).await.unwrap().id;
    let told = loop {
        match soon(said.recv()).await.unwrap() {
            Reply::Refused { problem, expected_offset } => break (problem, expected_offset),
            Reply::Ack { .. } | Reply::Stored { .. } => {}
        }
    };
    assert_eq!((told.0.code, told.1), (Code::ServerBusy, Some(2)));
    let next = bed.order().await;
    assert_eq!(next.transfer, other);
    let waits = bed.sees(slow, |view| matches!(view.activity, Activity::Waiting(_))).await;
    assert_eq!(waits.state(), TransferState::Waiting(WaitingFor::OtherFile));
    bed.upload(&next, 4, whole(b"data"));
    assert!(bed.ended(other).await.download().is_some());
    let again = bed.order().await;
    assert_eq!((again.transfer, again.attempt, again.prefix.len), (slow, 2, 2));
    let end = UploadItem::End { total_size: 4, digest: Digest::of(b"data") };
    bed.upload(&again, 4, vec![chunk(2, b"ta"), end]);
    assert!(bed.ended(slow).await.download().is_some());
}

#[tokio::test]
async fn a_client_has_a_bounded_number_of_waiting_transfers() {
    let limits = Limits { max_waiting: 100, max_waiting_per_client: 2, ..LIMITS };
    let mut bed = TransfersFixture::start_within(limits, nothing).await;
    let id = bed.pull().await.unwrap().id;
    let order = bed.order().await;
    endless(&bed, &order, 4, Vec::new());
    bed.sees(id, |view| view.activity == Activity::Running).await;
    bed.pull_of(Some("a.txt"), None).await.unwrap();
    bed.pull_of(Some("b.txt"), None).await.unwrap();
    let problem = bed.pull_of(Some("c.txt"), None).await.unwrap_err();
    assert_eq!(problem.code, Code::ServerBusy);
    assert!(problem.detail.starts_with("2 transfers of client4 are waiting"), "{problem:?}");
    assert!(bed.pull_of(Some("b.txt"), None).await.unwrap().joined);
}

#[tokio::test]
async fn a_file_that_is_another_one_at_each_attempt_is_refused_although_bytes_come() {
    let mut bed = TransfersFixture::start().await;
    let id = bed.pull().await.unwrap().id;
    for n_changed in 0..=Transfer::MAX_CHANGED {
        let order = bed.order().await;
        assert_eq!(order.prefix.len == 0, n_changed == 0);
        let pieces = stream::iter([Ok(chunk(0, b"da"))]).boxed();
        bed.upload_from(0, &order, 4, pieces);
    }
    let ended = bed.ended(id).await;
    assert_eq!(ended.problem().unwrap().code, Code::FileChanged);
    assert_eq!(ended.setbacks.changed, Transfer::MAX_CHANGED);
    assert!(bed.names().is_empty());
}

#[tokio::test]
async fn all_bytes_are_shown_as_soon_as_they_are_here() {
    let mut bed = TransfersFixture::start().await;
    let id = bed.pull().await.unwrap().id;
    let order = bed.order().await;
    endless(&bed, &order, 4, vec![chunk(0, b"data")]);
    let view = bed.sees(id, |view| view.bytes_done == 4).await;
    assert_eq!((view.percent(), view.eta()), (Some(100), None));
}
