//! `filepull-agent invite show`: what an invite contains, except for its secret.

use std::fmt::Write as _;

use chrono::SecondsFormat;
use filepull_core::invite::{Invite, InviteError, Invitee};

/// Returns the content of an invite as lines of text.
///
/// # Errors
/// The text is no invite, says what is wrong with it, and what to do next.
pub(crate) fn invite_text(text: &str) -> Result<String, String> {
    let invite = Invite::parse(text).map_err(explain)?;
    let mut shown = String::new();
    let addresses: Vec<String> = invite.addresses().iter().map(ToString::to_string).collect();
    let _ = match invite.invitee() {
        Invitee::Client(client) => writeln!(shown, "client   {client}"),
        Invitee::Group(group) => {
            writeln!(
                shown,
                "group    {group}: each machine has its own id, from CLIENT_ID or its host name"
            )
        }
    };
    let _ = writeln!(shown, "server   {}", addresses.join(", "));
    let _ = match invite.ca_pins() {
        [] => writeln!(shown, "trust    a publicly trusted certificate; the clock must be right"),
        _ => writeln!(shown, "trust    only these keys; the clock decides nothing"),
    };
    for pin in invite.ca_pins() {
        let _ = writeln!(shown, "         {pin}");
    }
    let _ = writeln!(
        shown,
        "expires  {}",
        invite.expires_at().to_rfc3339_opts(SecondsFormat::Secs, true)
    );
    let _ = writeln!(shown, "secret   not shown; the server accepts it once for each machine");
    Ok(shown)
}

fn explain(error: InviteError) -> String {
    format!("{error}; {}", error.next_step())
}
