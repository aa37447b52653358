//! What a command prints.

use std::io::{self, Write as _};

use anyhow::Context as _;

/// Prints the result of a command on standard output.
///
/// A closed pipe (`| head`) is not an error: the exit code still reports the outcome.
///
/// # Errors
/// The output cannot be written: the result is lost.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        _ => Ok(()),
    }
}

/// Prints progress, such as the address of a listener. Ignores errors: the command continues
/// without a reader.
pub(crate) fn say(text: &str) {
    let _ = print(text);
}

/// Prints an error to standard error.
pub(crate) fn say_error(error: &anyhow::Error) {
    let _ = writeln!(io::stderr(), "filepull: {error:#}");
}
