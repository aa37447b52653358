//! Uploads that copy from the last download of their file.

use std::fs;

use filepull_core::CHUNK_LEN;
use filepull_core::base_offer::BaseUse;
use filepull_core::delta::BlockHasher;
use filepull_core::transfer::UnchangedFile;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::transfers::BlockListPart;

const FIRST: &[u8] = b"the first version of the file";
const SECOND: &[u8] = b"the first version of the file, and more";

/// What an agent sends of SECOND if it copies FIRST.
fn grown() -> Vec<UploadItem> {
    let len = FIRST.len() as u64;
    let end = trailer(SECOND.len() as u64, Blake3::of(SECOND));
    vec![copy(0, len), chunk(len, &SECOND[FIRST.len()..]), end]
}

fn copy(offset: u64, len: u64) -> UploadItem {
    let content = ReceivedContent::Copy { base_offset: offset, len };
    UploadItem::Extent(ReceivedExtent { offset, content })
}

impl TransfersFixture {
    /// Pulls a file, and returns its transfer.
    async fn download(&mut self, bytes: &'static [u8]) -> Transfer {
        let id = self.pull().await.unwrap().id;
        let order = self.order().await;
        let chunks = bytes.chunks(CHUNK_LEN).zip((0..).step_by(CHUNK_LEN));
        let mut items: Vec<_> = chunks.map(|(bytes, offset)| chunk(offset, bytes)).collect();
        items.push(trailer(bytes.len() as u64, Blake3::of(bytes)));
        self.upload(&order, bytes.len(), items);
        self.ended(id).await
    }

    /// Pulls in a mode, and returns the transfer and its order.
    async fn pull_and_order(&mut self, mode: PullMode) -> (TransferId, SendOrder) {
        let id = self.pull_as(mode).await.unwrap().id;
        let order = self.order().await;
        assert_eq!(order.transfer, id);
        (id, order)
    }

    fn path(&self, transfer: &Transfer) -> PathBuf {
        let name = transfer.download().unwrap().name.to_string();
        self.folder.path().join("client4").join(name)
    }

    /// Answers that the file equals the base.
    fn answer_unchanged(&self, order: &SendOrder, size: usize) {
        let answer = Answer::Unchanged(source(size));
        self.transfers.answer(&client(), order.transfer, order.attempt, answer);
    }

    /// Uploads the complete file without copies, and returns the transfer.
    async fn upload_whole(&self, order: &SendOrder, bytes: &'static [u8]) -> Transfer {
        self.upload(order, bytes.len(), whole(bytes));
        self.ended(order.transfer).await
    }

    /// Begins the upload of SECOND, whose items follow.
    fn begin_upload(
        &self,
        order: &SendOrder,
        block_list: Option<mpsc::Sender<BlockListPart>>,
    ) -> (mpsc::Sender<Result<UploadItem, String>>, mpsc::Receiver<Reply>) {
        let (items, stream) = mpsc::channel(8);
        let (replies, received) = mpsc::channel(16);
        let stream = UploadStream::new(ReceiverStream::new(stream).boxed(), ReadBudget::default());
        let size = SECOND.len();
        let upload = Upload {
            attempt: order.attempt,
            token: order.token,
            offset: 0,
            source: source(size),
            stored: size as u64,
            block_list,
            stream,
            replies,
        };
        self.transfers.upload(order.transfer, upload);
        (items, received)
    }

    /// Stops the server, and starts another one in its folder.
    async fn restart(self) -> Self {
        self.transfers.context.lifecycle.drain().cancel();
        self.records.close().await.unwrap();
        let Self { folder, .. } = self;
        Self::start_in(folder, LIMITS, ExtentKinds::ALL, async |_, _| {}).await
    }
}

/// Changes a byte of a file, and not its length.
fn damage(path: &std::path::Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[3] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn traffic(transfer: &Transfer) -> (u64, BaseUse) {
    (transfer.sent, transfer.base_use)
}

#[tokio::test]
async fn an_upload_that_copies_is_the_whole_file_and_tells_what_was_sent() {
    let mut fixture = TransfersFixture::start().await;
    let first = fixture.download(FIRST).await;
    assert_eq!(traffic(&first), (FIRST.len() as u64, BaseUse::Unused));
    let (_, order) = fixture.pull_and_order(PullMode::Changes).await;
    let offer = order.base.unwrap();
    assert_eq!((offer.len, offer.blake3), (FIRST.len() as u64, Blake3::of(FIRST)));
    fixture.upload(&order, SECOND.len(), grown());
    let second = fixture.ended(order.transfer).await;
    let n_sent = (SECOND.len() - FIRST.len()) as u64;
    assert_eq!(traffic(&second), (n_sent, BaseUse::Copied));
    assert_eq!(fs::read(fixture.path(&second)).unwrap(), SECOND);
    let (_, order) = fixture.pull_and_order(PullMode::Changes).await;
    assert_eq!(order.base.unwrap().blake3, Blake3::of(SECOND), "the last one is the base");
}

#[tokio::test]
async fn a_base_is_offered_only_for_changes_and_only_to_an_agent_that_copies() {
    let mut fixture = TransfersFixture::start().await;
    fixture.download(FIRST).await;
    for (mode, is_offered) in
        [(PullMode::Changes, true), (PullMode::IfChanged, true), (PullMode::All, false)]
    {
        let (id, order) = fixture.pull_and_order(mode).await;
        assert_eq!(order.base.is_some(), is_offered, "{mode:?}");
        assert_eq!(order.if_changed, mode == PullMode::IfChanged);
        soon(fixture.transfers.cancel(id, &actor(), &Scope::Everything)).await.unwrap();
    }
    let TransfersFixture { folder, records, transfers, .. } = fixture;
    transfers.context.lifecycle.drain().cancel();
    records.close().await.unwrap();
    let extents = ExtentKinds { copy: false, ..ExtentKinds::ALL };
    let mut fixture = TransfersFixture::start_in(folder, LIMITS, extents, async |_, _| {}).await;
    let (_, order) = fixture.pull_and_order(PullMode::IfChanged).await;
    assert_eq!((order.base, order.if_changed), (None, false));
}

#[tokio::test]
async fn a_download_that_is_gone_or_has_another_size_is_no_base() {
    let mut fixture = TransfersFixture::start().await;
    let remove = |path: PathBuf| fs::remove_file(path).unwrap();
    let cut = |path: PathBuf| {
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(3).unwrap();
    };
    let actions: [&dyn Fn(PathBuf); 2] = [&remove, &cut];
    for change in actions {
        let done = fixture.download(FIRST).await;
        change(fixture.path(&done));
        let (_, order) = fixture.pull_and_order(PullMode::IfChanged).await;
        assert_eq!((order.base, order.if_changed), (None, false));
        let done = fixture.upload_whole(&order, SECOND).await;
        assert_eq!(done.base_use, BaseUse::Unused);
    }
}

#[tokio::test]
async fn a_base_that_is_removed_during_the_upload_is_still_copied() {
    let mut fixture = TransfersFixture::start().await;
    let first = fixture.download(FIRST).await;
    let (_, order) = fixture.pull_and_order(PullMode::Changes).await;
    fs::remove_file(fixture.path(&first)).unwrap();
    fixture.upload(&order, SECOND.len(), grown());
    let second = fixture.ended(order.transfer).await;
    assert_eq!(second.base_use, BaseUse::Copied);
    assert_eq!(fs::read(fixture.path(&second)).unwrap(), SECOND);
}

#[tokio::test]
async fn a_file_that_equals_the_base_makes_no_file() {
    let mut fixture = TransfersFixture::start().await;
    let first = fixture.download(FIRST).await;
    let (id, order) = fixture.pull_and_order(PullMode::IfChanged).await;
    fixture.answer_unchanged(&order, FIRST.len());
    let ended = fixture.ended(id).await;
    let since = first.download().unwrap().name.clone();
    assert_eq!(ended.phase, Phase::Unchanged(UnchangedFile { source: source(FIRST.len()), since }));
    assert_eq!(traffic(&ended), (0, BaseUse::Unused));
    assert!(ended.finished_at.is_some());
    assert_eq!(fixture.names().len(), 1);
}

#[tokio::test]
async fn a_damaged_base_is_never_called_unchanged() {
    let mut fixture = TransfersFixture::start().await;
    let first = fixture.download(FIRST).await;
    let (id, order) = fixture.pull_and_order(PullMode::IfChanged).await;
    damage(&fixture.path(&first));
    fixture.answer_unchanged(&order, FIRST.len());
    let again = fixture.order().await;
    assert_eq!((again.transfer, again.base, again.if_changed), (id, None, false));
    let done = fixture.upload_whole(&again, FIRST).await;
    assert_eq!(traffic(&done), (FIRST.len() as u64, BaseUse::Failed));
    assert_eq!(fs::read(fixture.path(&done)).unwrap(), FIRST);
    let due = fixture.records.scrubbed_before(DateTime::UNIX_EPOCH, 9).await.unwrap();
    assert_eq!(due.len(), 1, "the scrubber reads the damaged download next");
}

#[tokio::test]
async fn a_base_that_was_removed_is_never_called_unchanged() {
    let mut fixture = TransfersFixture::start().await;
    let first = fixture.download(FIRST).await;
    let (_, order) = fixture.pull_and_order(PullMode::IfChanged).await;
    fs::remove_file(fixture.path(&first)).unwrap();
    fixture.answer_unchanged(&order, FIRST.len());
    let again = fixture.order().await;
    assert_eq!((again.base, again.if_changed), (None, false));
    assert!(fixture.upload_whole(&again, FIRST).await.download().is_some());
}

#[tokio::test]
async fn only_a_transfer_that_may_make_no_file_ends_unchanged() {
    let mut fixture = TransfersFixture::start().await;
    fixture.download(FIRST).await;
    let (_, order) = fixture.pull_and_order(PullMode::Changes).await;
    fixture.answer_unchanged(&order, FIRST.len());
    let again = fixture.order().await;
    assert_eq!(again.attempt, 2, "the answer was refused");
    assert!(again.base.is_some());
    fixture.upload_whole(&again, FIRST).await;
    let (_, order) = fixture.pull_and_order(PullMode::IfChanged).await;
    fixture.answer_unchanged(&order, FIRST.len() + 1);
    let again = fixture.order().await;
    assert_eq!(again.attempt, 2, "a file of another size cannot equal the base");
}

#[tokio::test]
async fn an_upload_with_bytes_of_a_damaged_base_is_repeated_without_one() {
    let mut fixture = TransfersFixture::start().await;
    let first = fixture.download(FIRST).await;
    let (id, order) = fixture.pull_and_order(PullMode::Changes).await;
    damage(&fixture.path(&first));
    let mut replies = fixture.upload(&order, SECOND.len(), grown());
    assert!(matches!(soon(replies.recv()).await, Some(Reply::Refused { .. })));
    let again = fixture.order().await;
    assert_eq!((again.transfer, again.attempt, again.base), (id, 2, None));
    assert_eq!(again.prefix.len, 0, "the copied bytes are dropped");
    let done = fixture.upload_whole(&again, SECOND).await;
    assert_eq!(done.setbacks.damaged, 0, "the network has damaged nothing");
    let sent = (2 * SECOND.len() - FIRST.len()) as u64;
    assert_eq!(traffic(&done), (sent, BaseUse::Failed));
    assert_eq!(fs::read(fixture.path(&done)).unwrap(), SECOND);
}

#[tokio::test]
async fn a_base_that_is_cut_during_the_upload_costs_one_attempt() {
    let mut fixture = TransfersFixture::start().await;
    let first = fixture.download(FIRST).await;
    let (_, order) = fixture.pull_and_order(PullMode::Changes).await;
    fs::OpenOptions::new().write(true).open(fixture.path(&first)).unwrap().set_len(3).unwrap();
    fixture.upload(&order, SECOND.len(), grown());
    let again = fixture.order().await;
    assert_eq!((again.attempt, again.base, again.prefix.len), (2, None, 0));
    let done = fixture.upload_whole(&again, SECOND).await;
    assert_eq!((done.setbacks.damaged, done.base_use), (0, BaseUse::Failed));
}

#[tokio::test]
async fn an_upload_without_copies_that_is_damaged_keeps_its_base() {
    let mut fixture = TransfersFixture::start().await;
    fixture.download(FIRST).await;
    let (_, order) = fixture.pull_and_order(PullMode::Changes).await;
    let wrong = trailer(SECOND.len() as u64, Blake3::of(FIRST));
    fixture.upload(&order, SECOND.len(), vec![chunk(0, SECOND), wrong]);
    let again = fixture.order().await;
    assert!(again.base.is_some());
    let done = fixture.upload_whole(&again, SECOND).await;
    assert_eq!((done.setbacks.damaged, done.base_use), (1, BaseUse::Unused));
}

#[tokio::test]
async fn a_restart_keeps_what_was_copied_and_what_was_sent() {
    let mut fixture = TransfersFixture::start().await;
    let first = fixture.download(FIRST).await;
    let (id, order) = fixture.pull_and_order(PullMode::Changes).await;
    let len = FIRST.len() as u64;
    // The upload is open when the server stops, which makes its bytes durable.
    let (items, mut replies) = fixture.begin_upload(&order, None);
    for item in [copy(0, len), chunk(len, b", ")] {
        items.send(Ok(item)).await.unwrap();
    }
    let acked = async {
        // An ack is due a second after the last one, once something arrives.
        while replies.is_empty() {
            items.send(Ok(chunk(len + 2, b""))).await.unwrap();
        }
        replies.recv().await
    };
    assert!(matches!(soon(acked).await, Some(Reply::Ack { received, .. }) if received == len + 2));
    fixture.transfers.context.lifecycle.stop().cancel();
    let stopped = async {
        while fixture.transfers.watch(id).is_some() {
            tokio::task::yield_now().await;
        }
    };
    soon(stopped).await;
    let mut fixture = fixture.restart().await;
    damage(&fixture.path(&first));
    let again = fixture.order().await;
    assert_eq!((again.transfer, again.prefix.len), (id, len + 2));
    // The copied bytes are on record, so the base is the suspect.
    let end = trailer(SECOND.len() as u64, Blake3::of(b"another file"));
    fixture.upload(&again, SECOND.len(), vec![chunk(len + 2, &SECOND[FIRST.len() + 2..]), end]);
    let third = fixture.order().await;
    assert_eq!((third.base, third.prefix.len), (None, 0));
    let mut fixture = fixture.restart().await;
    let fourth = fixture.order().await;
    assert_eq!((fourth.transfer, fourth.base), (id, None), "the failure is on record");
    let done = fixture.upload_whole(&fourth, SECOND).await;
    let sent = (2 * SECOND.len() - FIRST.len()) as u64;
    assert_eq!((done.setbacks.damaged, traffic(&done)), (0, (sent, BaseUse::Failed)));
}

#[tokio::test]
async fn a_pull_for_a_file_never_joins_one_that_may_make_none() {
    let mut fixture = TransfersFixture::start().await;
    fixture.download(FIRST).await;
    let may_make_none = fixture.pull_as(PullMode::IfChanged).await.unwrap();
    assert!(fixture.pull_as(PullMode::IfChanged).await.unwrap().joined);
    let plain = fixture.pull_as(PullMode::Changes).await.unwrap();
    assert!(!plain.joined);
    assert_ne!(plain.id, may_make_none.id);
    assert!(!fixture.pull_as(PullMode::All).await.unwrap().joined, "the others have a base");
}

#[tokio::test]
async fn the_list_of_a_base_has_the_ids_of_its_blocks() {
    // Longer than one part of 48 KiB, which has the ids of 24 MiB.
    let mut bytes = vec![7; 30 << 20];
    bytes[5 << 20] = 1;
    bytes[29 << 20] = 2;
    let base: &[u8] = bytes.leak();
    let mut fixture = TransfersFixture::start().await;
    fixture.download(base).await;
    let (id, order) = fixture.pull_and_order(PullMode::Changes).await;
    let blocks = order.base.unwrap().blocks.unwrap();
    let (parts, mut list) = mpsc::channel(1);
    let _upload = fixture.begin_upload(&order, Some(parts));
    let mut expected = Vec::new();
    BlockHasher::new(blocks.key, blocks.block_len).update(base, &mut expected);
    let mut found = Vec::new();
    while found.len() < expected.len() {
        let Some(BlockListPart::Ids(ids)) = soon(list.recv()).await else { panic!("no ids") };
        assert!(ids.len() <= 48 * 1024);
        found.extend_from_slice(&ids);
    }
    assert!(found == expected, "other ids");
    soon(fixture.transfers.cancel(id, &actor(), &Scope::Everything)).await.unwrap();
    assert_eq!(soon(list.recv()).await, None, "the list ends with the upload");
    let (_, again) = fixture.pull_and_order(PullMode::Changes).await;
    assert!(again.base.unwrap().blocks.unwrap().key != blocks.key, "another key");
}

#[tokio::test]
async fn a_list_that_the_agent_does_not_take_delays_no_cancel() {
    let base: &[u8] = vec![7; 30 << 20].leak();
    let mut fixture = TransfersFixture::start().await;
    fixture.download(base).await;
    let (id, order) = fixture.pull_and_order(PullMode::Changes).await;
    let (parts, list) = mpsc::channel(1);
    let _upload = fixture.begin_upload(&order, Some(parts));
    let is_full = async {
        while list.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    soon(is_full).await;
    let ended = soon(fixture.transfers.cancel(id, &actor(), &Scope::Everything)).await.unwrap();
    assert_eq!(ended.state(), TransferState::Cancelled);
}

#[tokio::test]
async fn a_base_that_cannot_be_read_is_gone_and_the_file_arrives_all_the_same() {
    let base: &[u8] = vec![7; 1 << 20].leak();
    let mut fixture = TransfersFixture::start().await;
    let first = fixture.download(base).await;
    let (_, order) = fixture.pull_and_order(PullMode::Changes).await;
    fs::OpenOptions::new().write(true).open(fixture.path(&first)).unwrap().set_len(3).unwrap();
    let (parts, mut list) = mpsc::channel(1);
    let (items, _replies) = fixture.begin_upload(&order, Some(parts));
    assert_eq!(soon(list.recv()).await, Some(BlockListPart::Gone));
    for item in whole(SECOND) {
        items.send(Ok(item)).await.unwrap();
    }
    let done = fixture.ended(order.transfer).await;
    assert_eq!(traffic(&done), (SECOND.len() as u64, BaseUse::Failed));
}

#[tokio::test]
async fn an_agent_without_a_base_that_wants_a_list_learns_that_there_is_none() {
    let mut fixture = TransfersFixture::start().await;
    let (_, order) = fixture.pull_and_order(PullMode::Changes).await;
    let (parts, mut list) = mpsc::channel(1);
    let _upload = fixture.begin_upload(&order, Some(parts));
    assert_eq!(soon(list.recv()).await, Some(BlockListPart::Gone));
}
