//! What a command prints.

use std::io::{self, Write as _};

use anyhow::Context as _;

/// Prints the result of a command on standard output.
///
/// A reader that has gone (`| head`) is no error: the exit code still says how it went.
///
/// # Errors
/// It could not be written: the result is lost.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        _ => Ok(()),
    }
}

/// Prints a word beside the work, such as where a server listens. The work goes on without readers.
pub(crate) fn say(text: &str) {
    let _ = print(text);
}

/// Talk goes to standard error.
pub(crate) fn say_error(error: &anyhow::Error) {
    let _ = writeln!(io::stderr(), "filepull: {error:#}");
}
