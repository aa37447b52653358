//! A server that admits only enrolled agents, over TLS, and only callers with a token.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Utc;
use filepull_core::invite::Invite;
use filepull_server::access::Role;
use filepull_server::access::token_editor::{NewToken, create};
use filepull_server::config::default_tokens_file;
use hyper::Method;
use serde_json::json;

use crate::{HttpResponse, Programs, TestClient, TestServer};

/// The settings of a server that trusts only keys and tokens, on loopback.
pub const SECURE: [(&str, &str); 2] = [("AGENT_AUTH", "invite"), ("HTTP_AUTH", "tokens")];

/// The name of the token that a secure server of a test uses.
pub const ADMIN: &str = "test-admin";

impl TestServer {
    /// Starts a server inside the test that admits only enrolled agents and callers with a token.
    /// Requests of this server carry the token of an administrator.
    pub async fn secure(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut server = Self::inside(&[&SECURE, settings].concat())?;
        server.sign_in_as_admin()?;
        server.start_server().await?;
        Ok(server)
    }

    /// Starts such a server as a process.
    pub async fn secure_process(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let settings = [&SECURE, settings].concat();
        let mut server = Self::in_folder(tempfile::tempdir()?, Programs::default(), &settings);
        server.sign_in_as_admin()?;
        server.start_server().await?;
        Ok(server)
    }

    /// Creates the token of an administrator, which all later requests carry. The server needs it
    /// before its first start.
    pub fn sign_in_as_admin(&mut self) -> anyhow::Result<()> {
        let token = self.create_token(ADMIN, Role::Admin, &[], None)?;
        self.token = Some(token);
        Ok(())
    }

    /// Creates a token as `filepull token create` does. A running server reads it within a second.
    pub fn create_token(
        &self,
        name: &str,
        role: Role,
        clients: &[(&str, &str)],
        expires: Option<Duration>,
    ) -> anyhow::Result<String> {
        let labels = clients.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
        let clients: BTreeMap<String, String> = labels.collect();
        let new = NewToken { name: name.to_owned(), role, clients, expires };
        Ok(create(&default_tokens_file(&self.data_dir()), &new, Utc::now())?.secret)
    }

    /// Returns the token of the requests, if there is one.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Makes an invite for one client, with the defaults.
    pub async fn invite_client(&self, id: &str) -> anyhow::Result<Invite> {
        self.invite(&json!({ "client": id })).await
    }

    /// Creates a client with an invite. Its agent is not started yet.
    pub async fn invited(&self, id: &str, data: &[u8]) -> anyhow::Result<TestClient> {
        let invite = self.invite_client(id).await?;
        Ok(self.client(id, data)?.invited(&invite))
    }

    /// Invites a client, enrols it, and connects its agent.
    pub async fn connect_enrolled(&self, id: &str, data: &[u8]) -> anyhow::Result<TestClient> {
        self.invited(id, data).await?.connected().await
    }

    /// Forgets a client, as `filepull forget` does.
    pub async fn forget(&self, id: &str) -> anyhow::Result<HttpResponse> {
        self.send(Method::DELETE, &format!("/api/v1/clients/{id}"), &[], "").await
    }

    /// Approves a pending client.
    pub async fn approve(&self, id: &str) -> anyhow::Result<HttpResponse> {
        self.send(Method::POST, &format!("/api/v1/clients/{id}/approve"), &[], "").await
    }
}
