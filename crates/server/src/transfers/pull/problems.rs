//! Why a pull starts nothing.

use chrono::Utc;
use filepull_core::problem::{Code, Problem};

use crate::registry::{self, ClientView};

pub(crate) fn nothing_started(problem: Problem) -> Problem {
    let detail = format!("{} Nothing was started.", problem.detail);
    Problem { detail, ..problem }
}

pub(crate) fn stopping() -> Problem {
    Problem::new(Code::ServerStopping, "The server is restarting; try again in 10 s.")
        .hint("is it back: curl localhost:8080/readyz")
}

pub(crate) fn pending(client: &ClientView) -> Problem {
    let id = &client.record.id;
    let detail = format!("{id} is enrolled and waits for the approval of an administrator.");
    let hint = format!("compare its fingerprint, then approve it: filepull approve {id}");
    Problem::new(Code::ClientPending, detail).hint(hint)
}

pub(crate) fn offline(client: &ClientView) -> Problem {
    let id = &client.record.id;
    let detail = format!("{id} is offline. {}", registry::last_seen(client, Utc::now()));
    Problem::new(Code::ClientOffline, detail)
}
