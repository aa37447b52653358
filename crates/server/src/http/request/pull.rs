//! Parses a pull from the parameters of a request, and explains to the caller why a pull was
//! rejected or failed.

use std::time::Duration;

use filepull_core::id::{ClientId, TransferId};
use filepull_core::path::SharedPath;
use filepull_core::problem::{Code, Problem};
use filepull_core::pull_mode::PullMode;

use super::caller::Caller;
use super::extract::wait;
use super::params::{Params, encode, parse_client, rfc3339};
use super::rejection::{Rejection, invalid};
use crate::known_clients::{ClientCounts, ScopedClients};
use crate::transfers::Pull;

const DAY: Duration = Duration::from_hours(24);

/// Maximum number of clients in a hint. More would hide the sentence before it.
const MAX_NAMED: usize = 20;

/// A pull as its request describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PullRequest {
    pub(crate) client: ClientId,
    /// `None` means the default file of the client.
    pub(crate) path: Option<SharedPath>,
    /// How long the request waits for the end of the transfer.
    pub(crate) wait: Option<Duration>,
    /// The path with each typed `+` as a plus sign: in a query it means a space.
    path_with_plus: Option<String>,
    queue: Option<Duration>,
    mode: PullMode,
}

impl PullRequest {
    /// Parses a pull whose parameter `id_name` holds the client id. Rejects parameters that are not
    /// in `known`.
    pub(crate) fn parse(params: &Params, id_name: &str, known: &[&str]) -> Result<Self, Problem> {
        params.only(known)?;
        Ok(Self {
            client: parse_client(params.get(id_name).unwrap_or_default())?,
            path: shared_path(params)?,
            wait: wait(params)?,
            path_with_plus: params.with_plus("path").map(str::to_owned),
            queue: params.span("queue", DAY, 30 * DAY)?,
            mode: mode(params)?,
        })
    }

    /// Converts the request for `transfers`, without an idempotency key.
    pub(crate) fn pull(&self, caller: &Caller) -> Pull {
        Pull {
            client: self.client.clone(),
            path: self.path.clone(),
            queue: self.queue,
            mode: self.mode,
            scope: caller.scope().clone(),
            requested_by: caller.actor(),
            key: None,
        }
    }
}

/// Parses the switches `fresh` and `if-changed`.
fn mode(params: &Params) -> Result<PullMode, Problem> {
    match (params.flag("fresh")?, params.flag("if-changed")?) {
        (false, false) => Ok(PullMode::Changes),
        (false, true) => Ok(PullMode::IfChanged),
        (true, false) => Ok(PullMode::All),
        (true, true) => {
            let detail = "fresh always makes a file, and if-changed makes none without a change.";
            Err(invalid(detail, "Write one of them."))
        }
    }
}

/// Parses the parameter `path`. Absent or empty, as in an empty field of a form, it is `None`: the
/// default file.
pub(crate) fn shared_path(params: &Params) -> Result<Option<SharedPath>, Problem> {
    let path = params.get("path").filter(|path| !path.is_empty()).map(SharedPath::parse);
    path.transpose().map_err(|error| invalid(error.to_string(), "For example: path=logs/pos.log"))
}

/// Returns the problem for a pull without a client, with the clients that are online. `how` shows how
/// to name one.
pub(crate) async fn which_client(clients: &ScopedClients, how: &str) -> Problem {
    let first_online = clients.first_online(MAX_NAMED).await;
    let named: Vec<&str> = first_online.iter().map(ClientId::as_str).collect();
    let counts = clients.counts().await;
    invalid(format!("Which client? {how}"), online_now(&named, counts))
}

/// `named`: the first of the clients that are online.
fn online_now(named: &[&str], ClientCounts { online, known }: ClientCounts) -> String {
    let more = if named.len() < online { " ..." } else { "" };
    let names = named.join(" ");
    match (known, online) {
        (0, _) => "No client has ever connected. Start an agent first.".to_owned(),
        (_, 0) => format!("online now: none of {known}"),
        _ => format!("online now: {names}{more} ({online} of {known})"),
    }
}

/// Explains a rejected pull with the curl command to try next.
pub(crate) async fn explain_for_curl(
    clients: &ScopedClients,
    caller: &Caller,
    request: &PullRequest,
    problem: Problem,
) -> Rejection {
    explain(clients, request, problem, queue_command(&caller.host, request)).await
}

/// Explains a rejected pull with the JSON field to add.
pub(crate) async fn explain_for_api(
    clients: &ScopedClients,
    request: &PullRequest,
    problem: Problem,
) -> Rejection {
    let queue_hint = "Add \"queue\": \"24h\" to pull when it returns.".to_owned();
    explain(clients, request, problem, queue_hint).await
}

/// `queue_hint`: how to queue the pull if the client is offline.
async fn explain(
    clients: &ScopedClients,
    request: &PullRequest,
    problem: Problem,
    queue_hint: String,
) -> Rejection {
    let problem = without_totals(problem, clients);
    let code = problem.code;
    let hint = if code == Code::ClientOffline {
        queue_hint
    } else if code == Code::ClientUnknown {
        "list them: curl localhost:8080/clients".to_owned()
    } else {
        problem.hint.clone()
    };
    let rejection = Rejection::from(problem.hint(hint)).with("client", request.client.as_str());
    if code == Code::ClientUnknown {
        return rejection;
    }
    // An error is ignored: the client only adds a detail.
    let client = clients.client(&request.client).await.unwrap_or_default();
    match client.filter(|client| !client.online) {
        Some(client) => rejection.with("last_seen_at", rfc3339(client.last_seen_at)),
        None => rejection,
    }
}

/// Removes the number of all transfers for a caller who may not see all clients.
fn without_totals(problem: Problem, clients: &ScopedClients) -> Problem {
    if problem.code != Code::ServerBusy || clients.see_everything() {
        return problem;
    }
    Problem {
        detail: "As many transfers as possible are waiting; no more may wait.".into(),
        ..problem
    }
}

/// Explains a pull that ended without a file. If the path was typed with a `+`, the hint shows how to
/// write a plus sign.
pub(crate) fn explain_failed(
    caller: &Caller,
    request: &PullRequest,
    transfer: TransferId,
    problem: Problem,
) -> Rejection {
    let not_found = matches!(problem.code, Code::FileMissing | Code::PathNotShared);
    let explained = match &request.path_with_plus {
        Some(path) if not_found => problem.hint(plus_command(&caller.host, request, path)),
        Some(_) | None => problem,
    };
    Rejection::from(explained).with("transfer", transfer.to_string())
}

fn plus_command(host: &str, request: &PullRequest, path: &str) -> String {
    let client = &request.client;
    let encoded = encode(path);
    format!(
        "a + in a URL is a space, %2B is a plus: \
         curl \"{host}/trigger?id={client}&path={encoded}\""
    )
}

fn queue_command(host: &str, request: &PullRequest) -> String {
    let client = &request.client;
    let path_param = path_param(request.path.as_ref());
    format!("pull when it returns: curl \"{host}/trigger?id={client}{path_param}&queue=24h\"")
}

/// Returns `&path=logs/pos.log` for a trigger URL, or an empty text for the default file.
pub(crate) fn path_param(path: Option<&SharedPath>) -> String {
    path.map(|path| format!("&path={}", encode(path.as_str()))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["id", "path", "wait", "queue", "fresh", "if-changed"];

    fn parsed(query: &str) -> Result<PullRequest, String> {
        let params = Params::from_query(Some(query)).unwrap();
        PullRequest::parse(&params, "id", KNOWN).map_err(|problem| problem.detail)
    }

    #[test]
    fn a_parameter_without_a_value_has_a_default() {
        let request = parsed("id=client4&path=logs/pos.log&wait&queue&fresh").unwrap();
        assert_eq!(request.client.as_str(), "client4");
        assert_eq!(request.path.unwrap().as_str(), "logs/pos.log");
        assert_eq!(request.wait, Some(Duration::from_secs(50)));
        assert_eq!(request.queue, Some(DAY));
        assert_eq!(request.mode, PullMode::All);
    }

    #[test]
    fn a_plain_pull_does_not_wait_and_does_not_queue() {
        let request = parsed("id=client4&path=").unwrap();
        assert_eq!((request.path, request.wait, request.queue), (None, None, None));
        assert_eq!(request.mode, PullMode::Changes);
        assert_eq!(parsed("id=client4&if-changed").unwrap().mode, PullMode::IfChanged);
    }

    #[test]
    fn an_invalid_parameter_is_rejected_with_the_reason() {
        let check = |query, detail: &str| {
            assert_eq!(parsed(query), Err(detail.to_owned()), "{query}");
        };
        check(
            "id=../etc",
            "\"../etc\" is not a client id. Ids are 1-64 letters, digits, dot, dash or underscore.",
        );
        check(
            "id=a%00",
            "\"a\\0\" is not a client id. Ids are 1-64 letters, digits, dot, dash or underscore.",
        );
        check(
            "id=client4&path=../x",
            "\"../x\" is not a valid path: no part of a path is empty, `.` or `..`.",
        );
        check("id=client4&queue=31d", "queue is at most 30d.");
        check("id=client4&fresh=maybe", "fresh: \"maybe\" is not a switch.");
        check(
            "id=client4&fresh&if-changed",
            "fresh always makes a file, and if-changed makes none without a change.",
        );
        check("id=client4&frsh", "There is no parameter \"frsh\" here. Did you mean fresh?");
    }

    #[test]
    fn a_hint_names_the_first_clients_that_are_online() {
        let counts = |online, known| ClientCounts { online, known };
        let hint = online_now(&["client1", "client2", "client4"], counts(3, 5));
        assert_eq!(hint, "online now: client1 client2 client4 (3 of 5)");
        assert_eq!(online_now(&[], counts(0, 5)), "online now: none of 5");
        let first = ["x"; MAX_NAMED];
        assert_eq!(
            online_now(&first, counts(30, 30)),
            format!("online now: {} ... (30 of 30)", first.join(" "))
        );
    }

    #[test]
    fn a_path_typed_with_a_plus_is_encoded_in_the_hint() {
        let query = "id=client4&path=logs/a+b.log";
        let params = Params::from_query(Some(query)).unwrap();
        let request = PullRequest::parse(&params, "id", KNOWN).unwrap();
        let path = request.path_with_plus.clone().unwrap();
        assert_eq!(
            plus_command("localhost:8080", &request, &path),
            "a + in a URL is a space, %2B is a plus: \
             curl \"localhost:8080/trigger?id=client4&path=logs/a%2Bb.log\""
        );
    }

    #[test]
    fn the_queue_command_pulls_the_same_file() {
        let check = |query, command: &str| {
            let params = Params::from_query(Some(query)).unwrap();
            let request = PullRequest::parse(&params, "id", KNOWN).unwrap();
            assert_eq!(queue_command("localhost:8080", &request), command);
        };
        check(
            "id=client4",
            "pull when it returns: curl \"localhost:8080/trigger?id=client4&queue=24h\"",
        );
        check(
            "id=client4&path=C:\\a%20$b",
            "pull when it returns: curl \"localhost:8080/trigger?id=client4&path=C%3A%5Ca%20%24b&queue=24h\"",
        );
    }
}
