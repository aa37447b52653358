use filepull_core::base_offer::BaseUse;
use filepull_core::file_digest::FileDigests;
use filepull_core::id::ClientId;
use filepull_core::name::DownloadName;
use filepull_core::path::SharedPath;
use filepull_core::problem::Code;
use filepull_core::receive::Prefix;
use filepull_core::source::Source;
use filepull_core::transfer::{
    Download, Failure, LastProgress, Published, Receiving, Transfer, UnchangedFile,
};

use super::*;
use crate::records::DownloadState;

const MIB: u64 = 1024 * 1024;

fn at(time: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(&format!("2025-06-12T{time}Z")).unwrap().to_utc()
}

fn view(activity: Activity) -> View {
    let client = ClientId::parse("client4").unwrap();
    let mut transfer = Transfer::new(client, None, "test".to_owned(), at("14:23:05"));
    transfer.started_at = Some(at("14:23:05"));
    View {
        transfer,
        activity,
        source: None,
        bytes_done: 0,
        bytes_sent: 0,
        bytes_per_second: None,
        expires_at: None,
        reason: None,
        download_state: DownloadState::Stored,
    }
}

fn source(size: u64) -> Source {
    Source { name: "menu.txt".to_owned(), size, modified_ns: 0 }
}

fn running() -> View {
    let mut view = view(Activity::Running);
    let phase = Phase::Receiving(Receiving::from_record(source(100 * MIB), Prefix::empty()));
    view.transfer.phase = phase;
    view.source = Some(source(100 * MIB));
    view
}

fn half_done() -> View {
    View { bytes_done: 42 * MIB, bytes_per_second: Some(58 * MIB / 12), ..running() }
}

fn done(size: u64) -> View {
    let mut view = view(Activity::Running);
    let name = DownloadName::new(at("14:23:25"), "menu.txt");
    let digests = FileDigests::of(b"test");
    let download = Download { source: source(size), name, size, digests, inode: 1 };
    view.transfer.sent = size;
    view.transfer.phase = Phase::Done(Published::from_record(download));
    view.transfer.finished_at = Some(at("14:23:24.800"));
    view
}

fn context(view: &View) -> AnswerContext<'_> {
    AnswerContext {
        view,
        joined: false,
        waited: None,
        place: None,
        n_running: 20,
        data_dir: "./server-data",
        host: "localhost:8080",
        now: at("14:30:00"),
    }
}

/// Checks the status and the text. `TID` stands for the id of the transfer.
fn check(context: &AnswerContext<'_>, status: u16, text: &str) {
    let (found_status, found) = answer(context).unwrap();
    assert_eq!(found.replace(&context.view.transfer.id.to_string(), "TID"), text);
    assert_eq!(found_status.as_u16(), status);
}

/// Checks the answer for an unfinished transfer without a wait.
fn check_accepted(context: &AnswerContext<'_>, sentence: &str) {
    check_unfinished(context, 202, sentence);
}

fn check_unfinished(context: &AnswerContext<'_>, status: u16, sentence: &str) {
    let steps = "  wait   curl \"localhost:8080/transfers/TID?wait\"\n  \
                   stop   curl -X POST localhost:8080/transfers/TID/cancel\n  \
                   file   curl -OJ localhost:8080/clients/client4/file\n";
    check(context, status, &format!("{sentence}\n{steps}"));
}

/// A wait of 50 s that timed out.
fn timed_out() -> Option<WaitResult> {
    Some(WaitResult { time: Duration::from_millis(50_010), end: WaitEnd::TimedOut })
}

#[test]
fn the_answer_to_a_started_pull_names_the_file_and_its_size() {
    check_accepted(
        &context(&running()),
        "Started: client4 is sending menu.txt (100.0 MiB). Transfer TID",
    );
}

#[test]
fn the_answer_to_a_pull_by_path_links_to_the_file_of_this_transfer() {
    let mut view = running();
    view.transfer.path = Some(SharedPath::parse("logs/pos.log").unwrap());
    let (_, text) = answer(&context(&view)).unwrap();
    let file = format!("file   curl -OJ localhost:8080/transfers/{}/file\n", view.transfer.id);
    assert!(text.ends_with(&file), "{text}");
}

#[test]
fn the_answer_says_that_the_agent_has_not_answered_yet() {
    for activity in [Activity::Ordered, Activity::Starting] {
        check_accepted(&context(&view(activity)), "Asked client4, no answer yet. Transfer TID");
    }
}

#[test]
fn the_answer_to_a_waiting_pull_gives_its_position() {
    let view = view(Activity::Waiting(WaitingFor::Permit));
    let sentence = "Waiting: 20 transfers are running; client4 is number 3 in line. Transfer TID";
    check_accepted(&AnswerContext { place: Some(3), ..context(&view) }, sentence);
    let sentence = "Waiting: 1 transfer is running; client4 is number 1 in line. Transfer TID";
    check_accepted(&AnswerContext { place: Some(1), n_running: 1, ..context(&view) }, sentence);
}

#[test]
fn the_answer_says_that_the_client_sends_another_file_first() {
    let view = view(Activity::Waiting(WaitingFor::OtherFile));
    let next = "client4 sends another file first; this is next.";
    check_accepted(
        &AnswerContext { place: Some(1), ..context(&view) },
        &format!("Waiting: {next} Transfer TID"),
    );
    check_accepted(
        &AnswerContext { joined: true, place: Some(1), ..context(&view) },
        &format!("Already waiting: {next} Nothing new was started."),
    );
    let later =
        "Waiting: client4 sends other files first; this is number 2 in its line. Transfer TID";
    check_accepted(&AnswerContext { place: Some(2), ..context(&view) }, later);
}

#[test]
fn the_answer_says_how_long_a_pull_waits_for_an_offline_client() {
    let mut view = view(Activity::Waiting(WaitingFor::Client));
    view.expires_at = Some(at("14:23:05") + chrono::TimeDelta::days(1));
    check_accepted(
        &context(&view),
        "Queued: client4 is offline; the pull starts when it returns, until 2025-06-13 14:23 UTC. Transfer TID",
    );
    check_accepted(
        &AnswerContext { joined: true, ..context(&view) },
        "Already waiting: client4 is offline; the pull starts when it returns, until 2025-06-13 14:23 UTC. Nothing new was started.",
    );
    check_unfinished(
        &AnswerContext { waited: timed_out(), ..context(&view) },
        504,
        "Still waiting after 50 s: client4 is offline; the pull starts when it returns, until 2025-06-13 14:23 UTC.",
    );
}

#[test]
fn the_answer_says_why_and_how_long_a_pull_waits_for_the_disk() {
    let mut view = view(Activity::Waiting(WaitingFor::Disk));
    view.expires_at = Some(at("14:23:05") + chrono::TimeDelta::days(1));
    view.reason = Some("The server's disk is full.".to_owned());
    let waits = "client4's file waits for the server's disk, until 2025-06-13 14:23 UTC: \
                 The server's disk is full.";
    check_accepted(&context(&view), &format!("Waiting: {waits} Transfer TID"));
    check_accepted(
        &AnswerContext { joined: true, ..context(&view) },
        &format!("Already waiting: {waits} Nothing new was started."),
    );
}

#[test]
fn the_answer_after_a_restart_says_that_the_client_was_online_before() {
    let mut view = view(Activity::Waiting(WaitingFor::Client));
    view.expires_at = Some(at("14:23:35"));
    view.reason = Some("the server has just started, and client4 was online before".to_owned());
    let waits = "the server has just started, and client4 was online before; \
                 the pull starts when it returns, until 2025-06-12 14:23:35 UTC.";
    check_accepted(&context(&view), &format!("Waiting: {waits} Transfer TID"));
}

#[test]
fn the_answer_to_a_repeated_pull_gives_the_progress_of_the_first() {
    let half_done = half_done();
    let joined = AnswerContext { joined: true, ..context(&half_done) };
    check_accepted(
        &joined,
        "Already running: client4 is sending menu.txt since 14:23:05 (42 %, about 12 s left). Nothing new was started.",
    );
    let tomorrow = at("14:30:00") + chrono::TimeDelta::days(1);
    check_accepted(
        &AnswerContext { now: tomorrow, ..joined },
        "Already running: client4 is sending menu.txt since 2025-06-12 14:23:05 (42 %, about 12 s left). Nothing new was started.",
    );
    check_accepted(
        &AnswerContext { joined: true, ..context(&view(Activity::Ordered)) },
        "Already asked: client4 has not answered yet. Nothing new was started.",
    );
    let waiting = view(Activity::Waiting(WaitingFor::Permit));
    check_accepted(
        &AnswerContext { joined: true, place: Some(2), ..context(&waiting) },
        "Already waiting: client4 is number 2 in line. Nothing new was started.",
    );
}

#[test]
fn the_answer_to_a_finished_pull_gives_the_path_of_the_file() {
    let FileDigests { sha256, blake3 } = FileDigests::of(b"test");
    let done = done(100 * MIB);
    let text = format!(
        "Done: client4 sent menu.txt, 100.0 MiB in 19.8 s (5.1 MiB/s).\n  \
           saved   server-data/client4/download-20250612-142325.txt\n  \
           sha256  {sha256}\n  \
           blake3  {blake3}\n"
    );
    check(
        &AnswerContext {
            waited: Some(WaitResult { time: Duration::from_secs(20), end: WaitEnd::Reached }),
            ..context(&done)
        },
        200,
        &text,
    );
    check(&context(&done), 200, &text);
}

#[test]
fn the_answer_gives_no_rate_for_an_empty_or_a_small_file() {
    let first_line = |view: &View| {
        answer(&context(view)).unwrap().1.lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(first_line(&done(0)), "Done: client4 sent menu.txt, which is empty (0 B).");
    let mut quick = done(12);
    quick.transfer.finished_at = Some(at("14:23:05.020"));
    assert_eq!(first_line(&quick), "Done: client4 sent menu.txt, 12 B in under 0.1 s.");
}

#[test]
fn the_answer_after_a_timed_out_wait_gives_the_progress() {
    let waited = timed_out();
    let view = View { bytes_done: 71 * MIB, bytes_per_second: Some(29 * MIB / 8), ..running() };
    check_unfinished(
        &AnswerContext { waited, ..context(&view) },
        504,
        "Still running after 50 s: 71 %, about 8 s left. The transfer continues.",
    );
    check_unfinished(
        &AnswerContext { waited, ..context(&super::tests::view(Activity::Ordered)) },
        504,
        "Still no answer after 50 s: client4 has been asked to send the file.",
    );
}

#[test]
fn the_answer_during_a_shutdown_says_that_the_transfer_continues() {
    let waited = Some(WaitResult { time: Duration::from_secs(3), end: WaitEnd::Draining });
    check_unfinished(
        &AnswerContext { waited, ..context(&half_done()) },
        503,
        "The server is restarting; the transfer continues afterwards.",
    );
}

#[test]
fn the_answer_to_a_finished_pull_tells_how_much_was_sent() {
    let check = |size, sent, base_use, expected: &str| {
        let mut view = done(size);
        view.transfer.sent = sent;
        view.transfer.base_use = base_use;
        let (_, text) = answer(&context(&view)).unwrap();
        assert_eq!(text.lines().next().unwrap(), expected);
    };
    let size = 100 * MIB;
    let sent = 31 * MIB / 10;
    let head = "Done: client4 sent menu.txt, 100.0 MiB";
    check(size, size, BaseUse::Unused, &format!("{head} in 19.8 s (5.1 MiB/s)."));
    let copied = format!("{head} file, 3.1 MiB sent in 19.8 s (5.1 MiB/s).");
    check(size, sent, BaseUse::Copied, &copied);
    check(size, sent, BaseUse::Unused, &copied);
    let twice = format!(
        "{head} file, 200.0 MiB sent in 19.8 s (5.1 MiB/s); the earlier download could not be \
         used, so all bytes were sent."
    );
    check(size, 2 * size, BaseUse::Failed, &twice);
    check(0, 0, BaseUse::Unused, "Done: client4 sent menu.txt, which is empty (0 B).");
}

#[test]
fn the_answer_to_an_unchanged_file_names_the_earlier_download() {
    let mut view = view(Activity::Ordered);
    let since = DownloadName::new(at("14:23:25"), "menu.txt");
    view.transfer.phase = Phase::Unchanged(UnchangedFile { source: source(100 * MIB), since });
    let text = "Unchanged: menu.txt of client4 (100.0 MiB) is unchanged since \
                download-20250612-142325.txt.\n  saved   \
                server-data/client4/download-20250612-142325.txt\n";
    assert_eq!(answer(&context(&view)), Ok((StatusCode::OK, text.to_owned())));
}

#[test]
fn the_answer_to_a_failed_pull_is_its_problem() {
    let mut view = view(Activity::Ordered);
    let problem = Problem::new(Code::FileMissing, "client4 has no file at logs/pos.log.");
    let failure = Failure { problem: problem.clone(), reached: LastProgress::default() };
    view.transfer.phase = Phase::Failed(failure.clone());
    assert_eq!(answer(&context(&view)), Err(problem.clone()));
    view.transfer.phase = Phase::Cancelled(failure);
    assert_eq!(answer(&AnswerContext { joined: true, ..context(&view) }), Err(problem));
}
