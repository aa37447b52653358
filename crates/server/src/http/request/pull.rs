//! What a pull asks for, read from its parameters.

use std::time::Duration;

use filepull_core::id::{ClientId, TransferId};
use filepull_core::path::SharedPath;
use filepull_core::problem::{Code, Problem};

use super::caller::Caller;
use super::extract::wait;
use super::params::{Params, encode, parse_client, rfc3339};
use super::rejection::{Rejection, invalid};
use crate::known_clients::{ClientCounts, KnownClients};
use crate::transfers::Pull;

const DAY: Duration = Duration::from_hours(24);

/// The parameters of `/trigger`.
pub(crate) const TRIGGER: &[&str] = &["id", "path", "wait", "queue", "fresh"];

/// A pull as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PullRequest {
    /// Whose file.
    pub(crate) client: ClientId,
    /// Which file; none is the default file.
    pub(crate) path: Option<SharedPath>,
    /// How long the caller waits for the end.
    pub(crate) wait: Option<Duration>,
    /// The path with a plus wherever the caller typed one: in a query that is a space.
    pub(crate) path_with_plus: Option<String>,
    queue: Option<Duration>,
    fresh: bool,
}

impl PullRequest {
    /// Reads an order in which the client is called `id_name`.
    pub(crate) fn parse(params: &Params, id_name: &str, known: &[&str]) -> Result<Self, Problem> {
        params.only(known)?;
        Ok(Self {
            client: parse_client(params.get(id_name).unwrap_or_default())?,
            path: shared_path(params)?,
            wait: wait(params)?,
            path_with_plus: params.with_plus("path").map(str::to_owned),
            queue: params.span("queue", DAY, 30 * DAY)?,
            fresh: params.flag("fresh")?,
        })
    }

    /// The order in the words of `transfers`.
    pub(crate) fn pull(&self, caller: &Caller) -> Pull {
        Pull {
            client: self.client.clone(),
            path: self.path.clone(),
            queue: self.queue,
            fresh: self.fresh,
            requested_by: caller.name(),
            request_id: caller.request_id,
            key: None,
        }
    }
}

/// The path that the parameters name; none is the default file.
pub(crate) fn shared_path(params: &Params) -> Result<Option<SharedPath>, Problem> {
    // `path=` in a form that was left empty means the default file.
    let path = params.get("path").filter(|path| !path.is_empty()).map(SharedPath::parse);
    path.transpose().map_err(|error| invalid(error.to_string(), "For example: path=logs/pos.log"))
}

/// More would hide the sentence they belong to.
const MAX_NAMED: usize = 20;

/// No client was named: says which ones could be. `how` shows where the id belongs.
pub(crate) async fn which_client(clients: &KnownClients, how: &str) -> Problem {
    let online = clients.first_online(MAX_NAMED);
    let online: Vec<&str> = online.iter().map(ClientId::as_str).collect();
    let counts = clients.counts().await;
    invalid(format!("Which client? {how}"), online_now(&online, counts))
}

/// `named` are the first of those online.
fn online_now(named: &[&str], ClientCounts { online, known }: ClientCounts) -> String {
    let more = if named.len() < online { " ..." } else { "" };
    let named = named.join(" ");
    match (known, online) {
        (0, _) => "No client has ever connected. Start an agent first.".to_owned(),
        (_, 0) => format!("online now: none of {known}"),
        _ => format!("online now: {named}{more} ({online} of {known})"),
    }
}

/// A refused pull, with the curl to try next.
pub(crate) async fn explain_for_curl(
    clients: &KnownClients,
    caller: &Caller,
    order: &PullRequest,
    problem: Problem,
) -> Rejection {
    let offline = problem.code == Code::ClientOffline;
    explain(clients, order, problem, offline.then(|| queue_command(&caller.host, order))).await
}

/// A refused pull, with the field to add.
pub(crate) async fn explain_for_api(
    clients: &KnownClients,
    order: &PullRequest,
    problem: Problem,
) -> Rejection {
    let offline = problem.code == Code::ClientOffline;
    let hint = offline.then(|| "Add \"queue\": \"24h\" to pull when it returns.".to_owned());
    explain(clients, order, problem, hint).await
}

async fn explain(
    clients: &KnownClients,
    order: &PullRequest,
    problem: Problem,
    hint: Option<String>,
) -> Rejection {
    let unknown = problem.code == Code::ClientUnknown;
    let client = match unknown {
        true => None,
        // Optional: only adds a detail to the text.
        false => clients.client(&order.client).await.unwrap_or_default(),
    };
    let client = client.filter(|client| !client.online);
    let hint = hint.or(unknown.then(|| "list them: curl localhost:8080/clients".to_owned()));
    let hint = hint.unwrap_or_else(|| problem.hint.clone());
    let refusal = Rejection::from(problem.hint(hint)).with("client", order.client.as_str());
    match client {
        Some(client) => refusal.with("last_seen_at", rfc3339(client.last_seen_at)),
        None => refusal,
    }
}

/// A pull that ended without a file. A path that holds spaces may be one that was typed with `+`.
pub(crate) fn explain_failed(
    caller: &Caller,
    order: &PullRequest,
    transfer: TransferId,
    problem: Problem,
) -> Rejection {
    let not_found = matches!(problem.code, Code::FileMissing | Code::PathNotShared);
    let problem = match &order.path_with_plus {
        Some(path) if not_found => problem.hint(plus_command(&caller.host, order, path)),
        Some(_) | None => problem,
    };
    Rejection::from(problem).with("transfer", transfer.to_string())
}

fn plus_command(host: &str, order: &PullRequest, path: &str) -> String {
    let (client, path) = (&order.client, encode(path));
    format!(
        "a + in a URL is a space, %2B is a plus: curl \"{host}/trigger?id={client}&path={path}\""
    )
}

fn queue_command(host: &str, order: &PullRequest) -> String {
    let path = order.path.as_ref().map(|path| format!("&path={}", encode(path.as_str())));
    let (client, path) = (&order.client, path.unwrap_or_default());
    format!("pull when it returns: curl \"{host}/trigger?id={client}{path}&queue=24h\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(query: &str) -> Result<PullRequest, String> {
        let params = Params::from_query(Some(query)).unwrap();
        PullRequest::parse(&params, "id", TRIGGER).map_err(|problem| problem.detail)
    }

    #[test]
    fn bare_parameters_mean_what_people_expect() {
        let order = order("id=client4&path=logs/pos.log&wait&queue&fresh").unwrap();
        assert_eq!(order.client.as_str(), "client4");
        assert_eq!(order.path.unwrap().as_str(), "logs/pos.log");
        assert_eq!(order.wait, Some(Duration::from_secs(50)));
        assert_eq!(order.queue, Some(DAY));
        assert!(order.fresh);
    }

    #[test]
    fn a_plain_pull_neither_waits_nor_queues() {
        let order = order("id=client4&path=").unwrap();
        assert_eq!((order.path, order.wait, order.queue), (None, None, None));
        assert!(!order.fresh);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_in_words() {
        let check = |query, said: &str| assert_eq!(order(query), Err(said.to_owned()), "{query}");
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
        check("id=client4&frsh", "There is no parameter \"frsh\" here. Did you mean fresh?");
    }

    #[test]
    fn those_who_are_online_are_named_in_one_line() {
        let counts = |online, known| ClientCounts { online, known };
        let line = online_now(&["client1", "client2", "client4"], counts(3, 5));
        assert_eq!(line, "online now: client1 client2 client4 (3 of 5)");
        assert_eq!(online_now(&[], counts(0, 5)), "online now: none of 5");
        let first = ["x"; MAX_NAMED];
        assert_eq!(
            online_now(&first, counts(30, 30)),
            format!("online now: {} ... (30 of 30)", first.join(" "))
        );
    }

    #[test]
    fn a_path_typed_with_a_plus_is_written_with_one() {
        let query = "id=client4&path=logs/a+b.log";
        let params = Params::from_query(Some(query)).unwrap();
        let order = PullRequest::parse(&params, "id", TRIGGER).unwrap();
        let path = order.path_with_plus.clone().unwrap();
        assert_eq!(
            plus_command("localhost:8080", &order, &path),
            "a + in a URL is a space, %2B is a plus: \
             curl \"localhost:8080/trigger?id=client4&path=logs/a%2Bb.log\""
        );
    }

    #[test]
    fn the_command_for_later_pulls_the_same_file() {
        let check = |query, command: &str| {
            let params = Params::from_query(Some(query)).unwrap();
            let order = PullRequest::parse(&params, "id", TRIGGER).unwrap();
            assert_eq!(queue_command("localhost:8080", &order), command);
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
