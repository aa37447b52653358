//! Compares the index with a walk over all views, which must give equal results.

use std::sync::atomic::Ordering;

use chrono::TimeDelta;
use filepull_core::transfer::Transfer;

use super::*;
use crate::transfers::{Activity, TransferState, WaitingFor};

struct TestTask {
    view: ViewSender,
    handle: TaskHandle,
}

const MODES: [PullMode; 3] = [PullMode::Changes, PullMode::IfChanged, PullMode::All];

fn begin(active: &ActiveTransfers, client: &str, path: Option<&str>, minutes: i64) -> TestTask {
    begin_as(PullMode::Changes, active, client, path, minutes)
}

fn begin_as(
    mode: PullMode,
    active: &ActiveTransfers,
    client: &str,
    path: Option<&str>,
    minutes: i64,
) -> TestTask {
    let client = ClientId::parse(client).unwrap();
    let path = path.map(|path| SharedPath::parse(path).unwrap());
    let created_at = DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes);
    let transfer = Transfer::new(client.clone(), path.clone(), "test".to_owned(), created_at);
    let id = transfer.id;
    let (view, seen) = ViewSender::new(active.clone(), View::new(transfer));
    let (commands, _) = mpsc::channel(1);
    let ordered = Arc::default();
    let handle = TaskHandle { id, client, path, mode, created_at, view: seen, commands, ordered };
    TestTask { view, handle }
}

impl TestTask {
    fn show(&self, activity: Activity) {
        self.view.send_modify(|view| view.activity = activity);
    }

    fn end(&self) {
        let cancelled = Problem::new(Code::Cancelled, "test");
        self.view.send_modify(|view| {
            // A final transfer stays unchanged.
            let _ = view.transfer.fail(cancelled, Default::default(), DateTime::UNIX_EPOCH);
        });
    }
}

/// Returns the result of a walk over the views of all tasks, oldest first.
struct Walk<'a>(Vec<&'a TestTask>);

impl Walk<'_> {
    fn of(tasks: &[TestTask]) -> Walk<'_> {
        let mut sorted: Vec<&TestTask> = tasks.iter().collect();
        sorted.sort_by_key(|task| (task.handle.created_at, task.handle.id));
        Walk(sorted)
    }

    fn counts(&self) -> TransferCounts {
        let states = || self.0.iter().map(|task| task.view.borrow().state());
        TransferCounts {
            running: states().filter(|state| *state == TransferState::Running).count(),
            waiting: states().filter(|state| matches!(state, TransferState::Waiting(_))).count(),
        }
    }

    fn place(&self, of: &TestTask) -> Option<usize> {
        let permit = |task: &TestTask| match task.view.borrow().activity {
            _ if task.view.borrow().transfer.is_final() => None,
            Activity::Waiting(WaitingFor::Permit) => Some(None),
            Activity::Waiting(WaitingFor::OtherFile) => Some(Some(task.handle.client.clone())),
            Activity::Waiting(WaitingFor::Client | WaitingFor::Disk)
            | Activity::Recording
            | Activity::Starting
            | Activity::Ordered
            | Activity::Running => None,
        };
        permit(of)?;
        let mut same_permit = self.0.iter().filter(|task| permit(task) == permit(of));
        same_permit.position(|task| task.handle.id == of.handle.id).map(|idx| idx + 1)
    }

    fn joinable(&self, like: &TestTask, mode: PullMode) -> Option<TransferId> {
        let mut newest_first = self.0.iter().rev();
        let found = newest_first.find(|task| {
            let ordered = task.handle.ordered.load(Ordering::SeqCst);
            task.handle.client == like.handle.client
                && task.handle.path == like.handle.path
                && mode.may_join(task.handle.mode, ordered)
                && !task.view.borrow().transfer.is_final()
        });
        found.map(|task| task.handle.id)
    }

    fn page(&self, kind: ActivityFilter, client: Option<&ClientId>) -> Vec<TransferId> {
        let is_shown = |task: &&&TestTask| {
            let view = task.view.borrow();
            client.is_none_or(|client| *client == task.handle.client)
                && view.activity != Activity::Recording
                && kind.selects(view.state())
        };
        self.0.iter().rev().filter(is_shown).map(|task| task.handle.id).collect()
    }

    fn current(&self, client: &ClientId) -> Option<TransferId> {
        let on_record = |task: &&&TestTask| {
            let view = task.view.borrow();
            task.handle.client == *client
                && view.activity != Activity::Recording
                && !view.transfer.is_final()
        };
        let of_client = self.0.iter().filter(on_record);
        let current =
            of_client.min_by_key(|task| task.view.borrow().state() != TransferState::Running);
        current.map(|task| task.handle.id)
    }
}

const ACTIVITIES: [Activity; 7] = [
    Activity::Starting,
    Activity::Waiting(WaitingFor::Client),
    Activity::Waiting(WaitingFor::OtherFile),
    Activity::Waiting(WaitingFor::Permit),
    Activity::Waiting(WaitingFor::Disk),
    Activity::Ordered,
    Activity::Running,
];

#[test]
fn the_index_agrees_with_a_walk_over_all_views() {
    let mut random = fastrand::Rng::with_seed(8);
    let active = ActiveTransfers::default();
    let mut tasks: Vec<TestTask> = Vec::new();
    for _ in 0..2000 {
        let client = ["a", "b", "c"][random.usize(..3)];
        let path = [None, Some("x"), Some("y")][random.usize(..3)];
        match random.u32(..10) {
            // A clock may be set back, so a later transfer may have an earlier time.
            0..4 => {
                let mode = MODES[random.usize(..3)];
                let task = begin_as(mode, &active, client, path, random.i64(0..60));
                active.insert(task.handle.clone());
                tasks.push(task);
            }
            4 if !tasks.is_empty() => {
                let task = tasks.swap_remove(random.usize(..tasks.len()));
                active.remove(task.handle.id);
                assert!(active.get(task.handle.id).is_none());
            }
            5 => random.choice(&tasks).into_iter().for_each(TestTask::end),
            6 => random
                .choice(&tasks)
                .into_iter()
                .for_each(|task| task.handle.ordered.store(true, Ordering::SeqCst)),
            _ => random
                .choice(&tasks)
                .into_iter()
                .for_each(|task| task.show(ACTIVITIES[random.usize(..ACTIVITIES.len())])),
        }
        let walk = Walk::of(&tasks);
        assert_eq!(active.counts(&ScopedIds::All), walk.counts());
        for kind in [ActivityFilter::Waiting, ActivityFilter::Running] {
            let client = ClientId::parse(client).unwrap();
            for client in [None, Some(client)] {
                let filter = TransferFilter { client: client.clone(), ..TransferFilter::default() };
                let page = active.page(kind, &filter, &ScopedIds::All);
                let expected = walk.page(kind, client.as_ref());
                assert_eq!(page.total, Total::Exactly(expected.len() as u64));
                let shown = page.items.iter().map(|item| item.as_view().unwrap().transfer.id);
                assert!(shown.eq(expected.into_iter().take(filter.limit as usize)));
            }
        }
        for task in &tasks {
            assert_eq!(active.queue_position(task.handle.id), walk.place(task));
        }
        let like = begin(&active, client, path, 0);
        for mode in MODES {
            let joined = active.join(&like.handle.client, like.handle.path.as_ref(), mode);
            assert_eq!(joined.map(|handle| handle.id), walk.joinable(&like, mode));
        }
        let current = active.current(&like.handle.client);
        assert_eq!(current.map(|view| view.transfer.id), walk.current(&like.handle.client));
    }
    for task in tasks {
        active.remove(task.handle.id);
    }
    assert!(active.lock().is_empty(), "the index keeps nothing of removed transfers");
}

#[tokio::test]
async fn a_transfer_that_is_shown_as_waiting_has_a_position() {
    let active = ActiveTransfers::default();
    let task = begin(&active, "a", None, 0);
    let id = task.handle.id;
    let mut view = task.handle.view.clone();
    active.insert(task.handle.clone());
    let is_waiting = |view: &View| view.activity == Activity::Waiting(WaitingFor::Permit);
    let position = tokio::task::spawn_blocking({
        let active = active.clone();
        move || {
            while !is_waiting(&view.borrow_and_update()) {
                std::hint::spin_loop();
            }
            active.queue_position(id)
        }
    });
    task.show(Activity::Waiting(WaitingFor::Permit));
    assert_eq!(position.await.unwrap(), Some(1));
}
