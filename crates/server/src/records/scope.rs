//! The clients in the scope of a caller: a condition for every query, so that pages and totals are
//! right without the clients that the caller must not see.

use std::collections::HashSet;

use filepull_core::id::ClientId;

use super::Records;
use super::error::RecordsError;
use super::statement::Statement;
use crate::scope::Scope;

impl Records {
    /// Returns whether a client is in scope.
    pub(crate) async fn is_in_scope(
        &self,
        client: &ClientId,
        scope: &Scope,
    ) -> Result<bool, RecordsError> {
        if scope.is_everything() {
            return Ok(true);
        }
        let mut query = Statement::new("SELECT client FROM client_keys WHERE client = ");
        query.push_bind(client.as_str());
        push_in_scope(&mut query, "client", scope);
        Ok(self.readers.point(query).await?.is_some())
    }

    /// Returns every client in scope; none for a scope of every client.
    pub(crate) async fn clients_in_scope(
        &self,
        scope: &Scope,
    ) -> Result<Option<HashSet<ClientId>>, RecordsError> {
        if scope.is_everything() {
            return Ok(None);
        }
        let mut query = Statement::new("SELECT client FROM client_keys WHERE 1 = 1");
        push_in_scope(&mut query, "client", scope);
        let rows = self.readers.list(query).await?;
        let ids = rows.iter().filter_map(|row| ClientId::parse(row.text("client")?).ok());
        Ok(Some(ids.collect()))
    }
}

/// Appends the condition that the client in `column` is in scope. Labels that cannot be read are
/// outside every scope.
pub(crate) fn push_in_scope(query: &mut Statement, column: &str, scope: &Scope) {
    match scope {
        Scope::Everything => {}
        Scope::Nothing => {
            query.push(" AND 1 = 0");
        }
        Scope::Labels(labels) => {
            query
                .push(" AND ")
                .push(column)
                .push(" IN (SELECT client FROM client_keys WHERE 1 = 1");
            for (name, value) in &**labels {
                query.push(" AND CASE WHEN json_valid(labels) THEN labels ->> ");
                query.push_bind(name.as_str()).push(" = ");
                query.push_bind(value.as_str()).push(" ELSE 1 = 0 END");
            }
            query.push(")");
        }
    }
}
