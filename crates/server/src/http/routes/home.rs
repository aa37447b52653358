//! The first page, which teaches the others, and a word to robots.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::server_info;
use crate::http::App;
use crate::http::request::caller::{Caller, Format};
use crate::http::request::params::NoParams;
use crate::http::response::{self, text};

/// `/`: what can be done here, as commands to paste.
pub(crate) async fn cheat_sheet(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    _: NoParams,
) -> Response {
    if caller.format == Format::Json {
        return server_info::answer(&app, &caller).await;
    }
    let example = app.clients.example().await;
    let example = example.map_or("client1".to_owned(), |id| id.to_string());
    let counts = app.clients.counts().await;
    let running = app.transfers.counts().running;
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

/// `/robots.txt`: nothing here is for search engines, and `/trigger` least of all.
pub(crate) async fn robots(_: NoParams) -> Response {
    response::plain_text(StatusCode::OK, "User-agent: *\nDisallow: /\n".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_names_the_host_that_was_asked() {
        let sheet = commands("pull:8080", "client2");
        assert!(sheet.starts_with("pull a file     curl \"pull:8080/trigger?id=client2\"\n"));
        assert_eq!(sheet.matches("curl").count(), sheet.matches("pull:8080/").count());
    }
}
