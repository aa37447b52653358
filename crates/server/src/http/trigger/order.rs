//! What a pull asks for, read from its parameters.

use std::time::Duration;

use filepull_core::id::ClientId;
use filepull_core::path::SharedPath;
use filepull_core::problem::Problem;

use super::super::caller::Caller;
use super::super::params::{Params, parse_client};
use super::super::reply::invalid;
use super::super::waiting;
use crate::transfers::Pull;

const DAY: Duration = Duration::from_hours(24);

/// The parameters of `/trigger`.
pub(super) const TRIGGER: &[&str] = &["id", "path", "wait", "queue", "fresh"];

/// A pull as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct PullRequest {
    /// Whose file.
    pub(in super::super) client: ClientId,
    /// Which file; none is the default file.
    pub(in super::super) path: Option<SharedPath>,
    /// How long the caller waits for the end.
    pub(in super::super) wait: Option<Duration>,
    /// The path with a plus wherever the caller typed one: in a query that is a space.
    pub(super) path_with_plus: Option<String>,
    queue: Option<Duration>,
    fresh: bool,
}

impl PullRequest {
    /// Reads an order in which the client is called `id_name`.
    pub(in super::super) fn parse(
        params: &Params,
        id_name: &str,
        known: &[&str],
    ) -> Result<Self, Problem> {
        params.only(known)?;
        Ok(Self {
            client: parse_client(params.get(id_name).unwrap_or_default())?,
            path: shared_path(params)?,
            wait: waiting::asked(params)?,
            path_with_plus: params.with_plus("path").map(str::to_owned),
            queue: params.span("queue", DAY, 30 * DAY)?,
            fresh: params.flag("fresh")?,
        })
    }

    /// The order in the words of `transfers`.
    pub(in super::super) fn pull(&self, caller: &Caller) -> Pull {
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
pub(in super::super) fn shared_path(params: &Params) -> Result<Option<SharedPath>, Problem> {
    // `path=` in a form that was left empty means the default file.
    let path = params.get("path").filter(|path| !path.is_empty()).map(SharedPath::parse);
    path.transpose().map_err(|error| invalid(error.to_string(), "For example: path=logs/pos.log"))
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
            "\"../x\" is not a path to ask for: no part of it is empty, `.` or `..`.",
        );
        check("id=client4&queue=31d", "queue is at most 30d.");
        check("id=client4&fresh=maybe", "fresh: \"maybe\" is not a switch.");
        check("id=client4&frsh", "There is no parameter \"frsh\" here. Did you mean fresh?");
    }
}
