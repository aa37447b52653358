//! Tests of the waits of a transfer, and of what ends them.

use futures::stream::pending;

use super::*;

const HOUR: Duration = Duration::from_hours(1);

async fn nothing(_: PathBuf, _: &Records) {}

/// Starts an upload that sends these items, and then nothing more.
fn endless(
    fixture: &TransfersFixture,
    order: &SendOrder,
    size: usize,
    items: Vec<UploadItem>,
) -> mpsc::Receiver<Reply> {
    let items = stream::iter(items).map(Ok).chain(pending()).boxed();
    fixture.upload_from(order.prefix.len, order, size, items)
}

impl TransfersFixture {
    async fn sees(&self, id: TransferId, wanted: impl Fn(&View) -> bool) -> View {
        let mut view = self.transfers.watch(id).unwrap();
        soon(view.wait_for(wanted)).await.unwrap().clone()
    }

    /// Returns the deadline on record.
    async fn queue_until(&self, id: TransferId) -> Option<DateTime<Utc>> {
        let recorded = self.records.transfer(id).await.unwrap().unwrap();
        recorded.readable().unwrap().queue_until
    }
}

#[tokio::test]
async fn a_pull_with_queue_moves_the_deadline_of_the_transfer_it_joins() {
    let mut fixture = TransfersFixture::start().await;
    let id = fixture.pull().await.unwrap().id;
    let order = fixture.order().await;
    assert_eq!(fixture.queue_until(id).await, None);
    let joined = fixture.pull_of(None, Some(HOUR)).await.unwrap();
    assert_eq!((joined.id, joined.joined), (id, true));
    let first = fixture.queue_until(id).await.unwrap();
    assert!(now() + HOUR / 2 < first, "{first}");
    endless(&fixture, &order, 4, vec![chunk(0, b"da")]);
    fixture.sees(id, |view| view.activity == Activity::Running).await;
    fixture.pull_of(None, Some(HOUR / 2)).await.unwrap();
    assert_eq!(fixture.queue_until(id).await, Some(first), "an earlier deadline changes nothing");
    fixture.pull_of(None, Some(HOUR * 2)).await.unwrap();
    assert!(first + HOUR / 2 < fixture.queue_until(id).await.unwrap());
}

#[tokio::test]
async fn a_deadline_that_cannot_be_recorded_is_not_promised() {
    let mut fixture = TransfersFixture::start().await;
    let id = fixture.pull().await.unwrap().id;
    let _order = fixture.order().await;
    fixture.refuse("NEW.queue_until IS NOT NULL");
    let problem = fixture.pull_of(None, Some(HOUR)).await.unwrap_err();
    assert_eq!(problem.code, Code::RecordsFailed);
    assert_eq!(fixture.queue_until(id).await, None);
}

#[tokio::test]
async fn only_a_queued_pull_waits_for_space() {
    let limits = Limits { min_free: u64::MAX, resume_within: HOUR, ..LIMITS };
    let mut fixture = TransfersFixture::start_within(limits, nothing).await;
    assert_eq!(fixture.pull().await.unwrap_err().code, Code::ServerFull);
    let id = fixture.pull_of(None, Some(HOUR)).await.unwrap().id;
    let order = fixture.order().await;
    endless(&fixture, &order, 4, Vec::new());
    let waits =
        fixture.sees(id, |view| view.state() == TransferState::Waiting(WaitingFor::Disk)).await;
    let reason = waits.reason.unwrap();
    assert!(reason.contains("the file needs 4 B"), "{reason}");
    assert_eq!(waits.expires_at, waits.transfer.queue_until);
    let cancelled = soon(fixture.transfers.cancel(id, &actor(), &Scope::Everything)).await.unwrap();
    assert_eq!(cancelled.state(), TransferState::Cancelled);
}

#[tokio::test]
async fn a_pull_whose_deadline_passes_on_a_full_disk_fails_with_the_reason() {
    let limits = Limits { min_free: u64::MAX, ..LIMITS };
    let mut fixture = TransfersFixture::start_within(limits, nothing).await;
    let id = fixture.pull_of(None, Some(Duration::from_millis(200))).await.unwrap().id;
    let order = fixture.order().await;
    endless(&fixture, &order, 4, Vec::new());
    assert_eq!(fixture.ended(id).await.problem().unwrap().code, Code::ServerFull);
}

#[tokio::test]
async fn a_slow_upload_releases_its_permit_and_keeps_its_bytes() {
    let min_rate_window = Duration::from_millis(200);
    let limits = Limits { min_rate: 1 << 20, min_rate_window, ..LIMITS };
    let mut fixture = TransfersFixture::start_within(limits, nothing).await;
    let slow = fixture.pull().await.unwrap().id;
    let order = fixture.order().await;
    let mut replies = endless(&fixture, &order, 4, vec![chunk(0, b"da")]);
    fixture.sees(slow, |view| view.activity == Activity::Running).await;
    let other = fixture.pull_of(Some("other.txt"), None).await.unwrap().id;
    let refused = loop {
        match soon(replies.recv()).await.unwrap() {
            Reply::Refused { problem, expected_offset } => break (problem, expected_offset),
            Reply::Ack { .. } | Reply::Stored { .. } | Reply::Violation { .. } => {}
        }
    };
    assert_eq!((refused.0.code, refused.1), (Code::ServerBusy, Some(2)));
    let next = fixture.order().await;
    assert_eq!(next.transfer, other);
    let waits = fixture.sees(slow, |view| matches!(view.activity, Activity::Waiting(_))).await;
    assert_eq!(waits.state(), TransferState::Waiting(WaitingFor::OtherFile));
    fixture.upload(&next, 4, whole(b"data"));
    assert!(fixture.ended(other).await.download().is_some());
    let again = fixture.order().await;
    assert_eq!((again.transfer, again.attempt, again.prefix.len), (slow, 2, 2));
    let end = trailer(4, Blake3::of(b"data"));
    fixture.upload(&again, 4, vec![chunk(2, b"ta"), end]);
    assert!(fixture.ended(slow).await.download().is_some());
}

#[tokio::test]
async fn a_client_has_a_bounded_number_of_waiting_transfers() {
    let limits = Limits { max_waiting: 100, max_waiting_per_client: 2, ..LIMITS };
    let mut fixture = TransfersFixture::start_within(limits, nothing).await;
    let id = fixture.pull().await.unwrap().id;
    let order = fixture.order().await;
    endless(&fixture, &order, 4, Vec::new());
    fixture.sees(id, |view| view.activity == Activity::Running).await;
    fixture.pull_of(Some("a.txt"), None).await.unwrap();
    fixture.pull_of(Some("b.txt"), None).await.unwrap();
    let problem = fixture.pull_of(Some("c.txt"), None).await.unwrap_err();
    assert_eq!(problem.code, Code::ServerBusy);
    assert!(problem.detail.starts_with("2 transfers of client4 are waiting"), "{problem:?}");
    assert!(fixture.pull_of(Some("b.txt"), None).await.unwrap().joined);
}

#[tokio::test]
async fn a_file_that_changes_before_each_attempt_is_rejected_despite_progress() {
    let mut fixture = TransfersFixture::start().await;
    let id = fixture.pull().await.unwrap().id;
    for n_changed in 0..=Transfer::MAX_CHANGED {
        let order = fixture.order().await;
        assert_eq!(order.prefix.len == 0, n_changed == 0);
        let items = stream::iter([Ok(chunk(0, b"da"))]).boxed();
        fixture.upload_from(0, &order, 4, items);
    }
    let ended = fixture.ended(id).await;
    assert_eq!(ended.problem().unwrap().code, Code::FileChanged);
    assert_eq!(ended.setbacks.changed, Transfer::MAX_CHANGED);
    assert!(fixture.names().is_empty());
}

#[tokio::test]
async fn all_bytes_are_shown_as_soon_as_they_are_received() {
    let mut fixture = TransfersFixture::start().await;
    let id = fixture.pull().await.unwrap().id;
    let order = fixture.order().await;
    endless(&fixture, &order, 4, vec![chunk(0, b"data")]);
    let view = fixture.sees(id, |view| view.bytes_done == 4).await;
    assert_eq!((view.percent(), view.eta()), (Some(100), None));
}

#[tokio::test]
async fn a_newer_pull_does_not_overtake_the_first_one_of_an_idle_client() {
    let mut fixture = TransfersFixture::start().await;
    let context = &fixture.transfers.context;
    let insert = |mode| {
        let transfer = Transfer::new(client(), None, "test".to_owned(), now());
        let (mut task, handle) = TransferTask::new(context, Transfer { mode, ..transfer });
        let id = task.transfer.id;
        let inserted = context.active.join_or_insert(&mut task, handle, 2, 2).unwrap();
        assert!(matches!(inserted, active::JoinResult::Inserted(_)));
        (id, task)
    };
    let (first, first_task) = insert(PullMode::Changes);
    let (_, newer_task) = insert(PullMode::All);
    // The scheduler may run the newer one first.
    newer_task.spawn();
    first_task.spawn();
    assert_eq!(fixture.order().await.transfer, first);
}
