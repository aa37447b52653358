//! What to do next when a pull was refused: a command to paste, or a field to add.

use filepull_core::id::{ClientId, TransferId};
use filepull_core::problem::{Code, Problem};

use super::super::App;
use super::super::caller::Caller;
use super::super::params::encode;
use super::super::reply::{self, Rejection, invalid};
use super::PullRequest;
use crate::known_clients::ClientCounts;

/// More would hide the sentence they belong to.
const MAX_NAMED: usize = 20;

/// No client was named: says which ones could be. `how` shows where the id belongs.
pub(in super::super) async fn which_client(app: &App, how: &str) -> Problem {
    let online = app.clients.first_online(MAX_NAMED);
    let online: Vec<&str> = online.iter().map(ClientId::as_str).collect();
    let counts = app.clients.counts().await;
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
pub(super) async fn explain_for_curl(
    app: &App,
    caller: &Caller,
    order: &PullRequest,
    problem: Problem,
) -> Rejection {
    let offline = problem.code == Code::ClientOffline;
    explain(app, order, problem, offline.then(|| queue_command(&caller.host, order))).await
}

/// A refused pull, with the field to add.
pub(in super::super) async fn explain_for_api(
    app: &App,
    order: &PullRequest,
    problem: Problem,
) -> Rejection {
    let offline = problem.code == Code::ClientOffline;
    let hint = offline.then(|| "Add \"queue\": \"24h\" to pull when it returns.".to_owned());
    explain(app, order, problem, hint).await
}

async fn explain(
    app: &App,
    order: &PullRequest,
    problem: Problem,
    hint: Option<String>,
) -> Rejection {
    let unknown = problem.code == Code::ClientUnknown;
    let client = match unknown {
        true => None,
        // Optional: only adds a detail to the text.
        false => app.clients.client(&order.client).await.unwrap_or_default(),
    };
    let client = client.filter(|client| !client.online);
    let hint = hint.or(unknown.then(|| "list them: curl localhost:8080/clients".to_owned()));
    let hint = hint.unwrap_or_else(|| problem.hint.clone());
    let refusal = Rejection::from(problem.hint(hint)).with("client", order.client.as_str());
    match client {
        Some(client) => refusal.with("last_seen_at", reply::time(client.last_seen_at)),
        None => refusal,
    }
}

/// A pull that ended without a file. A path that holds spaces may be one that was typed with `+`.
pub(super) fn explain_failed(
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
    use super::super::super::params::Params;
    use super::super::order::TRIGGER;
    use super::*;

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
