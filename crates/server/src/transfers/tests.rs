//! Transfers with a real disk and real records. The test acts as the agent, and the server's own
//! resources fail.

use std::path::PathBuf;
use tokio::sync::watch;

use filepull_core::extent::ExtentKinds;
use filepull_core::file_digest::{Blake3, FileDigests};
use filepull_core::name::DownloadName;
use filepull_core::path::SharedPath;
use filepull_core::pull_mode::PullMode;
use filepull_core::receive::Prefix;
use filepull_core::source::Source;
use filepull_core::transfer::{Download, Phase, Receiving, Sealed, Transfer};
use futures::StreamExt as _;
use futures::stream;
use tokio::sync::mpsc;
use tokio::time::timeout;

mod bases;
mod receipts;
mod waits;

use super::*;
use crate::client::{AgentInfo, Greeting, OnRecord};
use crate::data_folder::RECORDS_FOLDER;
use crate::read_budget::ReadBudget;
use crate::receive::{
    ReceivedContent, ReceivedExtent, ReceivedTrailer, UploadItem, UploadItems, UploadStream,
};
use crate::registry::{LastHeard, Message, SendOrder, SessionGuard, SessionHandle};

pub(crate) const LIMITS: Limits = Limits {
    max_running: 2,
    max_waiting: 2,
    max_waiting_per_client: 2,
    max_file_size: 1 << 30,
    min_free: 0,
    stall_timeout: Duration::from_mins(1),
    min_rate: 0,
    min_rate_window: Duration::from_mins(5),
    resume_within: Duration::from_mins(1),
    checkpoint_every: Duration::from_mins(1),
    read_back: ReadBackPolicy::Resumed,
};

/// A server in a folder, and the session of its only client.
struct TransfersFixture {
    folder: tempfile::TempDir,
    records: Records,
    transfers: Transfers,
    orders: mpsc::Receiver<Message>,
    _guard: SessionGuard,
    _last_heard: watch::Sender<LastHeard>,
}

fn actor() -> Actor {
    Actor { name: "test".to_owned(), address: String::new(), request_id: None }
}

fn any_pull() -> Pull {
    Pull {
        client: client(),
        path: None,
        queue: None,
        mode: PullMode::Changes,
        scope: Scope::Everything,
        requested_by: actor(),
        key: None,
    }
}

fn client() -> ClientId {
    ClientId::parse("client4").unwrap()
}

fn trailer(total_size: u64, blake3: Blake3) -> UploadItem {
    UploadItem::End(ReceivedTrailer { total_size, blake3, receipt: Ok(None) })
}

fn source(size: usize) -> Source {
    Source { name: "data.txt".to_owned(), size: size as u64, modified_ns: 0 }
}

/// Waits for a result, and fails the test after a minute.
async fn soon<T>(happens: impl Future<Output = T>) -> T {
    timeout(Duration::from_mins(1), happens).await.expect("timed out")
}

impl TransfersFixture {
    async fn start() -> Self {
        Self::start_with(async |_, _| {}).await
    }

    /// Starts a server after `prepare` has changed the folder and the records.
    async fn start_with(prepare: impl AsyncFnOnce(PathBuf, &Records)) -> Self {
        Self::start_within(LIMITS, prepare).await
    }

    async fn start_within(limits: Limits, prepare: impl AsyncFnOnce(PathBuf, &Records)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::start_in(folder, limits, ExtentKinds::ALL, prepare).await
    }

    /// Starts a server in a folder. Its client can send these extents.
    async fn start_in(
        folder: tempfile::TempDir,
        limits: Limits,
        extents: ExtentKinds,
        prepare: impl AsyncFnOnce(PathBuf, &Records),
    ) -> Self {
        let records = Records::open(&folder.path().join(RECORDS_FOLDER)).await.unwrap();
        prepare(folder.path().join("client4"), &records).await;
        let registry = Registry::new();
        let greeting = Greeting {
            client: client(),
            instance: uuid::Uuid::nil(),
            agent: AgentInfo::default(),
            shares: Vec::new(),
            default_file: Err(Code::FileMissing),
            extents,
            active_transfers: Vec::new(),
            remote_addr: ([127, 0, 0, 1], 1).into(),
            key: None,
        };
        let (last_heard, heard) = watch::channel(LastHeard { at: Utc::now(), round_trip: None });
        let (session, orders) = SessionHandle::new(1, &greeting, heard);
        let on_record = OnRecord { epoch: 1, ..OnRecord::default() };
        let guard = registry.enter(greeting, session, on_record, Utc::now()).unwrap();
        let store = Store::open(folder.path()).unwrap();
        let lifecycle = Lifecycle::new();
        let disk = DiskSampler::start(store.clone(), &lifecycle);
        let started =
            Transfers::start(records.clone(), registry, store, disk, lifecycle, limits).await;
        Self {
            folder,
            records,
            transfers: started.unwrap(),
            orders,
            _guard: guard,
            _last_heard: last_heard,
        }
    }

    async fn pull(&self) -> Result<PullResult, Problem> {
        self.pull_of(None, None).await
    }

    async fn pull_as(&self, mode: PullMode) -> Result<PullResult, Problem> {
        soon(self.transfers.pull(Pull { mode, ..any_pull() })).await
    }

    async fn pull_of(
        &self,
        path: Option<&str>,
        queue: Option<Duration>,
    ) -> Result<PullResult, Problem> {
        let path = path.map(|path| SharedPath::parse(path).unwrap());
        soon(self.transfers.pull(Pull { path, queue, ..any_pull() })).await
    }

    async fn order(&mut self) -> SendOrder {
        loop {
            match soon(self.orders.recv()).await.unwrap() {
                Message::Start(order) => return *order,
                Message::Ping
                | Message::Cancel { .. }
                | Message::Drain { .. }
                | Message::CaPins(_)
                | Message::RotateKey
                | Message::KeyAccepted(_) => {}
            }
        }
    }

    /// Answers an order for a file of `size` bytes with these items. Returns the responses of the
    /// server.
    fn upload(
        &self,
        order: &SendOrder,
        size: usize,
        items: Vec<UploadItem>,
    ) -> mpsc::Receiver<Reply> {
        let items = stream::iter(items).map(Ok).boxed();
        self.upload_from(order.prefix.len, order, size, items)
    }

    fn upload_from(
        &self,
        offset: u64,
        order: &SendOrder,
        size: usize,
        items: UploadItems,
    ) -> mpsc::Receiver<Reply> {
        let (replies, received) = mpsc::channel(16);
        let upload = Upload {
            attempt: order.attempt,
            token: order.token,
            offset,
            source: source(size),
            stored: size as u64,
            block_list: None,
            stream: UploadStream::new(items, ReadBudget::default()),
            replies,
        };
        self.transfers.upload(order.transfer, upload);
        received
    }

    /// Makes the records reject a transfer that matches this SQL condition.
    fn refuse(&self, when: &str) {
        self.run(&format!(
            "CREATE TRIGGER refuse BEFORE INSERT ON transfers WHEN {when} \
             BEGIN SELECT RAISE(FAIL, 'refused'); END"
        ));
    }

    fn accept_again(&self) {
        self.run("DROP TRIGGER refuse");
    }

    fn run(&self, sql: &str) {
        let file = self.folder.path().join(RECORDS_FOLDER).join("records.db");
        let connection = rusqlite::Connection::open(file).unwrap();
        connection.execute_batch(sql).unwrap();
        connection.close().unwrap();
    }

    /// Waits until a transfer waits for the server's disk or records.
    async fn waits_for_resource(&self) {
        let waits = async {
            while self.transfers.n_resource_waits() == 0 {
                tokio::task::yield_now().await;
            }
        };
        soon(waits).await;
    }

    async fn ended(&self, id: TransferId) -> Transfer {
        let final_view = async {
            if let Some(mut view) = self.transfers.watch(id) {
                let _ = view.wait_for(|view| view.transfer.is_final()).await;
            }
            self.transfers.find(id, &Scope::Everything).await.unwrap()
        };
        let view = soon(final_view).await;
        assert!(view.transfer.is_final(), "{view:?}");
        let recorded = self.records.transfer(id).await.unwrap().unwrap();
        assert_eq!(recorded.readable().as_ref(), Some(&view.transfer));
        view.transfer
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path().join("client4")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn chunk(offset: u64, bytes: &'static [u8]) -> UploadItem {
    UploadItem::Extent(ReceivedExtent { offset, content: ReceivedContent::Data(bytes.into()) })
}

fn whole(bytes: &'static [u8]) -> Vec<UploadItem> {
    let end = trailer(bytes.len() as u64, Blake3::of(bytes));
    vec![chunk(0, bytes), end]
}

#[tokio::test]
async fn records_that_fail_when_a_file_is_complete_do_not_lose_the_file() {
    let mut fixture = TransfersFixture::start().await;
    let id = fixture.pull().await.unwrap().id;
    fixture.refuse("NEW.state = 'sealed'");
    let order = fixture.order().await;
    let mut replies = fixture.upload(&order, 4, whole(b"data"));
    fixture.waits_for_resource().await;
    let view = fixture.transfers.find(id, &Scope::Everything).await.unwrap();
    assert_eq!(view.state(), TransferState::Waiting(WaitingFor::Disk), "{view:?}");
    assert_eq!(view.reason.as_deref(), Some("The server could not read or write its records."));
    let finding = fixture.transfers.storing_problem().unwrap();
    assert!(finding.starts_with("1 transfer waits") && finding.contains("records"), "{finding}");
    assert_eq!(
        fixture.names(),
        [crate::store::partial_name(id, 1)],
        "nothing is published, nothing is lost"
    );
    fixture.accept_again();
    assert!(fixture.ended(id).await.download().is_some());
    assert!(matches!(soon(replies.recv()).await, Some(Reply::Stored { .. })));
    assert_eq!(fixture.transfers.n_resource_waits(), 0);
    assert_eq!(fixture.names().len(), 1);
}

#[tokio::test]
async fn records_that_fail_between_two_attempts_do_not_lose_the_received_bytes() {
    let mut fixture = TransfersFixture::start().await;
    let id = fixture.pull().await.unwrap().id;
    fixture.refuse("NEW.attempt = 2");
    let order = fixture.order().await;
    fixture.upload(&order, 4, vec![chunk(0, b"da")]);
    fixture.waits_for_resource().await;
    fixture.accept_again();
    let again = fixture.order().await;
    assert_eq!((again.attempt, again.prefix.len), (2, 2));
    let end = trailer(4, Blake3::of(b"data"));
    fixture.upload(&again, 4, vec![chunk(2, b"ta"), end]);
    assert!(fixture.ended(id).await.download().is_some());
}

#[tokio::test]
async fn a_cancel_is_handled_while_the_records_fail() {
    let mut fixture = TransfersFixture::start().await;
    let id = fixture.pull().await.unwrap().id;
    fixture.refuse("NEW.state = 'sealed'");
    let order = fixture.order().await;
    fixture.upload(&order, 4, whole(b"data"));
    fixture.waits_for_resource().await;
    let cancelled = soon(fixture.transfers.cancel(id, &actor(), &Scope::Everything)).await.unwrap();
    assert_eq!(cancelled.state(), TransferState::Cancelled);
    assert!(fixture.names().is_empty());
}

#[tokio::test]
async fn a_trigger_that_cannot_be_recorded_starts_nothing() {
    let fixture = TransfersFixture::start().await;
    fixture.refuse("NEW.state = 'queued'");
    let problem = fixture.pull().await.unwrap_err();
    assert_eq!(problem.code, Code::RecordsFailed);
    assert_eq!(fixture.transfers.counts(&Scope::Everything).await, TransferCounts::default());
}

/// Creates a transfer that an earlier process sealed, and whose cancel it accepted.
async fn cancelled(folder: PathBuf, records: &Records, is_named: bool) -> TransferId {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::create_dir(&folder).unwrap();
    let mut transfer = Transfer::new(client(), None, "test".to_owned(), now());
    let name = DownloadName::new(DateTime::UNIX_EPOCH, "data.txt");
    let partial = crate::store::partial_name(transfer.id, transfer.generation);
    let path = folder.join(if is_named { name.to_string() } else { partial });
    std::fs::write(&path, "data").unwrap();
    let inode = path.metadata().unwrap().ino();
    let digests = FileDigests::of(b"data");
    transfer.phase = Phase::Sealed(Sealed::from_record(Download {
        source: source(4),
        name,
        size: 4,
        digests,
        inode,
    }));
    records.save(&transfer).await.unwrap();
    records.keep_cancel(transfer.id, "Cancelled by test.").await.unwrap();
    transfer.id
}

#[tokio::test]
async fn an_accepted_cancel_takes_effect_after_a_restart_unless_the_name_is_there() {
    for is_named in [false, true] {
        let mut id = None;
        let fixture = TransfersFixture::start_with(async |folder, records| {
            id = Some(cancelled(folder, records, is_named).await);
        })
        .await;
        let ended = fixture.ended(id.unwrap()).await;
        let problem = ended.problem().map(|problem| problem.detail.as_str());
        assert_eq!(problem, (!is_named).then_some("Cancelled by test."));
        assert_eq!(fixture.names().len(), usize::from(is_named), "{:?}", fixture.names());
    }
}

#[tokio::test]
async fn a_cancel_of_a_file_that_may_have_its_name_is_on_record_before_its_answer() {
    let mut id = None;
    let fixture = TransfersFixture::start_with(async |folder, records| {
        id = Some(sealed(folder, records).await.id);
    })
    .await;
    let id = id.unwrap();
    fixture.waits_for_resource().await;
    let view = soon(fixture.transfers.cancel(id, &actor(), &Scope::Everything)).await.unwrap();
    assert_eq!(view.state(), TransferState::Waiting(WaitingFor::Disk));
    assert_eq!(fixture.records.cancels().await.unwrap().len(), 1);
    // The file has its name, so the cancel came too late.
    let folder = fixture.folder.path().join("client4");
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(folder.with_extension("aside"), &folder).unwrap();
    assert!(fixture.ended(id).await.download().is_some());
}

#[tokio::test]
async fn leftover_partials_are_removed_in_the_background_despite_unexpected_entries() {
    let mut wanted = None;
    let fixture = TransfersFixture::start_with(async |folder, records| {
        std::fs::create_dir(&folder).unwrap();
        let mut transfer = Transfer::new(client(), None, "test".to_owned(), now());
        transfer.generation = 2;
        let checkpoint = filepull_core::receive::Prefix::empty();
        transfer.phase = Phase::Receiving(Receiving::from_record(source(4), checkpoint));
        records.save(&transfer).await.unwrap();
        let name = |generation| crate::store::partial_name(transfer.id, generation);
        for generation in [1, 2] {
            std::fs::write(folder.join(name(generation)), "").unwrap();
        }
        // A folder with the name of a partial, and a link instead of a client's folder.
        let stray = crate::store::partial_name(TransferId::generate(), 1);
        std::fs::create_dir(folder.join(stray)).unwrap();
        std::os::unix::fs::symlink(&folder, folder.with_file_name("another")).unwrap();
        wanted = Some((name(1), name(2)));
    })
    .await;
    let (unwanted, wanted) = wanted.unwrap();
    let swept = async {
        while fixture.names().contains(&unwanted) {
            tokio::task::yield_now().await;
        }
    };
    soon(swept).await;
    assert!(fixture.names().contains(&wanted));
}

/// Creates a transfer that an earlier process sealed and named, and makes its folder unreadable.
async fn sealed(folder: PathBuf, records: &Records) -> Transfer {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::create_dir(&folder).unwrap();
    let name = DownloadName::new(DateTime::UNIX_EPOCH, "data.txt");
    let path = folder.join(name.to_string());
    std::fs::write(&path, "data").unwrap();
    let inode = path.metadata().unwrap().ino();
    let digests = FileDigests::of(b"data");
    let download = Download { source: source(4), name, size: 4, digests, inode };
    let mut transfer = Transfer::new(client(), None, "test".to_owned(), now());
    transfer.phase = Phase::Sealed(Sealed::from_record(download));
    records.save(&transfer).await.unwrap();
    std::fs::rename(&folder, folder.with_extension("aside")).unwrap();
    // Not a folder: opening it fails, as on a disk that cannot be read.
    std::fs::write(&folder, "").unwrap();
    transfer
}

#[tokio::test]
async fn a_sealed_download_stays_active_until_the_disk_can_be_searched() {
    let mut id = None;
    let fixture = TransfersFixture::start_with(async |folder, records| {
        id = Some(sealed(folder, records).await.id);
    })
    .await;
    let id = id.unwrap();
    fixture.waits_for_resource().await;
    let mut view = fixture.transfers.watch(id).unwrap();
    let waits = view.wait_for(|view| view.state() == TransferState::Waiting(WaitingFor::Disk));
    assert!(soon(waits).await.unwrap().reason.is_some());
    let pulled = fixture.pull().await.unwrap();
    assert_eq!((pulled.id, pulled.joined), (id, true));
    let folder = fixture.folder.path().join("client4");
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(folder.with_extension("aside"), &folder).unwrap();
    assert!(fixture.ended(id).await.download().is_some());
    assert_eq!(fixture.transfers.n_resource_waits(), 0);
}

#[tokio::test]
async fn the_partial_of_a_damaged_transfer_stays_until_its_record_is_final() {
    let mut id = None;
    let folder = async |folder: PathBuf, records: &Records| {
        let mut transfer = Transfer::new(client(), None, "test".to_owned(), now());
        let checkpoint = Prefix { len: 4, digest: Blake3::of(b"data") };
        transfer.phase = Phase::Receiving(Receiving::from_record(source(9), checkpoint));
        transfer.generation = 1;
        records.save(&transfer).await.unwrap();
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(crate::store::partial_name(transfer.id, 1)), "data").unwrap();
        let database = folder.parent().unwrap().join(RECORDS_FOLDER).join("records.db");
        let connection = rusqlite::Connection::open(database).unwrap();
        connection.execute_batch("UPDATE transfers SET generation = 7").unwrap();
        id = Some(transfer.id);
    };
    let fixture = TransfersFixture::start_with(folder).await;
    let id = id.unwrap();
    assert_eq!(fixture.names(), [crate::store::partial_name(id, 1)]);
    // The transfer has ended: it is not active and does not block the next one.
    assert_eq!(fixture.transfers.counts(&Scope::Everything).await, TransferCounts::default());
    let shown = fixture.transfers.look_up(id, &Scope::Everything).await.unwrap();
    assert!(matches!(shown, TransferListItem::Damaged(_)), "{shown:?}");
    assert!(fixture.records.unfinished().await.unwrap().damaged.is_empty());
    assert!(!fixture.pull().await.unwrap().joined);
}
