//! Decides at the start whether callers must sign in, and refuses to start if no caller could.

use std::net::SocketAddr;
use std::path::Path;

use chrono::Utc;
use tracing::warn;

use super::keeper::{self, TokensKeeper, warn_readable};
use crate::config::{AccessConfig, ConfigError, is_exposed};
use crate::data_folder::absolute;

/// Reads the tokens if callers must sign in. Returns none if every caller may do everything.
///
/// # Errors
/// Callers must sign in, and the file of tokens is missing, empty or wrong.
pub(crate) async fn open(
    config: &AccessConfig,
    http_addr: SocketAddr,
) -> Result<Option<TokensKeeper>, ConfigError> {
    if !config.needs_sign_in(http_addr) {
        if is_exposed(http_addr.ip()) {
            warn!(
                event = "config.warning",
                key = "HTTP_AUTH",
                %http_addr,
                "no sign-in: every host that reaches this address may pull files"
            );
        }
        return Ok(None);
    }
    let path = &config.tokens_file;
    let opened = keeper::open(path.clone()).await;
    let read = opened.map_err(|error| ConfigError(vec![error.to_string()]))?;
    let Some(file) = read.filter(|file| !file.table.is_empty()) else {
        return Err(ConfigError(vec![no_token(http_addr, path)]));
    };
    if file.is_readable_by_others {
        warn_readable(&path.display().to_string());
    }
    if file.table.is_expired(Utc::now()) {
        warn!(
            event = "config.warning",
            key = "TOKENS_FILE",
            "every token has expired, so no caller can sign in; make one: filepull token create NAME"
        );
    }
    Ok(Some(TokensKeeper::new(path.clone(), file)))
}

fn no_token(http_addr: SocketAddr, path: &Path) -> String {
    let reason = if is_exposed(http_addr.ip()) { "accepts other machines" } else { "needs tokens" };
    format!(
        "HTTP_ADDR={http_addr} {reason}, and there is no API token in {}. Make one with `filepull \
         token create NAME --role admin` (with the same DATA_DIR or TOKENS_FILE), or set \
         HTTP_AUTH=none to allow every caller.",
        absolute(path).display()
    )
}
