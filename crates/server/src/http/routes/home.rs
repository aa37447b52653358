//! The start page, which lists the commands, and `/robots.txt`.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::server_info;
use crate::http::App;
use crate::http::request::caller::{Caller, Format};
use crate::http::request::params::NoParams;
use crate::http::response::{self, text};

/// Handles `/`: totals, and commands to paste.
pub(crate) async fn commands_page(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    _: NoParams,
) -> Response {
    if caller.format == Format::Json {
        return server_info::respond(&app, &caller).await;
    }
    let clients = app.clients.within(caller.scope());
    let known = clients.example().await;
    let example = known.map_or("client1".to_owned(), |id| id.to_string());
    let counts = clients.counts().await;
    let running = app.transfers.counts(caller.scope()).await.running;
    let head = format!(
        "filepull {}: {} online, {} offline, {} running",
        app.about.version,
        text::count(counts.online, "client", "clients"),
        counts.offline(),
        text::count(running, "transfer", "transfers"),
    );
    response::plain_text(StatusCode::OK, format!("{head}\n\n{}", commands(&caller.host, &example)))
}

fn commands(host: &str, client: &str) -> String {
    format!(
        "pull a file     curl \"{host}/trigger?id={client}\"
  and wait      curl \"{host}/trigger?id={client}&wait\"
  another file  curl \"{host}/trigger?id={client}&path=logs/pos.log\"
see clients     curl {host}/clients
see transfers   curl {host}/transfers
get the file    curl -OJ {host}/clients/{client}/file
cancel          curl -X POST {host}/clients/{client}/cancel
JSON            the same under /api/v1
"
    )
}

/// Handles `/robots.txt`: excludes all robots, because a GET of `/trigger` starts a transfer.
pub(crate) async fn robots(_: NoParams) -> Response {
    response::plain_text(StatusCode::OK, "User-agent: *\nDisallow: /\n".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_names_the_host_of_the_request() {
        let text = commands("pull:8080", "client2");
        assert!(text.starts_with("pull a file     curl \"pull:8080/trigger?id=client2\"\n"));
        assert_eq!(text.matches("curl").count(), text.matches("pull:8080/").count());
    }
}
