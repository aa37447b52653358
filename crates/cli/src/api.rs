//! The client of the server's HTTP API, for all commands of an operator: address, token, trust, and errors
//! with their exit codes.
//!
//! Standard output is data, standard error is for people.

mod address;
mod error;
mod token;
mod trust;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use filepull_server::VERSION;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{Method, RequestBuilder, StatusCode, redirect};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use address::ServerUrl;
pub(crate) use error::{CommandError, ServerProblem};

use crate::output::print_note;
use token::ApiToken;

/// Which server a command talks to, and how. Part of the command line of every operator's command.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ApiArgs {
    /// Address of the server: http://HOST:PORT or https://HOST:PORT.
    #[arg(
        long, env = "FILEPULL_SERVER", default_value = "http://localhost:8080", value_name = "URL",
        value_parser = ServerUrl::parse
    )]
    server: ServerUrl,
    /// File with an API token in one line, mode 600; without it the variable FILEPULL_TOKEN.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file with a root certificate that is trusted beside the roots of the system, for an HTTPS server with
    /// a private certificate.
    #[arg(long, env = "FILEPULL_CA", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Print JSON; an error is one problem object on standard error.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The end of the help of every operator's command.
pub(crate) const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 another failure; 2 wrong usage; 3 signed out or not allowed; 4 no such client, \
file or transfer; 5 the client is offline or pending; 7 the server cannot do it now; 9 the server \
cannot be reached.";

/// How long the server may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long the server may take to answer. Ten thousand invites take a few seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// What to do without a token; the server's own text is for curl.
const NO_TOKEN: &str = "Set FILEPULL_TOKEN, or name the file of a token with --token-file. To make one, on the \
                        server: filepull token create NAME --role admin";

/// Sends requests to one server.
#[derive(Debug)]
pub(crate) struct ApiClient {
    server: ServerUrl,
    token: Option<ApiToken>,
    http: reqwest::Client,
}

/// Runs an operator's command with a client of the API. Prints its error, and returns its exit code.
pub(crate) async fn run(
    args: &ApiArgs,
    command: impl AsyncFnOnce(&ApiClient) -> Result<(), CommandError>,
) -> anyhow::Result<ExitCode> {
    let result = match ApiClient::new(args) {
        Ok(client) => command(&client).await,
        Err(error) => Err(error),
    };
    let Err(error) = result else { return Ok(ExitCode::SUCCESS) };
    if args.json {
        print_note(&serde_json::to_string_pretty(&error.to_json())?);
    } else {
        print_note(&format!("filepull: {error}"));
    }
    Ok(ExitCode::from(error.exit_code()))
}

impl ApiClient {
    fn new(args: &ApiArgs) -> Result<Self, CommandError> {
        let server = args.server.clone();
        let token = ApiToken::read(args.token_file.as_deref())?;
        if token.is_some() && server.is_readable_on_the_way() {
            print_note(&format!(
                "warning: the token travels unencrypted to {server}. Use https://, or an SSH tunnel to \
                 the server's loopback address."
            ));
        }
        let tls = match server.is_https() {
            true => trust::client_config(args.ca_file.as_deref())?,
            false => trust::unused_config()?,
        };
        let http = reqwest::Client::builder()
            .user_agent(format!("filepull/{VERSION}"))
            .connect_timeout(CONNECT_LIMIT)
            .timeout(ANSWER_LIMIT)
            // A redirect would send a command to an address that the operator did not name.
            .redirect(redirect::Policy::none())
            .tls_backend_preconfigured(tls)
            .build()
            .context("preparing the connection")?;
        Ok(Self { server, token, http })
    }

    /// Returns the resource at `path`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CommandError> {
        parsed(&self.send(self.request(Method::GET, path)?).await?)
    }

    /// Sends `body` to `path`. Returns the answer.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, CommandError> {
        parsed(&self.send(self.request(Method::POST, path)?.json(body)).await?)
    }

    /// Deletes the resource at `path`.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), CommandError> {
        self.send(self.request(Method::DELETE, path)?).await.map(drop)
    }

    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, CommandError> {
        let url = self.server.join(path);
        let request = self.http.request(method, url).header(ACCEPT, "application/json");
        let Some(token) = &self.token else { return Ok(request) };
        let header = HeaderValue::from_str(&token.to_header());
        let mut value = header.context("the token is not a valid header")?;
        value.set_sensitive(true);
        Ok(request.header(AUTHORIZATION, value))
    }

    /// Sends a request. Returns the body of a successful answer.
    async fn send(&self, request: RequestBuilder) -> Result<Vec<u8>, CommandError> {
        let no_answer = |error| CommandError::no_answer(&self.server, &error);
        let response = request.send().await.map_err(no_answer)?;
        let status = response.status();
        let body = response.bytes().await.map_err(no_answer)?;
        if status.is_success() {
            return Ok(body.into());
        }
        let problem = ServerProblem::new(status.as_u16(), &body);
        Err(CommandError::Problem(match self.token {
            None if status == StatusCode::UNAUTHORIZED => problem.next(NO_TOKEN),
            _ => problem,
        }))
    }
}

/// Parses an answer. An empty one is `null`, for commands that return nothing.
fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, CommandError> {
    let body = if body.is_empty() { b"null" } else { body };
    let answer = serde_json::from_slice(body);
    let explained = answer.context(
        "the server's answer cannot be understood: is FILEPULL_SERVER a filepull server of this version?",
    );
    explained.map_err(CommandError::Other)
}
