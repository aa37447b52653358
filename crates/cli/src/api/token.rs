//! The API token of an operator's command: from a file or from the environment, never from the
//! command line, which every user of the machine can read.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use filepull_process::environment;

use crate::api::error::CommandError;
use crate::output::print_note;

/// The variable with the token.
const VARIABLE: &str = "FILEPULL_TOKEN";

/// A token. It is never printed, and has no `Display`.
#[derive(Clone)]
pub(crate) struct ApiToken(String);

impl ApiToken {
    /// Reads the token: from `file` if there is one, else from `FILEPULL_TOKEN`. No token is not an
    /// error, because a server on loopback may need none.
    pub(crate) fn read(file: Option<&Path>) -> Result<Option<Self>, CommandError> {
        match file {
            Some(file) => Self::of_file(file).map(Some),
            None => {
                let text = environment::secret(VARIABLE).map_err(CommandError::usage)?;
                text.map(|text| Self::parse(&text, VARIABLE)).transpose()
            }
        }
    }

    fn of_file(path: &Path) -> Result<Self, CommandError> {
        let named = path.display().to_string();
        let failed =
            |error| CommandError::usage(format!("reading the token file {named}: {error}"));
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 && !named.starts_with("/dev/") {
            print_note(&format!(
                "warning: other users may read the token in {named}: chmod 600 {named}"
            ));
        }
        let mut text = String::new();
        file.take(MAX_LEN + 1).read_to_string(&mut text).map_err(failed)?;
        Self::parse(&text, &named)
    }

    fn parse(text: &str, source: &str) -> Result<Self, CommandError> {
        let token = text.trim();
        let flaw = if token.is_empty() {
            "it is empty"
        } else if MAX_LEN < token.len() as u64 {
            "it is too long"
        } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            "it contains a space, a line break or a letter that no token has"
        } else {
            return Ok(Self(token.to_owned()));
        };
        Err(CommandError::usage(format!(
            "{source} does not hold an API token: {flaw}. It must hold one line, as `filepull \
             token create` prints it"
        )))
    }

    /// Returns the value of the `Authorization` header.
    pub(crate) fn to_header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// No token is longer, so that a wrong file is not read whole.
const MAX_LEN: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<Option<ApiToken>, CommandError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ops.token");
        std::fs::write(&file, content).unwrap();
        ApiToken::read(Some(&file))
    }

    #[test]
    fn the_line_of_the_file_is_the_token() {
        let token = read("fp_secret\n").unwrap().unwrap();
        assert_eq!(token.to_header(), "Bearer fp_secret");
        assert_eq!(format!("{token:?}"), "***");
    }

    #[test]
    fn a_file_without_a_token_is_rejected_and_not_shown() {
        for content in ["", "\n", "two words", "one\ntwo", "fp_\u{e9}", &"long".repeat(2000)] {
            let error = read(content).unwrap_err().to_string();
            assert!(error.contains("ops.token does not hold an API token"), "{error}");
            assert!(content.trim().is_empty() || !error.contains(content.trim()), "{error}");
        }
        let error = ApiToken::read(Some(Path::new("/nonexistent/ops.token"))).unwrap_err();
        assert!(error.to_string().contains("reading the token file /nonexistent"), "{error}");
    }
}
